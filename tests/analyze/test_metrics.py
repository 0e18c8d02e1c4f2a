"""Metrics against slow arithmetic on small token tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze.metrics import METRICS, count_tokens, find_metric, frequency_bins, token_rarity, vocab_rarity
from dataeff.errors import DataeffError

BINS = 12

tables = st.integers(1, 7).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, BINS - 1), min_size=length, max_size=length), min_size=1, max_size=9
    )
)
counts = st.lists(st.integers(0, 1000), min_size=BINS, max_size=BINS)


@given(tables)
@settings(max_examples=60, deadline=None)
def test_counts(table: list[list[int]]) -> None:
    flat = [token for row in table for token in row]
    assert count_tokens(np.array(table), BINS).tolist() == [flat.count(token) for token in range(BINS)]


def test_bins_are_one_more_than_the_padded_vocabulary() -> None:
    assert frequency_bins(384) == 385


@given(counts)
@settings(max_examples=60, deadline=None)
def test_rarity_counts_the_absent_once(frequency: list[int]) -> None:
    filled = [count or 1 for count in frequency]
    expected = [-math.log(count / sum(filled)) for count in filled]
    assert token_rarity(np.array(frequency)) == pytest.approx(expected, rel=1e-12)


@given(tables, counts)
@settings(max_examples=100, deadline=None)
def test_vocab_rarity_is_the_whole_part_of_the_sum(table: list[list[int]], frequency: list[int]) -> None:
    filled = [count or 1 for count in frequency]
    total = sum(filled)
    values = vocab_rarity(np.array(table), np.array(frequency))
    assert values.dtype == np.int64
    for row, value in zip(table, values.tolist(), strict=True):
        exact = math.fsum(-math.log(filled[token] / total) for token in row)
        # At a whole number the last bit of the sum decides; elsewhere the cut is the same.
        near_whole = abs(exact - round(exact)) < 1e-9
        assert value == int(exact) or (near_whole and abs(value - round(exact)) <= 1)


def test_vocab_rarity_of_a_known_sample() -> None:
    frequency = np.array([6, 2, 0])  # the 0 becomes 1: a total of 9
    expected = int(math.log(9 / 6) + 2 * math.log(9 / 2) + math.log(9))
    assert vocab_rarity(np.array([[0, 1, 1, 2], [0, 0, 0, 0]]), frequency).tolist() == [expected, 1]
    assert expected == 5


@pytest.mark.parametrize("token", [12, 500, -3])
def test_tokens_without_a_bin_are_refused(token: int) -> None:
    tokens = np.array([[1, 2], [3, token]])
    with pytest.raises(DataeffError, match="the frequencies have 12 bins; tokens are of another tokenizer"):
        vocab_rarity(tokens, np.ones(BINS, dtype=np.int64))
    with pytest.raises(DataeffError, match=f"token id {abs(token)} "):
        count_tokens(tokens, BINS)


def test_metrics_are_found_by_name() -> None:
    assert find_metric("vocab_rarity", "here") is METRICS["vocab_rarity"]
    with pytest.raises(DataeffError, match="here: unknown metric 'vocab_rarety'; did you mean 'vocab_rarity'"):
        find_metric("vocab_rarety", "here")
