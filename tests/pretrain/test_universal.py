"""A run that other ranks, or another ZeRO stage, began: the same weights and moments to the bit, losses to rounding."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaleConfig

from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, check_manifest, read_json, write_manifest
from dataeff.pretrain.placing import carry_loss_scale
from dataeff.pretrain.universal import Layout, conversion_bytes, convert, layout_of
from tests.pretrain.reshaping import die_while_converting, gradients_are_no_numbers_and_tell_states, tell_states
from tests.pretrain.training import Material, PreciseTraining, Training, in_precision

STAGES = (0, 1, 2, 3)
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-3}
Place = tuple[int, int]
"""(ZeRO stage, ranks)"""
PAIRS = [
    (precision, (before, 2), (after, ranks))
    for precision in TOLERANCE
    for before in STAGES
    for after in STAGES
    for ranks in (1, 4)
    if precision == "fp32" or ranks == 1 or before == after
]


@dataclass(frozen=True)
class Runs:
    """Runs of one variant without dropout, each begun once and undisturbed once, for all tests of this file."""

    still: Material
    folder: Path
    made: dict[str, Any]

    def run(self, place: Path, precision: str, stage: int, **hardware: Any) -> PreciseTraining:
        run = self.still.training("composed", place, zero_stage=stage, **hardware)
        return in_precision(run, precision)

    def undisturbed(self, precision: str, prepare: Callable[[], None] = tell_states) -> Training:
        """One rank, one pass, no ZeRO."""
        name = f"undisturbed-{precision}-{prepare.__name__}"
        if name not in self.made:
            run = self.run(self.folder / name, precision, 0, checkpoint_every=1000, max_skipped=9)
            self.made[name] = run.finish_ranks(1, prepare)
        return self.made[name]  # type: ignore[no-any-return]

    def begun(self, precision: str, before: Place, prepare: Callable[[], None] = tell_states) -> tuple[Path, int]:
        """The folder of a run that was stopped by a signal after some steps, and how many it made."""
        stage, ranks = before
        name = f"begun-{precision}-{stage}-{ranks}-{prepare.__name__}"
        if name not in self.made:
            run = self.run(self.folder / name, precision, stage, checkpoint_every=1000, max_skipped=9)
            self.made[name] = run.place, stopped(run, ranks, 11, prepare)
        return self.made[name]  # type: ignore[no-any-return]


def stopped(run: Training, ranks: int, rows: int, prepare: Callable[[], None] = tell_states) -> int:
    """Starts a run and ends it by a signal once it made that many steps; after how many it did."""
    processes = run.start_ranks(ranks, prepare)
    processes.wait_for_rows(rows)
    processes.signal(signal.SIGTERM)
    assert processes.ends() == [75] * ranks, run.log
    return run.checkpoints[0]


@pytest.fixture(scope="module")
def runs(still: Material, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(still, tmp_path_factory.mktemp("universal"), {})


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def forget_layout(checkpoint: Path) -> None:
    """As an earlier version saved it."""
    facts = read_json(checkpoint / MANIFEST)
    write_manifest(checkpoint, **{name: fact for name, fact in facts.items() if name not in ("files", "layout")})


def assert_loaded_as_saved(place: Path, step: int) -> dict[str, Any]:
    saved, loaded = torch.load(place / f"saved-{step}"), torch.load(place / f"loaded-{step}")
    assert loaded["states"].keys() == saved["states"].keys()
    for name, state in saved["states"].items():
        for key, tensor in state.items():
            assert torch.equal(loaded["states"][name][key], tensor), (name, key)
    assert loaded["states"]
    for key in ("updates", "counts", "decays"):
        assert loaded[key] == saved[key]
    return loaded  # type: ignore[no-any-return]


def assert_same_course(run: Training, whole: Training, tolerance: float) -> None:
    for mine, other in zip(run.metrics, whole.metrics, strict=True):
        assert mine.keys() == other.keys()
        for key in mine.keys() - {"loss", "gradient_norm", "heldout_loss"}:
            assert mine[key] == other[key]
    losses = np.array([run.losses, whole.losses], dtype=float)
    assert np.array_equal(*np.isnan(losses))
    assert np.nanmax(np.abs(losses[0] - losses[1])) < tolerance


def assert_continues(
    runs: Runs,
    place: Path,
    precision: str,
    before: Place,
    after: Place,
    prepare: Callable[[], None] = tell_states,
    change: Callable[[PreciseTraining, int], None] = lambda run, step: None,
    **hardware: Any,
) -> dict[str, Any]:
    """Begun in one place, finished in another. `change`: what happens between. What the engine held once it loaded."""
    folder, step = runs.begun(precision, before, prepare)
    shutil.copytree(folder, place, dirs_exist_ok=True)
    stage, ranks = after
    run = runs.run(place, precision, stage, **hardware)
    change(run, step)
    run.finish_ranks(ranks, tell_states)
    assert_told(run, step, before, after)
    assert_same_course(run, runs.undisturbed(precision, prepare), TOLERANCE[precision])
    return assert_loaded_as_saved(place, step)


def assert_told(run: Training, step: int, before: Place, after: Place) -> None:
    said = f"saved by {Layout(before[1], before[0])}, on {Layout(after[1], after[0])}"
    checkpoint = run.state / f"step-{step:08d}"
    assert f"continues after step {step} from {checkpoint}, {said}: equal to rounding, not bit for bit" in run.log


# --- whole runs ----------------------------------------------------------------------------------------------


def test_another_number_of_ranks_continues_also_after_a_killed_conversion(runs: Runs, tmp_path: Path) -> None:
    def kill(run: PreciseTraining, step: int) -> None:
        assert run.start_ranks(1, die_while_converting).ends() == [-9]
        checkpoint = run.state / f"step-{step:08d}"
        assert f"{checkpoint}: saved by 2 ranks with ZeRO 1; converting it for 1 rank with ZeRO 2, which" in run.log
        half = run.state / f".universal-{checkpoint.name}.half"
        assert list(run.state.glob(".universal-*")) == [half]
        assert bytes_below(half) > 0
        assert check_manifest(checkpoint) is None

    loaded = assert_continues(runs, tmp_path / "of (1+2) [ranks]", "fp32", (1, 2), (2, 1), change=kill)
    assert loaded["decays"] == [0.1, 0.0]


def test_and_back(runs: Runs, tmp_path: Path) -> None:
    folder, step = runs.begun("fp32", (1, 2))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    middle = runs.run(tmp_path, "fp32", 3)
    last = stopped(middle, 1, step + 3)
    run = runs.run(tmp_path, "fp32", 1).finish_ranks(2, tell_states)
    assert_told(run, step, (1, 2), (3, 1))
    assert_told(run, last, (3, 1), (1, 2))
    assert_same_course(run, runs.undisturbed("fp32"), TOLERANCE["fp32"])
    for at in (step, last):
        assert_loaded_as_saved(tmp_path, at)


def test_steps_without_an_update_are_no_updates_elsewhere(runs: Runs, tmp_path: Path) -> None:
    """Adam corrects its moments by the count of its updates, not by that of the steps. Of an earlier version's."""

    def forget(run: PreciseTraining, step: int) -> None:
        forget_layout(run.state / f"step-{step:08d}")

    loaded = assert_continues(
        runs, tmp_path, "fp32", (3, 2), (0, 1), gradients_are_no_numbers_and_tell_states, change=forget
    )
    assert loaded["updates"] == {loaded["counts"][0] - 6.0}


