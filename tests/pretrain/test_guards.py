"""Steps that make no update, and losses that leave their median: what is found, counted, told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dataeff.pretrain.engine import GuardedAdamW
from dataeff.pretrain.guards import (
    IDS_TOLD,
    NonFinite,
    Skips,
    SpikeWatch,
    guard_facts,
    outcome,
    skipped_at_the_end,
    told_ids,
)

Row = dict[str, object]


@pytest.mark.parametrize(
    ("loss", "norm", "precision", "expected"),
    [
        (1.0, 1.0, "fp32", "applied"),
        (math.nan, 1.0, "fp32", "skipped"),
        (1.0, math.inf, "bf16", "skipped"),
        (1.0, math.inf, "fp16", "overflow"),
        (math.nan, math.inf, "fp16", "skipped"),
    ],
)
def test_what_became_of_a_step(loss: float, norm: float, precision: str, expected: str) -> None:
    assert outcome(loss, norm, precision) == expected


@pytest.mark.parametrize("told", [{"loss": math.nan}, {"gradient_norm": math.inf}])
def test_a_step_without_finite_numbers_leaves_weights_and_moments(told: dict[str, float]) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = GuardedAdamW([weight], lr=0.1)
    weight.grad = torch.ones(3)
    optimizer.step()
    before, moments = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    vars(optimizer).update(told)
    weight.grad = torch.full((3,), math.nan)
    optimizer.step()
    assert weight.equal(before)
    assert optimizer.state[weight]["exp_avg"].equal(moments)
    assert optimizer.state[weight]["step"] == 1


def test_one_too_many_in_a_row_raises() -> None:
    skips, error = Skips(2), NonFinite("x")
    for _ in range(2):
        skips.skipped(error)
    skips.applied()
    for _ in range(2):
        skips.skipped(error)
    assert skips.told == ", as were the 2 steps before (max_skipped: 2)"
    with pytest.raises(NonFinite):
        skips.skipped(error)


@given(st.lists(st.sampled_from(["applied", "skipped", "overflow"])))
def test_those_in_a_row_are_found_in_the_log(became: list[str]) -> None:
    rows: list[Row] = [
        {"step": step, **({} if what == "applied" else {what: True})} for step, what in enumerate(became)
    ]
    count = 0
    for what in became:
        count = {"applied": 0, "skipped": count + 1, "overflow": count}[what]
    assert skipped_at_the_end(rows) == count


def test_ids_are_told_whole_or_the_first_of_many() -> None:
    assert told_ids([7, 3]) == "7, 3"
    assert told_ids(range(IDS_TOLD + 5)).endswith(f", {IDS_TOLD - 1} and 5 more")


def rows_of(losses: list[float | None]) -> list[Row]:
    return [{"step": step, "loss": loss} for step, loss in enumerate(losses, start=1)]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.3), st.integers(30, 150))
def test_a_rise_that_lasts_is_one_spike_and_noise_is_none(seed: int, noise: float, at: int) -> None:
    """Uniform noise stays within 6 robust deviations; the rise is by half of the loss, and 20 of them."""
    random = np.random.default_rng(seed)
    losses = list(3 * 0.999 ** np.arange(200) + noise * random.uniform(-1, 1, size=200))
    assert SpikeWatch(rows_of(losses)).found == []
    median = float(np.median(losses[max(0, at - 100) : at]))
    for step in range(at, at + 5):
        losses[step] = 1.5 * median + 20 * noise
    found = SpikeWatch(rows_of(losses)).found
    assert [spike.step for spike in found] == [at + 1]
    assert found[0].median == pytest.approx(median)


def test_a_loss_that_hardly_moves_makes_no_spike_of_a_little() -> None:
    assert SpikeWatch(rows_of([*[2.0] * 50, 2.1])).found == []
    assert [spike.step for spike in SpikeWatch(rows_of([*[2.0] * 50, 2.3])).found] == [51]
    assert SpikeWatch(rows_of([*[2.0] * 19, 9.0])).found == []  # too little to know a median by


def test_run_json_tells_only_what_happened() -> None:
    rows = rows_of([*[2.0] * 50, None, 2.0, 4.0])
    assert guard_facts(rows[:50]) == {}
    rows[50]["skipped"] = True
    rows[51]["overflow"] = True
    assert guard_facts(rows) == {
        "skipped_steps": [51],
        "overflow_steps": 1,
        "loss_spikes": [{"step": 53, "loss": 4.0, "median": 2.0}],
    }


def test_a_spike_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    watch = SpikeWatch(rows_of([2.0] * 30))
    watch.tell("a-run", {"step": 31, "loss": 5.0})
    watch.tell("a-run", {"step": 32, "loss": 5.0})
    assert capsys.readouterr().out == "a-run: loss 5.0000 at step 31, the median before 2.0000\n"
