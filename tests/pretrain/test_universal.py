"""A run that other ranks, or another ZeRO stage, began: the same weights and moments to the bit, losses to rounding."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataeff.pretrain.checkpoint import folder_of
from dataeff.pretrain.universal import MOMENTS, Layout, convert, layout_of, read_plain, read_universal
from tests.pretrain.reshaping import tell_states
from tests.pretrain.test_grid import PreciseTraining, trained
from tests.pretrain.training import Material, Training

STAGES = (0, 1, 2, 3)
SIZES = (1, 2, 4)
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-3}
QUICK = [((1, 2), (2, 1), "fp32"), ((3, 2), (0, 1), "fp32"), ((0, 1), (3, 2), "bf16")]


def run_of(still: Material, place: Path, precision: str, stage: int, **hardware: Any) -> PreciseTraining:
    run = still.training("composed", place, zero_stage=stage, **hardware)
    place.mkdir(parents=True, exist_ok=True)
    return PreciseTraining(run.material, run.family, run.name, place, run.hardware, precision)


def interrupted(still: Material, place: Path, precision: str, stage: int, ranks: int) -> tuple[PreciseTraining, int]:
    """A run that was killed after its second checkpoint; that checkpoint's step."""
    run = run_of(still, place, precision, stage)
    processes = run.start_ranks(ranks)
    processes.training.wait_for(processes.processes[0], lambda: len(run.checkpoints) > 1)
    processes.signal(signal.SIGKILL)
    processes.kill()
    return run, run.checkpoints[0]


@pytest.fixture(scope="module")
def plain(still: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    folder = tmp_path_factory.mktemp("universal")
    return {precision: trained(still, folder / precision, precision, 1, 8, 0) for precision in TOLERANCE}


def saved_states(checkpoint: Path, names: list[str], scratch: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Whole tensors by parameter, as DeepSpeed's own conversion, or the plain checkpoint, has them."""
    layout = layout_of(checkpoint)
    assert layout is not None
    if layout.zero_stage:
        convert(checkpoint, scratch, layout)
        read = read_universal(scratch)
    else:
        weights = torch.load(checkpoint / "engine/mp_rank_00_model_states.pt", weights_only=False)["module"]
        order = [name for name in names if weights[name].dim() > 1] + [
            name for name in names if weights[name].dim() < 2
        ]
        read = read_plain(checkpoint, order)
    found = {}
    for name in names:
        state = read(name)
        assert state.moments is not None
        found[name] = {"fp32": state.weights, **state.moments}
    return found


def assert_continues(
    still: Material,
    plain: dict[str, Training],
    place: Path,
    precision: str,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    run, step = interrupted(still, place, precision, *before)
    checkpoint = place / "kept"
    shutil.copytree(folder_of(run.state, step), checkpoint)
    stage, ranks = after
    continued = run_of(still, place, precision, stage)
    continued.finish_ranks(ranks, tell_states)
    assert f"continues after step {step} " in continued.log
    assert f", saved by {Layout(before[1], before[0])}, on {Layout(ranks, stage)}" in continued.log
    told = torch.load(place / "states.pt")
    saved = saved_states(checkpoint, list(told), place / "scratch")
    for name, state in told.items():
        for key in ("fp32", *MOMENTS):
            assert torch.equal(state[key].flatten(), saved[name][key].float().flatten()), (name, key)
    whole = plain[precision]
    for mine, other in zip(continued.metrics, whole.metrics, strict=True):
        for key in ("learning_rate", "sequence_length", "kept_tokens", "effective_tokens", "raw_tokens"):
            assert mine[key] == other[key]
    assert np.abs(continued.losses - whole.losses).max() < TOLERANCE[precision]


@pytest.mark.parametrize(("before", "after", "precision"), QUICK)
def test_other_ranks_continue(
    still: Material,
    plain: dict[str, Training],
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
    precision: str,
) -> None:
    assert_continues(still, plain, tmp_path, precision, before, after)


@pytest.mark.slow
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("after", [(stage, ranks) for stage in STAGES for ranks in (1, 4)], ids=str)
@pytest.mark.parametrize("before", [(stage, 2) for stage in STAGES], ids=str)
def test_every_pair_of_layouts(
    still: Material,
    plain: dict[str, Training],
    tmp_path: Path,
    before: tuple[int, int],
    after: tuple[int, int],
    precision: str,
) -> None:
    if before[0] == after[0] == 0:
        pytest.skip("without ZeRO every rank has all: the checkpoint is loaded as it is")
    assert_continues(still, plain, tmp_path, precision, before, after)


def test_layouts_that_load_as_they_are() -> None:
    assert Layout(2, 1).fits(Layout(2, 1))
    assert Layout(2, 0).fits(Layout(4, 0))
    assert not Layout(2, 1).fits(Layout(4, 1))
    assert not Layout(2, 1).fits(Layout(2, 2))
    assert str(Layout(1, 0)) == "1 rank with ZeRO 0"