def test_zero_3_continues_what_one_rank_began_in_half_precision(runs: Runs, tmp_path: Path) -> None:
    loaded = assert_continues(runs, tmp_path, "bf16", (0, 1), (3, 2))
    assert any(not torch.equal(state["fp32"], state["in use"]) for state in loaded["states"].values())
    assert not list(tmp_path.rglob(".universal-*"))


def test_another_micro_batch_continues_as_it_is(runs: Runs, tmp_path: Path) -> None:
    folder, step = runs.begun("fp32", (0, 1))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    run = runs.run(tmp_path, "fp32", 0, micro_batch=3).finish_ranks(1, tell_states)
    said = f"step-{step:08d}, saved with micro_batch 8, with 3: equal to rounding, not bit for bit"
    assert said in run.log
    assert "converting" not in run.log
    assert_loaded_as_saved(tmp_path, step)
    assert_same_course(run, runs.undisturbed("fp32"), TOLERANCE["fp32"])


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "before", "after"), PAIRS, ids=str)
def test_every_pair_of_stages(runs: Runs, tmp_path: Path, precision: str, before: Place, after: Place) -> None:
    assert_continues(runs, tmp_path, precision, before, after)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [((1, 2), (2, 1)), ((0, 1), (1, 2)), ((2, 2), (3, 1)), ((3, 2), (0, 1))])
def test_a_micro_batch_that_is_sought_before_makes_no_difference(
    runs: Runs, tmp_path: Path, before: Place, after: Place
) -> None:
    """The search has the new engine make steps, though no update."""
    assert_continues(runs, tmp_path, "fp32", before, after, micro_batch="auto")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4])
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_continue_what_others_began(runs: Runs, tmp_path: Path, stage: int, ranks: int) -> None:
    assert_continues(runs, tmp_path, "fp32", (stage, ranks), ((stage + 1) % 4, 2))


# --- parts ---------------------------------------------------------------------------------------------------


def test_layouts_that_load_as_they_are() -> None:
    assert Layout(2, 1).fits(Layout(2, 1))
    assert Layout(2, 0).fits(Layout(4, 0))
    assert Layout(2, 1, "fp32", 8).fits(Layout(2, 1, "fp32", 3))
    assert not Layout(2, 1).fits(Layout(4, 1))
    assert not Layout(2, 1).fits(Layout(2, 2))


