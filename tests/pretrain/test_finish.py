"""What is known of a finished run: its facts, and the account of its time."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from dataeff.files import read_json, write_json
from dataeff.plan import TrainingPlan
from dataeff.pretrain.finish import Averaged, Finished
from dataeff.pretrain.meter import PeakMemory
from dataeff.pretrain.timing import PARTS, Account, Beside, StepTimes, row_of
from dataeff.pretrain.utilisation import Device, Utilisation
from dataeff.study.load import validate
from dataeff.study.specs import PretrainSpec, read_spec
from dataeff.tables.results import Timings
from tests.pretrain.training import Material, Training

NAME = "gpt-composed-100-s1234"
READ_ELSEWHERE = ("training_seconds", "raw_tokens_per_second", "peak_memory_bytes", "heldout_seconds")


@pytest.fixture
def finished(material: Material) -> Finished:
    """After steps of half a second, with two seconds of start-up."""
    spec = read_spec(material.scale / f"specs/pretrain/{NAME}.yaml", PretrainSpec)
    plan, account = TrainingPlan.load(material.scale / "plan" / NAME), Account()
    metrics = []
    for step, row in enumerate(plan.steps.to_dict("records"), start=1):
        times = StepTimes(0.5, {**dict.fromkeys(PARTS, 0.0), "data": 0.125, "forward": 0.375})
        account.add(row_of(step, times, {"startup": 2.0} if step == 1 else {"heldout": 0.25}))
        tokens = {name: int(row[f"cumulative_{name}"]) for name in ("raw_tokens", "effective_tokens")}
        metrics.append({"step": step, "loss": 4.0 - step / 8, "heldout_loss": 3.0, **tokens})
    return Finished(
        spec=spec,
        plan=plan,
        identity={"spec_digest": spec.digest, "plan_digest": plan.digest},
        parameters=1000,
        metrics=metrics,
        metrics_file=Path("metrics.jsonl"),
        account=account,
        beside=Beside(),
        utilisation=Utilisation.of_run(spec, plan.steps, 384, Device("cpu", None, "why"), 1, recompute=False),
        peak=PeakMemory(123, None, None),
        world_size=1,
        threads=1,
        micro_batch=8,
    )


def test_the_whole_run_is_accounted_for(finished: Finished) -> None:
    steps = len(finished.metrics)
    time.sleep(0.05)  # the export
    facts = finished.times()
    assert facts["training_seconds"] == 0.5 * steps
    assert facts["steps_per_second"] == 2
    assert facts["raw_tokens_per_second"] == round(finished.plan.facts["raw_tokens"] / (0.5 * steps), 1)
    assert facts["effective_tokens_per_second"] == round(finished.plan.facts["effective_tokens"] / (0.5 * steps), 1)
    assert facts["startup_seconds"] == 2
    assert facts["heldout_seconds"] == 0.25 * (steps - 1)
    assert facts["peak_memory_bytes"] == 123
    assert facts["peak_cuda_allocated_bytes"] is facts["peak_cuda_reserved_bytes"] is None
    assert facts["step_parts"]["data"] == {"seconds": 0.125 * steps, "share": 0.25}
    assert facts["run_parts"]["export"]["seconds"] == pytest.approx(0.05, abs=0.02)
    total = 0.5 * steps + 2 + 0.25 * (steps - 1) + facts["run_parts"]["export"]["seconds"]
    assert facts["run_seconds"] == pytest.approx(total, abs=0.002)
    assert facts["heldout_points"][:2] == [
        {"step": 1, "training_seconds": 0.5},
        {"step": 2, "training_seconds": 1.0},
    ]
    assert facts["heldout_points"][-1] == {"step": steps, "training_seconds": facts["training_seconds"]}
    assert facts["utilisation"]["mfu_unknown"] == "why"
    assert finished.account.steps == steps  # as it was


def test_readers_of_timings_find_what_they_need_in_new_and_old_ones(finished: Finished, tmp_path: Path) -> None:
    facts = finished.times()
    write_json(tmp_path / "timings.json", facts)
    assert validate(Timings, read_json(tmp_path / "timings.json"), "new").training_seconds == facts["training_seconds"]
    old = {name: facts[name] for name in READ_ELSEWHERE}
    assert validate(Timings, old, "old").peak_memory_bytes == 123


def test_facts_name_the_measures_of_the_exported_weights(finished: Finished) -> None:
    facts = finished.facts()
    assert facts["heldout_loss"] == 3.0
    assert facts["final_training_loss"] == finished.metrics[-1]["loss"]
    averaged = Averaged({"kind": "ema"}, {"heldout_loss": 2.5})
    facts = dataclasses.replace(finished, averaged=averaged).facts()
    assert facts["heldout_loss"] == 2.5
    assert facts["averaging"] == {"kind": "ema", "heldout_loss": 2.5, "heldout_loss_of_last_weights": 3.0}


def test_peak_memory_is_the_largest_of_all_ranks(two_ranks: Training) -> None:
    facts = read_json(two_ranks.out / "timings.json")
    assert facts["world_size"] == 2
    assert 50_000_000 < facts["peak_memory_bytes"] < 100_000_000_000
    assert facts["peak_cuda_allocated_bytes"] is None
