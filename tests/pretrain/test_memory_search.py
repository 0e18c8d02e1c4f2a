"""The largest micro-batch that fits: what is tried, what is not, and that results do not depend on it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.files import read_json
from dataeff.pretrain.memory_search import (
    KEPT,
    available_bytes,
    candidates,
    keep_choice,
    kept_choice,
    largest,
    predicted,
)
from dataeff.pretrain.remedies import OutOfMemory
from tests.pretrain.test_loop import assert_close, assert_identical
from tests.pretrain.training import Material, Training


@given(st.integers(1, 5000))
def test_powers_of_two_and_the_share_are_tried(share: int) -> None:
    found = candidates(share)
    assert found[-1] == share
    assert found == sorted(set(found))
    assert all(rows & (rows - 1) == 0 for rows in found[:-1])
    assert len(found) <= math.log2(share) + 2


@given(st.integers(1, 300), st.integers(0, 50), st.integers(1, 20), st.integers(1, 3000))
def test_the_most_that_fits_is_found_without_going_beyond(share: int, base: int, a_row: int, limit: int) -> None:
    tried = []

    def peak_of(rows: int) -> int:
        tried.append(rows)
        return base + a_row * rows

    fitting = [rows for rows in candidates(share) if base + a_row * rows <= limit]
    if not fitting:
        with pytest.raises(OutOfMemory):
            largest("a-run", share, limit, peak_of, lambda value: value)
        return
    assert largest("a-run", share, limit, peak_of, lambda value: value) == (fitting[-1], base + a_row * fitting[-1])
    # The first two are tried unseen: a line needs two points.
    assert all(base + a_row * rows <= limit for rows in tried[2:])


def test_a_rank_with_less_memory_decides_for_all() -> None:
    """It says no at the third size."""
    asked = iter([1, 1, 1, 1, 0])
    assert largest("a-run", 16, 10**9, lambda rows: rows, lambda value: min(value, next(asked))) == (2, 2)


def test_a_line_through_the_last_two_predicts() -> None:
    assert predicted({}, 1) == 0
    assert predicted({1: 10}, 2) == 10
    assert predicted({1: 10, 2: 14, 4: 22}, 8) == 38


def test_a_choice_is_kept_for_as_many_ranks(tmp_path: Path) -> None:
    assert kept_choice(tmp_path, 2) == 0
    keep_choice(tmp_path, 2, 16)
    assert kept_choice(tmp_path, 2) == 16
    assert kept_choice(tmp_path, 4) == 0


def test_there_is_memory() -> None:
    assert 10_000_000 < available_bytes() < 2**50


# --- runs ----------------------------------------------------------------------------------------------------


def test_a_run_finds_its_micro_batch_and_ends_as_with_it_given(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    """All 8 rows fit here; a kill and a new start keep the choice."""
    run = material.training("composed", tmp_path, micro_batch="auto")
    run.kill_after(5)
    assert read_json(run.state / KEPT) == {"micro_batch": 8, "world_size": 1}
    assert_identical(run.finish(), undisturbed["composed"])
    assert run.log.count("micro_batch auto: 8 of a rank's 8 rows a pass") == 1
    assert read_json(run.out / "timings.json")["micro_batch"] == 8


@pytest.mark.parametrize("zero_stage", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_search_leaves_no_trace_at_any_stage(still: Material, tmp_path: Path, zero_stage: int) -> None:
    given = still.training("composed", tmp_path / "given", zero_stage=zero_stage, micro_batch=8).finish()
    found = still.training("composed", tmp_path / "found", zero_stage=zero_stage, micro_batch="auto").finish()
    assert np.array_equal(found.losses, given.losses)


def test_two_ranks_find_one(still: Material, one_process: Training, tmp_path: Path) -> None:
    run = still.training("composed", tmp_path, micro_batch="auto").finish_ranks(2)
    assert_close(run, one_process)
    assert "micro_batch auto: 4 of a rank's 4 rows a pass" in run.log
