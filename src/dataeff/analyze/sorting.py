"""The order of samples by value, written without all of them in memory: by counting, or by sorting stretch by stretch.

The values are read through, block by block, several times:

- where they span few integers, they are counted, and the order is filled in by counting, one slice of it at a time;
- where they span many, the range is cut so that few enough samples lie between two cuts, and each such stretch is
  gathered and sorted by digits.

Either way equal values stay in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.analyze.map import write_header
from dataeff.progress import Progress
from dataeff.samples import id_type

if TYPE_CHECKING:
    from dataeff.analyze.reduce import Values

COUNTED_RANGE = 1 << 24
"""Up to this many integers are counted one by one: 128 MB of counts."""
COUNTED_SLICE = 1 << 28
"""Ids of the order that are filled in at a time when counting: 1 GiB of uint32."""
SORTED_SLICE = 1 << 26
"""Samples that are sorted at a time: 1 to 2 GiB of keys and ids."""
_CUT_BITS, _DIGIT_BITS = 16, 11
_Order = NDArray[Any]


def write_order(values: Values, stream: BinaryIO) -> int:
    """Writes the ids by value, equal values by id, as .npy; returns the number of distinct values."""
    dtype = np.dtype(id_type(values.samples))
    write_header(stream, dtype, values.samples)
    way = _order_by_counting if values.high - values.low < COUNTED_RANGE else _order_by_sorting
    return way(values, dtype, lambda ids: stream.write(ids.data))


def _order_by_counting(values: Values, dtype: np.dtype[Any], write: Callable[[_Order], int]) -> int:
    counts = np.zeros(values.high - values.low + 1, dtype=np.int64)
    for _, block in values.blocks():
        _tally(block, values.low, counts)
    starts = np.cumsum(counts) - counts
    progress = Progress("analyze reduce", values.samples, "samples")
    ids = np.empty(min(COUNTED_SLICE, values.samples), dtype=dtype)
    for begin in range(0, values.samples, COUNTED_SLICE):
        cursors = starts.copy()
        filled = ids[: min(COUNTED_SLICE, values.samples - begin)]
        for first, block in values.blocks():
            _place(block, first, values.low, cursors, begin, filled)
        write(filled)
        progress.show(begin + len(filled))
    return int(np.count_nonzero(counts))


def _order_by_sorting(values: Values, dtype: np.dtype[Any], write: Callable[[_Order], int]) -> int:
    progress = Progress("analyze reduce", values.samples, "samples")
    distinct = done = 0
    for low, high, count in _stretches(values, values.low, values.high, values.samples):
        if low == high:
            for first, block in values.blocks():
                write((np.flatnonzero(block == low) + first).astype(dtype))
            distinct += count > 0
        else:
            distinct += _write_sorted(values, low, high, count, dtype, write)
        done += count
        progress.show(done)
    return distinct


def _stretches(values: Values, low: int, high: int, count: int) -> list[tuple[int, int, int]]:
    """(lowest value, highest value, samples) of consecutive ranges that make up [low, high]; each holds at most
    SORTED_SLICE samples or a single value.
    """
    if count <= SORTED_SLICE or low == high:
        return [(low, high, count)]
    shift = max(0, (high - low).bit_length() - _CUT_BITS)
    counts = np.zeros(((high - low) >> shift) + 1, dtype=np.int64)
    for _, block in values.blocks():
        _tally_coarse(block, *_bounds(low, high), np.uint64(shift), counts)
    found: list[tuple[int, int, int]] = []
    for position, here in enumerate(counts.tolist()):
        lowest = low + (position << shift)
        highest = min(high, lowest + (1 << shift) - 1)
        if here > SORTED_SLICE:
            found += _stretches(values, lowest, highest, here)
        elif found and found[-1][2] + here <= SORTED_SLICE:
            found[-1] = (found[-1][0], highest, found[-1][2] + here)
        else:
            found.append((lowest, highest, here))
    return found


def _write_sorted(
    values: Values, low: int, high: int, count: int, dtype: np.dtype[Any], write: Callable[[_Order], int]
) -> int:
    bits = (high - low).bit_length()
    keys = np.empty(count, dtype=np.uint32 if bits <= 32 else np.uint64)
    ids = np.empty(count, dtype=dtype)
    filled: Any = 0
    for first, block in values.blocks():
        filled = _gather(block, first, *_bounds(low, high), keys, ids, filled)
    other_keys, other_ids = np.empty_like(keys), np.empty_like(ids)
    for shift in range(0, bits, _DIGIT_BITS):
        _sort_digit(keys, ids, keys.dtype.type(shift), other_keys, other_ids)
        keys, other_keys, ids, other_ids = other_keys, keys, other_ids, ids
    write(ids)
    return int(_count_distinct(keys))


def _bounds(low: int, high: int) -> tuple[np.uint64, np.uint64]:
    """Lowest value and extent as 64-bit words: differences modulo 2**64 are right for any two int64 values."""
    return np.uint64(low % 2**64), np.uint64(high - low)


@njit  # type: ignore[untyped-decorator]
def _tally(block: Any, low: Any, counts: Any) -> None:
    for index in range(block.size):
        counts[np.int64(block[index]) - low] += 1


@njit  # type: ignore[untyped-decorator]
def _place(block: Any, first: Any, low: Any, cursors: Any, begin: Any, ids: Any) -> None:
    """Each value's next position in the order; the ids whose position lies in the slice from `begin` on go there."""
    for index in range(block.size):
        value = np.int64(block[index]) - low
        position = cursors[value] - begin
        cursors[value] += 1
        if 0 <= position < ids.size:
            ids[position] = first + index


@njit  # type: ignore[untyped-decorator]
def _tally_coarse(block: Any, low: Any, extent: Any, shift: Any, counts: Any) -> None:
    for index in range(block.size):
        key = np.uint64(block[index]) - low
        if key <= extent:
            counts[key >> shift] += 1


@njit  # type: ignore[untyped-decorator]
def _gather(block: Any, first: Any, low: Any, extent: Any, keys: Any, ids: Any, filled: Any) -> Any:
    for index in range(block.size):
        key = np.uint64(block[index]) - low
        if key <= extent:
            keys[filled] = key
            ids[filled] = first + index
            filled += 1
    return filled


@njit  # type: ignore[untyped-decorator]
def _sort_digit(keys: Any, ids: Any, shift: Any, out_keys: Any, out_ids: Any) -> None:
    """By one digit, equal digits as they were."""
    mask = (1 << _DIGIT_BITS) - 1
    starts = np.zeros(mask + 2, dtype=np.int64)
    for index in range(keys.size):
        starts[(np.int64(keys[index] >> shift) & mask) + 1] += 1
    for lower in range(mask):
        starts[lower + 1] += starts[lower]
    for index in range(keys.size):
        digit = np.int64(keys[index] >> shift) & mask
        out_keys[starts[digit]] = keys[index]
        out_ids[starts[digit]] = ids[index]
        starts[digit] += 1


@njit  # type: ignore[untyped-decorator]
def _count_distinct(keys: Any) -> Any:
    """Of sorted keys."""
    distinct = np.int64(1 if keys.size else 0)
    for index in range(1, keys.size):
        distinct += keys[index] != keys[index - 1]
    return distinct
