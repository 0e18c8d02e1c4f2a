"""Difficulty metrics: from some samples to one integer per sample. Pure functions and the table of them.

A metric added to METRICS can be named in a curriculum; nothing else knows the list. Every metric here is larger for
harder samples, since every curriculum goes from easy to hard. What a metric may look at besides the samples (how
often each token occurs, a way back from tokens to text) is in its MetricContext, counted or loaded beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.analyze.text_metrics import compression_ratio, flesch, mtld
from dataeff.errors import DataeffError, unknown_name
from dataeff.study.base import FamilyName
from dataeff.study.types import LENGTH_METRIC

if TYPE_CHECKING:
    from dataeff.samples import SampleBatch


Values = NDArray[np.int64]
# Sums stay below 2**62; finer units than 2**-52 would say more than a float64 weight does.
_SUM_BITS, _FINEST_BITS = 62, 52


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """The weight of every token id in whole multiples of 2**-bits.

    Sums of integers do not depend on their order, so that threads, vector widths and the way a window is read cannot
    change a value. Against the float64 weights the sum of n is off by at most n * 2**-(bits + 1): 1.5e-11 for 2,049
    tokens. Upstream adds float64 numbers in an order that depends on the processor's vectors, which may be off by
    n * 2**-53 * sum: 4e-9 for a sum of 16,000 at worst. So the two values can differ, by 1, only where the sum lies
    this near to a whole number.
    """

    units: Values
    bits: int

    @classmethod
    def of(cls, weights: NDArray[np.float64], terms: int) -> TokenWeights:
        """For sums of at most `terms` of these weights, none of which is negative."""
        largest = max(float(weights.max()) * terms, 2.0**-300)
        bits = min(_FINEST_BITS, _SUM_BITS - math.frexp(largest)[1])
        return cls(np.rint(np.ldexp(weights, bits)).astype(np.int64), bits)


@dataclass(frozen=True, slots=True)
class MetricContext:
    """What metrics look at besides the samples; a part that no wanted metric needs is None.

    `rarity`: -ln of each token's share; `weights`: the same as integers for sums over one sample.
    """

    sequence_length: int
    rarity: NDArray[np.float64] | None = None
    weights: TokenWeights | None = None
    decode: Callable[[Sequence[int]], str] | None = None

    @classmethod
    def of(
        cls,
        sequence_length: int,
        frequency: NDArray[np.int64] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
    ) -> MetricContext:
        if frequency is None:
            return cls(sequence_length, decode=decode)
        rarity = token_rarity(frequency)
        return cls(sequence_length, rarity, TokenWeights.of(rarity, sequence_length + 1), decode)


@dataclass(frozen=True, slots=True)
class Metric:
    """`difficulty(batch, context)`: one int64 per sample of the batch, larger for harder, in the stated unit.

    `weights` is set where the difficulty is the whole part of a sum of token weights: windows are then summed where
    they lie in the token files, without a copy.
    """

    about: str
    unit: str
    needs: Literal["tokens", "frequency", "text"]
    difficulty: Callable[[SampleBatch, MetricContext], Values]
    families: tuple[FamilyName, ...] = ("gpt", "bert")
    weights: Callable[[MetricContext], TokenWeights] | None = None


def find_metric(name: str, where: str, family: FamilyName | None = None) -> Metric:
    """The metric of this name; refused where it says nothing about the family's samples."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS, where)
    metric = METRICS[name]
    if family is not None and family not in metric.families:
        usable = ", ".join(other for other, found in METRICS.items() if family in found.families)
        raise DataeffError(
            f"{where}: metric '{name}' is for {', '.join(metric.families)}: every {family} sample has the same "
            f"length; choose one of {usable}"
        )
    return metric


def frequency_bins(padded_vocab_size: int) -> int:
    """Upstream counts into one bin more than the padded vocabulary has, which takes part in the total."""
    return padded_vocab_size + 1


def count_tokens(batch: SampleBatch, bins: int) -> NDArray[np.int64]:
    """How often each token id below `bins` occurs in the samples, padding left out."""
    counts = np.zeros(bins, dtype=np.int64)
    _require_known(_count(batch.tokens, batch.lengths, counts), bins)
    return counts


def token_rarity(frequency: NDArray[np.int64]) -> NDArray[np.float64]:
    """-ln(count / total) per token id; a count of 0 is taken as 1, before the total is formed (arXiv
    2212.03597, 3.1).
    """
    counts = np.maximum(frequency, 1)
    return np.asarray(-np.log(counts / counts.sum()), dtype=np.float64)


