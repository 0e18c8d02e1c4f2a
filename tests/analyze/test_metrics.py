"""Metrics against slow arithmetic on small batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze.metrics import (
    METRICS,
    MetricContext,
    TokenWeights,
    count_tokens,
    find_metric,
    frequency_bins,
    seqlen,
    seqlen_vocab_rarity,
    token_rarity,
    vocab_rarity,
)
from dataeff.errors import DataeffError
from dataeff.samples import SampleBatch
from dataeff.study.types import LENGTH_METRIC

BINS = 12

tables = st.integers(1, 7).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, BINS - 1), min_size=length, max_size=length), min_size=1, max_size=9
    )
)
counts = st.lists(st.integers(0, 1000), min_size=BINS, max_size=BINS)


def whole(table: list[list[int]]) -> SampleBatch:
    """Samples without padding."""
    tokens = np.array(table, dtype=np.int64)
    return SampleBatch(tokens, np.full(len(tokens), tokens.shape[1], dtype=np.int32), None, None)


def padded(rows: list[list[int]], width: int, padding: int = 0) -> SampleBatch:
    tokens = np.array([row + [padding] * (width - len(row)) for row in rows], dtype=np.int64)
    return SampleBatch(tokens, np.array([len(row) for row in rows], dtype=np.int32), None, None)


def context(frequency: list[int], length: int = 8) -> MetricContext:
    return MetricContext.of(length, np.array(frequency))


@given(tables)
@settings(max_examples=60, deadline=None)
def test_counts(table: list[list[int]]) -> None:
    flat = [token for row in table for token in row]
    assert count_tokens(whole(table), BINS).tolist() == [flat.count(token) for token in range(BINS)]


def test_padding_is_not_counted() -> None:
    assert count_tokens(padded([[0, 5], [5, 5, 1]], 6), BINS).tolist() == [1, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0]


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
    values = vocab_rarity(whole(table), context(frequency))
    assert values.dtype == np.int64
    for row, value in zip(table, values.tolist(), strict=True):
        exact = math.fsum(-math.log(filled[token] / total) for token in row)
        # At a whole number the last bit of the sum decides; elsewhere the cut is the same.
        near_whole = abs(exact - round(exact)) < 1e-9
        assert value == int(exact) or (near_whole and abs(value - round(exact)) <= 1)


def test_vocab_rarity_of_a_known_sample() -> None:
    frequency = [6, 2, 0]  # the 0 becomes 1: a total of 9
    expected = int(math.log(9 / 6) + 2 * math.log(9 / 2) + math.log(9))
    assert vocab_rarity(whole([[0, 1, 1, 2], [0, 0, 0, 0]]), context(frequency)).tolist() == [expected, 1]
    assert expected == 5


def test_padding_is_not_rare() -> None:
    rows = [[3, 4], [5, 6, 7]]
    frequency = list(range(1, BINS + 1))
    values = vocab_rarity(padded(rows, 8), context(frequency))
    assert values.tolist() == [vocab_rarity(whole([row]), context(frequency))[0] for row in rows]


@given(st.integers(1, 3000), st.floats(0, 60))
@settings(max_examples=100, deadline=None)
def test_sums_of_weights_fit_and_are_near(terms: int, largest: float) -> None:
    weights = np.array([largest, largest / 3, 0.0])
    units = TokenWeights.of(weights, terms)
    assert int(units.units[0]) * terms < 2**63
    assert np.abs(np.ldexp(units.units.astype(float), -units.bits) - weights).max() <= 2.0 ** -(units.bits + 1)
    assert units.bits >= 44 or terms * largest > 2**17


def test_length_comes_before_rarity() -> None:
    frequency = [900, 50, 30, 10, 5, 3, 1, 1, 0, 0, 0, 0]
    batch = padded([[0, 0, 0], [9, 9], [0, 1, 2]], 8)
    coefficient = 10 ** (math.ceil(math.log10(8 * math.log(1004))) + 1)
    assert coefficient == 1000
    rarity = vocab_rarity(batch, context(frequency)).tolist()
    assert seqlen(batch, context(frequency)).tolist() == [3, 2, 3]
    values = seqlen_vocab_rarity(batch, context(frequency)).tolist()
    assert values == [3000 + rarity[0], 2000 + rarity[1], 3000 + rarity[2]]
    assert sorted(range(3), key=values.__getitem__) == [1, 0, 2]


@pytest.mark.parametrize("token", [12, 500, -3])
def test_tokens_without_a_bin_are_refused(token: int) -> None:
    batch = whole([[1, 2], [3, token]])
    with pytest.raises(DataeffError, match="the frequencies have 12 bins; tokens are of another tokenizer"):
        vocab_rarity(batch, context([1] * BINS))
    with pytest.raises(DataeffError, match=f"token id {abs(token)} "):
        count_tokens(batch, BINS)


def test_metrics_of_text_read_what_is_decoded_without_padding() -> None:
    alphabet = "abcdefghijkl"
    spoken = MetricContext.of(8, decode=lambda ids: " ".join(alphabet[id] for id in ids))
    batch = padded([[1, 2, 3], [1, 1]], 5)
    assert METRICS["mtld"].difficulty(batch, spoken).tolist() == [300, 200]


@pytest.mark.parametrize(("metric", "wanted"), [("vocab_rarity", "--frequency"), ("mtld", "--tokenizer")])
def test_what_a_metric_needs_is_said(metric: str, wanted: str) -> None:
    with pytest.raises(DataeffError, match=wanted):
        METRICS[metric].difficulty(whole([[1, 2]]), MetricContext.of(8))


def test_metrics_are_found_by_name() -> None:
    assert find_metric("vocab_rarity", "here") is METRICS["vocab_rarity"]
    with pytest.raises(DataeffError, match="here: unknown metric 'vocab_rarety'; did you mean 'vocab_rarity'"):
        find_metric("vocab_rarety", "here")


@pytest.mark.parametrize("metric", [LENGTH_METRIC, "seqlen_vocab_rarity"])
def test_samples_of_one_length_have_no_length_metric(metric: str) -> None:
    assert find_metric(metric, "here", "bert") is METRICS[metric]
    with pytest.raises(
        DataeffError, match=f"here: metric '{metric}' is for bert: every gpt sample has the same length"
    ):
        find_metric(metric, "here", "gpt")


def test_every_metric_says_what_it_is() -> None:
    for name, metric in METRICS.items():
        assert all((metric.about, metric.unit, metric.families)), name
