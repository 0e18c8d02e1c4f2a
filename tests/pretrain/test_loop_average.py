"""Whole runs that export an average: it is that of the states of the same run, after any kill and at any ZeRO stage."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dataeff.families.gpt import Gpt
from dataeff.files import MANIFEST, read_json, write_manifest
from dataeff.pretrain.average import averaged_steps
from dataeff.pretrain.probe import probe_measures
from dataeff.pretrain.universal import Layout
from dataeff.study.specs import PretrainSpec, read_spec, write_spec
from dataeff.study.types import Averaging, Hardware
from dataeff.tokens.vocabulary import load
from tests.pretrain.test_loop import assert_identical
from tests.pretrain.training import Material, Training, _server

VARIANT = "composed"
AVERAGINGS = {
    "last": Averaging(kind="last", over=Fraction(1, 2), count=4),
    "ema": Averaging(kind="ema", over=Fraction(1, 4)),
}
KINDS = tuple(AVERAGINGS)
States = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class AveragedTraining(Training):
    """A run of the material's variant whose spec differs in what it exports, and in its precision where one is given:
    its states are those of the variant's own run.
    """

    averaging: Averaging | None = None
    precision: str | None = None

    @property
    def arguments(self) -> list[str]:
        words = super().arguments
        place = words.index("--spec") + 1
        spec = read_spec(Path(words[place]), PretrainSpec)
        changes = {"averaging": self.averaging, "precision": self.precision or spec.precision}
        own = self.place / "spec.yaml"
        write_spec(own, spec.model_copy(update=changes))
        return [*words[:place], str(own), *words[place + 1 :]]

    def start(self) -> Any:
        self.place.mkdir(parents=True, exist_ok=True)
        return super().start()


def averaged(
    material: Material, place: Path, averaging: Averaging | None, precision: str | None = None, **hardware: int
) -> AveragedTraining:
    run = material.training(VARIANT, place, **hardware)
    return AveragedTraining(
        run.material, run.family, run.name, place, run.hardware, averaging=averaging, precision=precision
    )


def _keep_states(arguments: list[str], folder: Path) -> None:
    """Trains as the arguments say, step by step, and keeps the weights after each."""
    from dataeff.plan import TrainingPlan
    from dataeff.pretrain.engine import start_ranks
    from dataeff.pretrain.loop import Inputs, Trainer

    at = {name: Path(arguments[arguments.index(f"--{name}") + 1]) for name in ("spec", "plan", "samples", "tokenizer")}
    heldout = Path(arguments[arguments.index("--heldout") + 1])
    tokens = [Path(word) for word in arguments[arguments.index("--tokens") + 1 :]]
    hardware, spec, plan = Hardware(), read_spec(at["spec"], PretrainSpec), TrainingPlan.load(at["plan"])
    ranks = start_ranks(hardware)
    inputs = Inputs(at["plan"], at["samples"], tokens, at["tokenizer"], heldout)
    trainer = Trainer(spec, inputs, plan, folder, hardware, ranks, {})
    folder.mkdir()
    for step, ids in enumerate(plan.order.iterate(0)):
        trainer.step(step, ids)
        weights = {name: weight.detach().float().numpy() for name, weight in trainer.network.named_parameters()}
        np.savez(folder / f"{step + 1:02d}.npz", **weights)
    torch.distributed.destroy_process_group()


def states_of(material: Material, place: Path, precision: str | None = None) -> States:
    """The weights after each step of a run without averaging."""
    run = averaged(material, place, None, precision)
    run.place.mkdir(parents=True)
    process = _server().Process(target=_keep_states, args=(run.arguments, place / "states"))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = []
    for path in sorted((place / "states").iterdir()):
        with np.load(path) as archive:
            found.append(dict(archive))
    return found


def direct_average(states: States, averaging: Averaging, nominal: int) -> dict[str, np.ndarray]:
    """In float64, state by state, each with its weight."""
    if averaging.kind == "last":
        steps = averaged_steps(len(states), averaging)
        weights = np.isin(np.arange(1, len(states) + 1), steps).astype(float)
    else:
        weights = (1 - 1 / float(averaging.over * nominal)) ** np.arange(len(states))[::-1]
    weights /= weights.sum()
    return {
        name: sum(weight * state[name].astype(np.float64) for weight, state in zip(weights, states, strict=True))
        for name in states[0]
    }


def exported(run: Training) -> dict[str, torch.Tensor]:
    return load_file(run.out / "model.safetensors")


def nominal_steps(run: Training) -> int:
    return int(read_json(run.material.scale / f"plan/{run.name}/plan.json")["nominal_steps"])


@pytest.fixture(scope="module")
def states(still: Material, tmp_path_factory: pytest.TempPathFactory) -> States:
    return states_of(still, tmp_path_factory.mktemp("states") / "run")


@pytest.fixture(scope="module")
def plain(still: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The run without averaging."""
    return averaged(still, tmp_path_factory.mktemp("plain"), None).finish()


