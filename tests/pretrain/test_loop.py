"""Whole runs: what they leave behind, that a kill changes nothing of it, and that hardware does not either."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dataeff.families.gpt import Gpt
from dataeff.files import MANIFEST, check_manifest, read_json
from dataeff.plan import TrainingPlan
from dataeff.pretrain.owner import owned
from dataeff.pretrain.probe import probe_measures
from dataeff.tokens.vocabulary import load
from tests.pretrain.training import CHECKPOINT_EVERY, Material, Training, study_of

IDENTICAL = ("metrics.jsonl", "model.safetensors", "run.json", "config.json")
VARIANTS = ("baseline", "composed")
FROM_THE_PLAN = {
    "learning_rate": "learning_rate",
    "sequence_length": "sequence_length",
    "kept_tokens": "kept_tokens",
    "raw_tokens": "cumulative_raw_tokens",
    "effective_tokens": "cumulative_effective_tokens",
}


def content(run: Training, name: str) -> bytes:
    """A file of a finished run, less the commit: the checkout may change while the tests run."""
    return re.sub(rb'"commit": .*', b"", (run.out / name).read_bytes())


def assert_identical(found: Training, expected: Training) -> None:
    for name in IDENTICAL:
        assert content(found, name) == content(expected, name), f"{name}\n{found.log}"
    assert not found.state.exists()


def assert_close(found: Training, expected: Training, exactly: tuple[str, ...] = ()) -> None:
    """The same samples, tokens and rates, and losses and gradients equal but for the order of additions."""
    assert np.abs(found.losses - expected.losses).max() < 1e-5
    for here, there in zip(found.metrics, expected.metrics, strict=True):
        assert here["gradient_norm"] == pytest.approx(there["gradient_norm"], rel=1e-4)
        for exact in (*FROM_THE_PLAN, "step", *exactly):
            assert here[exact] == there[exact]
        for name in here.keys() - {*FROM_THE_PLAN, "step", "gradient_norm"}:
            assert here[name] == pytest.approx(there[name], abs=1e-5)


# --- what a run leaves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_folder_opens_with_the_library(material: Material, undisturbed: dict[str, Training], variant: str) -> None:
    """The weights and the tokenizer in it give the held-out loss that the run wrote down."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = undisturbed[variant].out
    assert check_manifest(out) is None
    model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.use_cache
    torch.set_num_threads(1)
    family = Gpt(load(out))
    measures = probe_measures(model, family, family.probe_batch(material.data / "heldout", 64), 8, "cpu")
    assert measures["loss"] == pytest.approx(read_json(out / "run.json")["heldout_loss"], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("ba ke ti.")["input_ids"]) == "ba ke ti."


@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_are_the_plan_s_and_the_loss_falls(
    material: Material, undisturbed: dict[str, Training], variant: str
) -> None:
    run = undisturbed[variant]
    steps = TrainingPlan.load(material.scale / "plan" / run.name).steps
    assert [row["step"] for row in run.metrics] == list(range(1, len(steps) + 1))
    for name, column in FROM_THE_PLAN.items():
        assert [row[name] for row in run.metrics] == steps[column].tolist()
    assert abs(run.losses[0] - np.log(384)) < 0.1  # nothing learned: one of 384 tokens
    assert run.losses[-1] < run.losses[0] - 1
    assert [row["step"] for row in run.metrics if "heldout_loss" in row][-1] == len(steps)
    assert sum("heldout_loss" in row for row in run.metrics) == 2


def test_run_json_says_what_was_made_from_what(material: Material, undisturbed: dict[str, Training]) -> None:
    run = undisturbed["composed"]
    facts, plan = read_json(run.out / "run.json"), read_json(material.scale / f"plan/{run.name}/plan.json")
    assert facts["name"] == run.name
    assert facts["plan_digest"] == plan["digest"]
    assert facts["steps"] == plan["steps"] == len(run.metrics)
    assert facts["raw_tokens"] == plan["raw_tokens"]
    assert facts["final_training_loss"] == run.losses[-1]  # 5% of 20 steps
    assert {"torch", "deepspeed", "python"} <= set(facts["software"])
    timings = read_json(run.out / "timings.json")
    assert timings["training_seconds"] > 0
    assert timings["steps_per_second"] == pytest.approx(len(run.metrics) / timings["training_seconds"], rel=0.01)


