"""Difficulty metrics: from the tokens of some samples to one integer per sample. Pure functions and the table
of them.

A metric added to METRICS can be named in a curriculum; nothing else knows the list. Token frequencies, which
some metrics weigh tokens by, are counted over all analysed samples first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError, unknown_name

Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Metric:
    """`difficulty(tokens, frequency)`: tokens [n, sequence_length + 1] and counts [bins] to values [n].

    `needs_frequency`: whether it looks at the counts; they are int64, one per token id.
    """

    about: str
    needs_frequency: bool
    difficulty: Callable[[Tokens, NDArray[np.int64]], NDArray[np.int64]]


def find_metric(name: str, where: str) -> Metric:
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS, where)
    return METRICS[name]


def frequency_bins(padded_vocab_size: int) -> int:
    """Upstream counts into one bin more than the padded vocabulary has, which takes part in the total."""
    return padded_vocab_size + 1


def count_tokens(tokens: Tokens, bins: int) -> NDArray[np.int64]:
    """How often each token id below `bins` occurs."""
    counts = np.zeros(bins, dtype=np.int64)
    _require_known(_count(tokens, counts), bins)
    return counts


def token_rarity(frequency: NDArray[np.int64]) -> NDArray[np.float64]:
    """-ln(count / total) per token id; a count of 0 is taken as 1, before the total is formed (arXiv
    2212.03597, 3.1).
    """
    counts = np.maximum(frequency, 1)
    return np.asarray(-np.log(counts / counts.sum()), dtype=np.float64)


def vocab_rarity(tokens: Tokens, frequency: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rarities of all of a sample's tokens added up in float64, then cut to an integer."""
    rarity = token_rarity(frequency)
    values = np.empty(len(tokens), dtype=np.int64)
    _require_known(_sum_rarity(tokens, rarity, values), len(rarity))
    return values


METRICS: dict[str, Metric] = {
    "vocab_rarity": Metric(
        "how rare a sample's tokens are in the corpus", needs_frequency=True, difficulty=vocab_rarity
    ),
}


def _require_known(unknown_token: int, bins: int) -> None:
    if unknown_token >= 0:
        raise DataeffError(
            f"token id {unknown_token} occurs in the samples, but the frequencies have {bins} bins; tokens "
            f"are of another tokenizer: run `dataeff tokens` again"
        )


# Compiled at first use (well under a second each): files of a compilation cache would need a writable place
# on every node and can be stale. They run outside Python's lock, so threads share the work.


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count(tokens: Any, counts: Any) -> Any:
    """The first token id without a bin, or -1."""
    for row in range(tokens.shape[0]):
        for column in range(tokens.shape[1]):
            token = tokens[row, column]
            if token < 0 or token >= counts.size:
                return abs(token)
            counts[token] += 1
    return -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum_rarity(tokens: Any, rarity: Any, values: Any) -> Any:
    """As _count."""
    for row in range(tokens.shape[0]):
        total = 0.0
        for column in range(tokens.shape[1]):
            token = tokens[row, column]
            if token < 0 or token >= rarity.size:
                return abs(token)
            total += rarity[token]
        values[row] = np.int64(total)
    return -1
