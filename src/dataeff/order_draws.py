"""The draws of the sample order, compiled: the cluster and the place in it of every sample of a step.

Sample `slot` of a step is a uniform draw over the pool that the step has reached, keyed by (seed, step, slot): the
cluster that holds it gives the sample, so that the counts per cluster are multinomial in proportion to the cluster
sizes and the clusters come in random order within the batch. Which sample of the cluster it is, says the cluster's
current pass, a keyed permutation. Only integers, so that every machine and any number of threads draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.keyed import below, permuted, word

GUIDE_BITS = 14
_0, _1 = np.uint64(0), np.uint64(1)
Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Guide:
    """Where to look in a sorted array: `rows`[i] is the first place for an item of at least low + (i << shift).

    One look-up and seldom more, instead of a binary search over the whole array.
    """

    rows: Words
    low: int
    shift: np.uint64

    @classmethod
    def of(cls, ends: NDArray[Any], low: int) -> Guide:
        """For items from `low` to the last of `ends`."""
        high = int(ends[-1])
        shift = max(0, (high - low).bit_length() - GUIDE_BITS)
        starts = low + (np.arange(((high - low) >> shift) + 2) << shift)
        return cls(np.searchsorted(ends, starts.astype(ends.dtype)).astype(np.uint64), low, np.uint64(shift))


@dataclass(frozen=True, slots=True)
class Clusters:
    """`opens_at` [clusters] is the first step of each, `ends` [clusters] its last position in the order of admission.

    All words: beside unsigned numbers, signed ones would be compared as floats, and signed indices cost four times
    as much as unsigned ones.
    """

    opens_at: Words
    ends: Words
    guide: Guide

    @classmethod
    def of(cls, opens_at: NDArray[np.int64], bounds: NDArray[np.int64]) -> Clusters:
        ends = (bounds[1:] - 1).astype(np.uint64)
        return cls(opens_at.astype(np.uint64), ends, Guide.of(ends, 0))

    def count(self, key: int, first: int, steps: int, batch_size: int, counts: NDArray[np.int64]) -> None:
        """Adds to `counts` ([clusters]) how many samples each cluster gives to `steps` steps from `first` on."""
        where = self.opens_at, self.ends, self.guide.rows, self.guide.shift
        _count_draws(np.uint64(key), np.uint64(first), np.uint64(first + steps), np.uint64(batch_size), *where, counts)

    def draw(self, key: int, pass_key: int, first: int, taken: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Fills `positions` ([steps, batch], in the order of admission) with the samples of the steps from `first` on.

        `taken` ([clusters]): samples drawn from each cluster before `first`; counted on to after the last step.
        """
        where = self.opens_at, self.ends, self.guide.rows, self.guide.shift
        _draw_positions(np.uint64(key), np.uint64(pass_key), np.uint64(first), *where, taken, positions)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _cluster_of(position: Any, ends: Any, rows: Any, shift: Any) -> Any:
    """The first cluster that ends at `position` or beyond."""
    bucket = position >> shift
    first, last = rows[bucket], rows[bucket + _1]
    while first < last:
        middle = (first + last) >> _1
        if ends[middle] < position:
            first = middle + _1
        else:
            last = middle
    return first


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count_draws(
    key: Any, first: Any, last: Any, batch: Any, opens_at: Any, ends: Any, rows: Any, shift: Any, counts: Any
) -> None:
    clusters = 0
    for step in range(first, last):
        while clusters < opens_at.size and opens_at[clusters] <= step:
            clusters += 1
        if clusters == 1:
            counts[0] += batch
            continue
        step_key, pool = word(key, step), ends[clusters - 1] + _1
        for slot in range(batch):
            counts[_cluster_of(below(step_key, slot, pool), ends, rows, shift)] += 1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _draw_positions(
    key: Any,
    pass_key: Any,
    first: Any,
    opens_at: Any,
    ends: Any,
    rows: Any,
    shift: Any,
    taken: Any,
    positions: Any,
) -> None:
    clusters = 0
    for row in range(positions.shape[0]):
        step = first + np.uint64(row)
        while clusters < opens_at.size and opens_at[clusters] <= step:
            clusters += 1
        step_key, pool = word(key, step), ends[clusters - 1] + _1
        for slot in range(positions.shape[1]):
            cluster = _0
            if clusters > 1:
                cluster = _cluster_of(below(step_key, np.uint64(slot), pool), ends, rows, shift)
            begin = ends[cluster - _1] + _1 if cluster > _0 else _0
            size = ends[cluster] + _1 - begin
            drawn = np.uint64(taken[cluster])
            number = drawn // size
            image = permuted(drawn - number * size, size, word(word(pass_key, cluster), number))
            positions[row, slot] = begin + image
            taken[cluster] += 1