def test_a_finished_run_started_again_returns_at_once(undisturbed: dict[str, Training]) -> None:
    run = undisturbed["baseline"]
    before = {path: path.stat().st_mtime_ns for path in run.out.iterdir()}
    run.finish()
    assert run.log.rstrip().endswith(f"{run.name}: finished already with this spec and plan")
    assert before == {path: path.stat().st_mtime_ns for path in run.out.iterdir()}
    assert not run.state.exists()
    assert not run.state.with_name("state.owner").exists()


# --- interruptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_killed_three_times_a_run_ends_identically(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path, variant: str
) -> None:
    """Before any checkpoint, at the row before one is written (so in the middle of it, often), and between two."""
    run = material.training(variant, tmp_path)
    for rows in (2, 2 * CHECKPOINT_EVERY, 11):
        run.kill_after(rows)
    assert_identical(run.finish(), undisturbed[variant])
    assert "continues after step" in run.log


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["baseline", "cl_seqres", "ltd", "composed"])
def test_killed_at_random_steps_a_run_ends_identically(material: Material, tmp_path: Path, variant: str) -> None:
    expected = material.training(variant, tmp_path / "undisturbed").finish()
    run = material.training(variant, tmp_path / "killed")
    for rows in sorted(np.random.default_rng().choice(np.arange(1, 15), size=4, replace=False)):
        run.kill_after(int(rows))
    assert_identical(run.finish(), expected)