def test_what_is_told_of_a_change() -> None:
    here = Layout(2, 1, "fp32", 8)
    assert here.change(here) == ""
    assert here.change(Layout(1, 1, "fp32", 8)) == "saved by 2 ranks with ZeRO 1, on 1 rank with ZeRO 1"
    assert here.change(Layout(2, 1, "fp32", 4)) == "saved with micro_batch 8, with 4"
    assert Layout(2, 1).change(here) == ""


@pytest.mark.parametrize(("precision", "before"), [("fp32", (1, 2)), ("fp32", (3, 2)), ("bf16", (0, 1))])
def test_the_manifest_tells_the_layout_and_so_do_the_files(
    runs: Runs, tmp_path: Path, precision: str, before: Place
) -> None:
    folder, step = runs.begun(
        precision, before, gradients_are_no_numbers_and_tell_states if before == (3, 2) else tell_states
    )
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(folder / f"state/step-{step:08d}", checkpoint)
    stage, ranks = before
    assert layout_of(checkpoint) == Layout(ranks, stage, precision, 8)
    forget_layout(checkpoint)
    assert layout_of(checkpoint) == Layout(ranks, stage)


@pytest.mark.parametrize(
    ("before", "prepare"), [((1, 2), tell_states), ((3, 2), gradients_are_no_numbers_and_tell_states)]
)
def test_a_conversion_takes_no_more_room_than_told(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Place, prepare: Callable[[], None]
) -> None:
    """The most is there when it is about to remove its first half."""
    folder, step = runs.begun("fp32", before, prepare)
    checkpoint, target, saved = folder / f"state/step-{step:08d}", tmp_path / "converted", Layout(before[1], before[0])
    names = list(torch.load(folder / f"saved-{step}")["states"])
    found, remove = [], shutil.rmtree

    def look_and_remove(folder: Any, *arguments: Any, **named: Any) -> None:
        found.append(bytes_below(tmp_path))
        remove(folder, *arguments, **named)

    monkeypatch.setattr(shutil, "rmtree", look_and_remove)
    convert(checkpoint, target, names, saved, Layout(1, 1))
    found.append(bytes_below(target))
    assert found[-1] < max(found) <= conversion_bytes(checkpoint, len(names), saved) < 2 * max(found)
    assert check_manifest(checkpoint) is None


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkpoint whose parts are of no use."""
    checkpoint = tmp_path / "step-00000003"
    (checkpoint / "engine").mkdir(parents=True)
    (checkpoint / "engine/zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"no tensors")
    return checkpoint


def test_what_cannot_be_converted_is_refused_with_both_layouts(damaged: Path) -> None:
    with pytest.raises(DataeffError) as refused:
        convert(damaged, damaged.with_name("converted"), ["weight"], Layout(2, 1), Layout(1, 3))
    said = str(refused.value)
    assert said.startswith(f"{damaged}: saved by 2 ranks with ZeRO 1, and DeepSpeed cannot convert it to continue on ")
    assert said.endswith("; continue on 2 ranks with ZeRO 1, or delete it to begin anew")
    assert [path.name for path in damaged.parent.iterdir()] == [damaged.name]


def test_a_conversion_that_has_no_room_is_refused(damaged: Path) -> None:
    with (damaged / "engine/zero_pp_rank_1_mp_rank_00_optim_states.pt").open("wb") as stream:
        stream.truncate(2**43)  # a hole takes no room
    needed = 2 * (2**43 + len(b"no tensors")) + 2048 * 4 * 3  # of one parameter, by rank and as a whole
    assert conversion_bytes(damaged, 1, Layout(2, 1)) == needed
    with pytest.raises(
        DataeffError, match=rf"takes {needed:,} bytes beside it for a while, and [\d,]+ are free; make "
    ):
        convert(damaged, damaged.with_name("converted"), ["weight"], Layout(2, 1), Layout(1, 3))


def scaler() -> DynamicLossScaler:
    return DynamicLossScaler(65536.0, 100, 1.0, delayed_shift=2, consecutive_hysteresis=False)


@dataclass
class Split:
    """What of DeepSpeed's optimizer with ZeRO holds the loss scale; fp16 itself is refused on a CPU."""

    loss_scaler: DynamicLossScaler


@dataclass
class Plain:
    """The same without ZeRO."""

    loss_scale_config: LossScaleConfig


def test_a_loss_scale_goes_on_elsewhere() -> None:
    found = scaler()
    found.cur_scale, found.cur_iter, found.last_overflow_iter, found.cur_hysteresis = 32768.0, 4, 2, 1
    plain = Plain(LossScaleConfig(torch.float16, True, 0.0, None))
    carry_loss_scale({"loss_scaler": found}, plain)
    here = plain.loss_scale_config
    assert (here.cur_scale, here.cur_iter, here.last_overflow_iter) == (32768.0, 4, 2)
    for saved, hysteresis in (({"loss_scaler": found}, 1), (vars(here), 2)):
        split = Split(scaler())
        carry_loss_scale(saved, split)
        there = split.loss_scaler
        assert (there.cur_scale, there.cur_iter, there.last_overflow_iter) == (32768.0, 4, 2)
        assert (there.cur_hysteresis, there.scale_window) == (hysteresis, 100)
