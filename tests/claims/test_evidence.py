"""Saving read off curves whose truth is known, for any shares and any spread, and what is tested where none can be."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.claims.evidence import Place, data_for_quality, data_saving, loss_difference, pairs_of
from dataeff.claims.judge import verdict
from dataeff.study.types import Run
from tests.claims.factory import SEEDS, SLOPE, made, runs_of, true_loss


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.13, 1.0))
def test_the_true_share_is_read_exactly_where_there_is_no_noise(share: float) -> None:
    found = data_saving(runs_of({"baseline": 1.0, "composed": share}), "gpt", "composed")
    assert found.value == pytest.approx(100 * share, rel=1e-6)
    assert found.low == pytest.approx(found.value, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(losses=st.lists(st.floats(3.0, 6.0), min_size=4, max_size=4))
def test_any_losses_give_a_share_inside_of_what_was_run_or_none(losses: list[float]) -> None:
    fractions = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1))
    runs = runs_of({"baseline": 1.0})
    for data, loss in zip(fractions, losses, strict=True):
        runs += [made(Run(family="gpt", variant="composed", data=data, seed=seed), loss) for seed in SEEDS]
    found = data_saving(runs, "gpt", "composed")
    assert found.value is None or 12.5 - 1e-6 <= found.value <= 100 + 1e-6


def test_quality_is_the_probability_of_a_token() -> None:
    runs = runs_of({"baseline": 1.0, "composed": 0.5})
    # 0.3 nats a factor of e in data: 95% of the probability is reached by exp(ln(0.95) / 0.3) of what the loss takes.
    share = 0.5 * math.exp(math.log(0.95) / SLOPE)
    found = data_for_quality(runs, "gpt", "composed", limit=0.08)
    assert found.value == pytest.approx(100 * share, rel=1e-6)
    assert verdict(found) == "does not hold"


def test_quality_that_the_least_data_keep_is_not_told_from_a_smaller_limit() -> None:
    found = data_for_quality(runs_of({"baseline": 1.0, "composed": 0.05}, spread=0.01), "gpt", "composed", limit=0.08)
    assert found.value is None
    assert verdict(found) == "cannot be told"


def test_pairs_are_of_the_seeds_in_common() -> None:
    runs = runs_of({"baseline": 1.0}) + runs_of({"ltd": 1.0}, seeds=(1235, 1236, 9))
    pairs = pairs_of(runs, "gpt", Place("ltd"), Place("baseline"))
    assert not isinstance(pairs, str)
    assert [(ours.run.seed, theirs.run.seed) for ours, theirs in zip(pairs.ours, pairs.theirs, strict=True)] == [
        (1235, 1235),
        (1236, 1236),
    ]


def test_67_percent_is_two_thirds_and_0_67() -> None:
    for data in (Fraction(2, 3), Fraction(67, 100)):
        runs = runs_of({"baseline": 1.0}) + runs_of({"ltd": 1.0}, fractions=(data,))
        found = loss_difference(runs, "gpt", Place("ltd", 67), Place("baseline"))
        assert found.value == pytest.approx(true_loss(data) - true_loss(Fraction(1)))