@pytest.fixture(scope="module")
def undisturbed(still: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """One process, no ZeRO."""
    folder = tmp_path_factory.mktemp("averaged")
    return {kind: averaged(still, folder / kind, AVERAGINGS[kind]).finish() for kind in KINDS}


# --- what is exported ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_of_the_run_s_states_is_exported(
    undisturbed: dict[str, Training], states: States, kind: str
) -> None:
    run = undisturbed[kind]
    expected, found = direct_average(states, AVERAGINGS[kind], nominal_steps(run)), exported(run)
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name].numpy(), weights, rtol=1e-5, atol=1e-7)
    moved = max(np.abs(found[name].numpy() - states[-1][name]).max() for name in found)
    assert moved > 1e-3  # far from the last weights, against which a missing average would be measured


def test_without_averaging_the_last_state_is_exported(plain: Training, states: States) -> None:
    for name, weights in exported(plain).items():
        np.testing.assert_array_equal(weights.numpy(), states[-1][name])
    assert "averaging" not in read_json(plain.out / "run.json")


@pytest.mark.parametrize("kind", KINDS)
def test_run_json_tells_of_the_average_and_of_the_last_weights(
    still: Material, undisturbed: dict[str, Training], plain: Training, kind: str
) -> None:
    """All else is as in the run without averaging, the metrics to the byte."""
    run = undisturbed[kind]
    facts, without = read_json(run.out / "run.json"), read_json(plain.out / "run.json")
    steps = facts["steps"]
    assert (run.out / "metrics.jsonl").read_bytes() == (plain.out / "metrics.jsonl").read_bytes()
    assert list(facts) == [name for key in without for name in ([key, "averaging"] if key == "heldout_loss" else [key])]
    assert {name for name in without if facts[name] != without[name]} - {"commit"} == {"spec_digest", "heldout_loss"}
    found = averaged_steps(steps, AVERAGINGS[kind])
    assert facts["averaging"] == {
        "kind": kind,
        "states": len(found),
        "first_step": found[0],
        "last_step": steps,
        "heldout_loss": facts["heldout_loss"],
        "heldout_loss_of_last_weights": without["heldout_loss"],
    }
    torch.set_num_threads(1)
    model, family = AutoModelForCausalLM.from_pretrained(run.out), Gpt(load(run.out))
    measures = probe_measures(model, family, family.probe_batch(still.data / "heldout", 64), 8, "cpu")
    assert measures["loss"] == pytest.approx(facts["heldout_loss"], abs=1e-5)


@pytest.mark.slow
def test_bfloat16_weights_are_averaged_in_float32_and_exported_in_their_own(still: Material, tmp_path: Path) -> None:
    run = averaged(still, tmp_path / "run", AVERAGINGS["last"], "bf16").finish()
    expected = direct_average(states_of(still, tmp_path / "states", "bf16"), AVERAGINGS["last"], nominal_steps(run))
    for name, weights in exported(run).items():
        assert weights.dtype == torch.bfloat16
        # The nearest number of 8 binary digits, so off by at most half of the last.
        np.testing.assert_allclose(weights.float().numpy(), expected[name], rtol=2**-8, atol=1e-9)


def test_a_run_too_short_for_its_average_is_refused(still: Material, tmp_path: Path) -> None:
    run = averaged(still, tmp_path, Averaging(kind="last", over=Fraction(1, 4), count=100))
    said = run.fail().splitlines()[-1]
    assert said.startswith(f"dataeff: error: {run.name}: averaging: count is 100, but the last 1/4 of ")
    assert not run.out.exists()


# --- interruptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "rows"), [pytest.param("last", [8, 17], marks=pytest.mark.slow), ("ema", [11])])
def test_killed_a_run_exports_the_same_average(
    still: Material, undisturbed: dict[str, Training], tmp_path: Path, kind: str, rows: list[int]
) -> None:
    """`last`: before its first state, and between two."""
    run = averaged(still, tmp_path, AVERAGINGS[kind])
    for number in rows:
        run.kill_after(number)
    assert run.checkpoints
    assert all((run.state / f"step-{step:08d}/average.pt").is_file() for step in run.checkpoints)
    assert_identical(run.finish(), undisturbed[kind])
    assert "continues after step" in run.log


