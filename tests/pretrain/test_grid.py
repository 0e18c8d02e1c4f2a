"""Every way to spread a run over ranks takes the same samples and tokens, and without dropout has the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.pretrain.faults import tell_samples_and_kept_tokens
from tests.pretrain.training import Material, Training, in_precision

# Rows of a rank are 8, 4 and 2: in one pass each, and in several that are not all of one size.
MICRO_BATCHES = {1: (8, 3), 2: (4, 3), 4: (2, 1)}
# bfloat16 rounds to 8 binary digits, in another order where the sums are others. A count of
# Adam's steps that is one ahead, as DeepSpeed's half precision begins with, makes a difference of 0.03.
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-3}
QUICK = [(1, 2, "fp32"), (2, 4, "bf16"), (3, 2, "fp32")]


def trained(still: Material, place: Path, precision: str, ranks: int, micro_batch: int, zero_stage: int) -> Training:
    run = still.training("composed", place, micro_batch=micro_batch, zero_stage=zero_stage)
    return in_precision(run, precision).finish_ranks(ranks, tell_samples_and_kept_tokens)


def seen(run: Training) -> tuple[dict[int, list[int]], dict[tuple[int, int, int], list[int]]]:
    """Ids by step, equal on all ranks, and kept positions by (step, layer, row) of all ranks together."""
    ids: dict[int, list[int]] = {}
    kept: dict[tuple[int, int, int], list[int]] = {}
    for file in sorted(run.place.glob("seen-*")):
        for line in map(json.loads, file.read_text().splitlines()):
            if "ids" in line:
                assert ids.setdefault(line["step"], line["ids"]) == line["ids"]
                continue
            for row, positions in zip(line["rows"], line["kept"], strict=True):
                assert kept.setdefault((line["step"], line["layer"], row), positions) == positions
    return ids, kept


@pytest.fixture(scope="module")
def plain(still: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """One rank, one pass, no ZeRO, by precision."""
    folder = tmp_path_factory.mktemp("grid")
    return {precision: trained(still, folder / precision, precision, 1, 8, 0) for precision in TOLERANCE}


def assert_the_same(run: Training, plain: Training, tolerance: float) -> None:
    assert seen(run) == seen(plain)
    assert np.abs(run.losses - plain.losses).max() < tolerance


def test_the_look_inside_sees_all(plain: dict[str, Training]) -> None:
    ids, kept = seen(plain["fp32"])
    steps = len(plain["fp32"].losses)
    assert sorted(ids) == list(range(steps))
    dropping = [row["step"] - 1 for row in plain["fp32"].metrics if row["kept_tokens"] < row["sequence_length"]]
    assert {step for step, _, _ in kept} == set(dropping)
    assert len(kept) >= len(dropping) * 2 * 8  # two of four layers drop, of 8 rows or more


@pytest.mark.parametrize(("zero_stage", "ranks", "precision"), QUICK)
def test_one_of_each(
    still: Material, plain: dict[str, Training], tmp_path: Path, zero_stage: int, ranks: int, precision: str
) -> None:
    run = trained(still, tmp_path / "run", precision, ranks, MICRO_BATCHES[ranks][1], zero_stage)
    assert_the_same(run, plain[precision], TOLERANCE[precision])


@pytest.mark.slow
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("ranks", MICRO_BATCHES)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_the_whole_grid(
    still: Material, plain: dict[str, Training], tmp_path: Path, zero_stage: int, ranks: int, precision: str
) -> None:
    for micro_batch in MICRO_BATCHES[ranks]:
        run = trained(still, tmp_path / str(micro_batch), precision, ranks, micro_batch, zero_stage)
        assert_the_same(run, plain[precision], TOLERANCE[precision])