def _flip(folder: Path) -> None:
    file = max(folder.rglob("*.pt"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _tear(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


@pytest.mark.parametrize("damage", [_flip, _tear])
def test_a_damaged_checkpoint_is_passed_over(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path, damage: object
) -> None:
    run = material.training("composed", tmp_path)
    run.kill_after(11)
    assert run.checkpoints == [9, 6]
    damage(run.state / "step-00000009")  # type: ignore[operator]
    assert_identical(run.finish(), undisturbed["composed"])
    assert f"checkpoint passed over: {run.state}/step-00000009" in run.log
    assert f"continues after step 6 from {run.state}/step-00000006" in run.log


def test_checkpoints_for_good_stay_and_a_run_made_again_starts_at_them(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = material.training("composed", tmp_path, keep_every=5, keep_last=1).finish()
    assert run.checkpoints == [15, 10, 5]
    for name in IDENTICAL:
        assert content(run, name) == content(undisturbed["composed"], name)
    shutil.rmtree(run.out)
    again = material.training("composed", tmp_path)
    assert_identical(again.finish(), undisturbed["composed"])
    assert "continues after step 15 from" in again.log


def test_of_several_ranks_one_passes_over_a_damaged_checkpoint(
    material: Material, two_ranks: Training, tmp_path: Path
) -> None:
    run = material.training("composed", tmp_path)
    ranks = run.start_ranks(2)
    ranks.wait_for_rows(11)
    ranks.kill()
    assert run.checkpoints == [9, 6]
    _flip(run.state / "step-00000009")
    assert_identical(run.finish_ranks(2), two_ranks)
    assert run.log.count(f"checkpoint passed over: {run.state}/step-00000009") == 1
    assert run.log.count("continues after step 6") == 1


def test_ranks_wait_together_for_another_owner(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    """For longer than they would wait for each other."""
    run = material.training("composed", tmp_path, timeout_seconds=1)
    with owned(run.state.with_name("state.owner")):
        ranks = run.start_ranks(2)
        run.wait_for(ranks.processes[0], lambda: (run.place / "log").exists() and "in use by host" in run.log)
        time.sleep(3)
        assert all(process.is_alive() for process in ranks.processes)
    assert ranks.ends() == [0, 0], run.log
    assert_identical(run, two_ranks)


def test_a_checkpoint_of_another_spec_is_not_used(
    material: Material, still: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    """Nor is a finished folder of another spec taken for this one's."""
    other = still.training("baseline", tmp_path)
    other.kill_after(8)
    run = material.training("baseline", tmp_path)
    assert_identical(run.finish(), undisturbed["baseline"])
    assert f"checkpoint passed over: {run.state}/step-00000006 belongs to another spec_digest" in run.log
    assert "continues after" not in run.log
    still.training("baseline", tmp_path).finish()
    assert (run.out / "metrics.jsonl").read_bytes() != (undisturbed["baseline"].out / "metrics.jsonl").read_bytes()


def test_a_damaged_finished_run_is_made_again(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = material.training("baseline", tmp_path).finish()
    _weights = run.out / "model.safetensors"
    _weights.write_bytes(_weights.read_bytes()[:-1])
    assert_identical(run.finish(), undisturbed["baseline"])


def test_of_two_processes_one_trains_and_the_other_waits(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = material.training("baseline", tmp_path)
    processes = [run.start(), run.start()]
    for process in processes:
        process.join()
        assert process.exitcode == 0, run.log
    assert_identical(run, undisturbed["baseline"])
    assert run.log.count("in use by host") == 1
    assert run.log.count("finished already") == 1


def test_a_loss_that_is_no_number_ends_the_run(material: Material, tmp_path: Path) -> None:
    wild = Material(material.folder, study_of(material.folder, "wild", peak=1e30))
    wild.make_plans()
    run = wild.training("baseline", tmp_path)
    said = run.fail().splitlines()[-1]
    assert said.startswith(f"dataeff: error: {run.name}: loss nan and gradient norm nan at step ")
    assert "lower learning_rate.peak or lengthen warmup_tokens" in said
    assert "Traceback" not in run.log
    assert not run.out.exists()


# --- hardware ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hardware", [{"micro_batch": 2}, {"micro_batch": 3}, {"zero_stage": 1}])
def test_hardware_changes_nothing_but_the_order_of_additions(
    still: Material, one_process: Training, tmp_path: Path, hardware: dict[str, int]
) -> None:
    assert_close(still.training("composed", tmp_path, **hardware).finish(), one_process)


def test_two_processes_train_as_one(still: Material, one_process: Training, tmp_path: Path) -> None:
    run = still.training("composed", tmp_path, processes=2).finish_with_torchrun()
    assert_close(run, one_process)
    assert read_json(run.out / "timings.json")["world_size"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2])
def test_every_zero_stage_trains_the_same(
    still: Material, one_process: Training, tmp_path: Path, zero_stage: int, processes: int
) -> None:
    run = still.training("composed", tmp_path, zero_stage=zero_stage, processes=processes, micro_batch=3)
    assert_close(run.finish_with_torchrun(), one_process)


@pytest.mark.slow
def test_reshaped_rows_on_two_processes(still: Material, tmp_path: Path) -> None:
    """The number of rows changes from step to step and is odd at times on a rank."""
    expected = still.training("cl_seqres", tmp_path / "one").finish()
    run = still.training("cl_seqres", tmp_path / "two", processes=2, micro_batch=3)
    assert_close(run.finish_with_torchrun(), expected)


@pytest.mark.slow
def test_a_killed_torchrun_is_continued(still: Material, tmp_path: Path) -> None:
    """Its ranks may outlive it: the second start waits for their lock, then continues or finds the run finished."""
    expected = still.training("composed", tmp_path / "whole", processes=2).finish_with_torchrun()
    run = still.training("composed", tmp_path / "killed", processes=2)
    run.place.mkdir()
    command = [sys.executable, "-m", "dataeff", *run.arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    with (run.place / "first_log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    metrics = run.state / "metrics.jsonl"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 5):
        assert process.poll() is None, (run.place / "first_log").read_text()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_identical(run.finish_with_torchrun(), expected)


def test_metrics_hold_only_numbers(undisturbed: dict[str, Training]) -> None:
    """Readers of any language can parse every line: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for run in undisturbed.values():
        for line in (run.out / "metrics.jsonl").read_text().splitlines():
            row = json.loads(line, parse_constant=refuse)
            assert all(isinstance(value, int | float) for value in row.values())