def test_a_checkpoint_without_its_average_is_passed_over(
    still: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = averaged(still, tmp_path, AVERAGINGS["ema"])
    run.kill_after(11)
    assert run.checkpoints == [9, 6]
    newest = run.state / "step-00000009"
    (newest / "average.pt").unlink()
    facts = read_json(newest / MANIFEST)
    write_manifest(newest, **{name: value for name, value in facts.items() if name != "files"})
    assert_identical(run.finish(), undisturbed["ema"])
    assert f"checkpoint passed over: {newest} lacks average.pt, which this run needs to continue" in run.log
    assert "continues after step 6 from" in run.log


# --- hardware ------------------------------------------------------------------------------------------------


def assert_same_average(run: Training, expected: Training) -> None:
    """But for the order of additions, which Adam turns into a part of a step where gradients are near zero."""
    here, there = exported(run), exported(expected)
    assert max(float((here[name] - weights).abs().max()) for name, weights in there.items()) < 1e-4
    told, expected_told = (read_json(found.out / "run.json")["averaging"] for found in (run, expected))
    assert told == {
        name: pytest.approx(value, abs=1e-5) if name.startswith("heldout") else value
        for name, value in expected_told.items()
    }


@pytest.fixture(scope="module")
def zero_3(still: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return averaged(still, tmp_path_factory.mktemp("zero_3"), AVERAGINGS["ema"], zero_stage=3).finish()


def test_zero_1_exports_the_same_average(still: Material, undisturbed: dict[str, Training], tmp_path: Path) -> None:
    assert_same_average(averaged(still, tmp_path, AVERAGINGS["last"], zero_stage=1).finish(), undisturbed["last"])


def test_zero_3_exports_the_same_average(undisturbed: dict[str, Training], zero_3: Training) -> None:
    assert_same_average(zero_3, undisturbed["ema"])


@pytest.mark.slow
def test_killed_at_zero_3_a_run_exports_the_same_average(still: Material, zero_3: Training, tmp_path: Path) -> None:
    run = averaged(still, tmp_path, AVERAGINGS["ema"], zero_stage=3)
    run.kill_after(11)
    assert (run.state / "step-00000009/average-0-of-1.pt").is_file()
    assert_identical(run.finish(), zero_3)


def test_a_damaged_part_of_two_ranks_average_is_passed_over(still: Material, zero_3: Training, tmp_path: Path) -> None:
    run = averaged(still, tmp_path, AVERAGINGS["ema"], zero_stage=3)
    ranks = run.start_ranks(2)
    ranks.wait_for_rows(11)
    ranks.kill()
    assert run.checkpoints == [9, 6]
    part = run.state / "step-00000009/average-1-of-2.pt"
    part.write_bytes(part.read_bytes()[:-1])
    assert_same_average(run.finish_ranks(2), zero_3)
    assert run.log.count(f"checkpoint passed over: {part} has ") == 1
    assert "continues after step 6 from" in run.log


@pytest.mark.parametrize(
    ("before", "after"),
    [((3, 2), (0, 1)), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in [((0, 1), (3, 2)), ((3, 4), (3, 2))])],
)
def test_other_ranks_continue_the_average(
    still: Material, undisturbed: dict[str, Training], tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """(ZeRO stage, ranks): parts of each rank are put together, what one rank has is parted."""
    begun = averaged(still, tmp_path, AVERAGINGS["ema"], zero_stage=before[0]).start_ranks(before[1])
    begun.wait_for_rows(11)
    begun.kill()
    run = averaged(still, tmp_path, AVERAGINGS["ema"], zero_stage=after[0]).finish_ranks(after[1])
    assert f", saved by {Layout(before[1], before[0])}, on {Layout(after[1], after[0])}: " in run.log
    assert "passed over" not in run.log
    assert_same_average(run, undisturbed["ema"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_processes_export_the_same_average(
    still: Material, undisturbed: dict[str, Training], tmp_path: Path, zero_stage: int, kind: str
) -> None:
    """Each with its part at ZeRO 3, rank 0 with all of it below."""
    run = averaged(still, tmp_path, AVERAGINGS[kind], zero_stage=zero_stage, processes=2)
    assert_same_average(run.finish_with_torchrun(), undisturbed[kind])