def seqlen(batch: SampleBatch, context: MetricContext) -> Values:
    """Number of real tokens."""
    return np.asarray(batch.lengths, dtype=np.int64)


def vocab_rarity(batch: SampleBatch, context: MetricContext) -> Values:
    """The rarities of all of a sample's real tokens added up, then cut to an integer."""
    weights = rarity_weights(context)
    values = np.empty(len(batch.tokens), dtype=np.int64)
    fault = _sum_weights(batch.tokens, batch.lengths, weights.units, weights.bits, values)
    _require_known(fault, len(weights.units))
    return values


def seqlen_vocab_rarity(batch: SampleBatch, context: MetricContext) -> Values:
    """Length first, rarity second: the length times a power of ten above any rarity, plus the rarity."""
    return seqlen(batch, context) * _length_coefficient(context) + vocab_rarity(batch, context)


def rarity_weights(context: MetricContext) -> TokenWeights:
    if context.weights is None:
        raise DataeffError("this metric weighs tokens by how often they occur; pass the frequencies (--frequency)")
    return context.weights


def _length_coefficient(context: MetricContext) -> int:
    """10 ** (ceil(log10(the largest rarity that a sample can have)) + 1)."""
    if context.rarity is None:
        raise DataeffError("this metric weighs tokens by how often they occur; pass the frequencies (--frequency)")
    # The logarithm as upstream takes it. A vocabulary of one token has no rarity at all.
    largest = max(1.0, context.sequence_length * float(context.rarity.max()))
    return int(10 ** (math.ceil(math.log(largest, 10)) + 1))


def _of_text(function: Callable[[str], int]) -> Callable[[SampleBatch, MetricContext], Values]:
    """The metric that is this function of each sample's text."""

    def difficulty(batch: SampleBatch, context: MetricContext) -> Values:
        if context.decode is None:
            raise DataeffError("this metric reads a sample's text; pass its tokenizer (--tokenizer)")
        rows = zip(batch.tokens, batch.lengths.tolist(), strict=True)
        return np.array([function(context.decode(row[:length].tolist())) for row, length in rows], dtype=np.int64)

    return difficulty


METRICS: dict[str, Metric] = {
    LENGTH_METRIC: Metric("number of real tokens of a sample", "tokens", "tokens", seqlen, ("bert",)),
    "vocab_rarity": Metric(
        "how rare a sample's tokens are in the corpus", "nats", "frequency", vocab_rarity, weights=rarity_weights
    ),
    "seqlen_vocab_rarity": Metric(
        "length, and rarity among samples of equal length",
        "tokens times a power of ten, plus nats",
        "frequency",
        seqlen_vocab_rarity,
        ("bert",),
    ),
    "compression_ratio": Metric(
        "how little a sample's text can be compressed",
        "compressed bytes per 10,000",
        "text",
        _of_text(compression_ratio),
    ),
    "mtld": Metric("how diverse a sample's words are", "words per factor x 100", "text", _of_text(mtld)),
    "flesch": Metric(
        "how long a sample's sentences and words are", "(206.835 - reading ease) x 100", "text", _of_text(flesch)
    ),
}


def _require_known(unknown_token: int, bins: int) -> None:
    if unknown_token >= 0:
        raise DataeffError(
            f"token id {unknown_token} occurs in the samples, but the frequencies have {bins} bins; tokens "
            f"are of another tokenizer: run `dataeff tokens` again, or give the vocabulary of the tokens"
        )


# Compiled at first use (well under a second each): files of a compilation cache would need a writable place
# on every node and can be stale. They run outside Python's lock, so threads share the work.


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count(tokens: Any, lengths: Any, counts: Any) -> Any:
    """The first token id without a bin, or -1."""
    for row in range(tokens.shape[0]):
        for column in range(lengths[row]):
            token = tokens[row, column]
            if token < 0 or token >= counts.size:
                return abs(token)
            counts[token] += 1
    return -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum_weights(tokens: Any, lengths: Any, units: Any, bits: int, values: Any) -> Any:
    """As _count."""
    for row in range(tokens.shape[0]):
        total = np.int64(0)
        for column in range(lengths[row]):
            token = tokens[row, column]
            if token < 0 or token >= units.size:
                return abs(token)
            total += units[token]
        values[row] = total >> bits
    return -1
