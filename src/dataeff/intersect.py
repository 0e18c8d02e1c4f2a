"""The order of admission under several selecting metrics: one sort of all samples by the step that admits them.

A step's pool is the intersection of its metrics' pools (DeepSpeed's rule), so a sample enters with the last of the
metrics to admit it. An index orders samples by (value, id); hence a metric's pool is known by its last sample, and
when a sample enters is read off its values alone. The values are streamed twice, in order of id: to count the samples
of each entry step, and to write their ids to where those of their entry step lie. So 2.5 billion samples are sorted
in little memory, without a random access to any file, by as many threads as there are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.admission import FILE, Admission
from dataeff.errors import DataeffError
from dataeff.order_draws import Guide
from dataeff.progress import Progress

if TYPE_CHECKING:
    from dataeff.analyze.difficulty import DifficultyIndex

BLOCK_SAMPLES = 1 << 22
"""Samples whose values and ids a thread holds at a time: about 150 MB."""
_MOST_THREADS = 8
Column = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Gate:
    """When one metric lets samples in: `last_values` and `last_ids` [pools] are its pools' last samples, and
    `levels` [pools + 1] the entry levels of the samples that each pool is the first to hold, or none.
    """

    metric: str
    values: NDArray[Any]
    file: Path | None
    pools: Column
    last_values: Column
    last_ids: Column
    levels: NDArray[np.int32]
    guide: Guide

    @classmethod
    def of(cls, index: DifficultyIndex, folder: Path | None, pools: Column, levels: NDArray[np.int32]) -> Gate:
        last_ids = index.order[pools - 1].astype(np.int64)
        last_values = index.values[last_ids].astype(np.int64)
        file = None if folder is None else Path(folder) / "value.npy"
        return cls(
            index.metric,
            index.values,
            file,
            pools,
            last_values,
            last_ids,
            levels,
            Guide.of(last_values, int(last_values[0])),
        )

    def raise_levels(self, first: int, levels: NDArray[np.int32], entered: Column) -> None:
        """Raises the levels of the samples from id `first` on to this metric's; counts them in `entered`, by pool."""
        places = self.guide.rows, self.guide.low, self.guide.shift
        values = self._read(first, len(levels))
        _raise_levels(values, first, self.last_values, self.last_ids, *places, self.levels, levels, entered)

    def _read(self, first: int, count: int) -> Column:
        """Read, not mapped, where there is a file: a mapped file counts as memory in use."""
        if self.file is None:
            return self.values[first : first + count].astype(np.int64)
        header = self.file.stat().st_size - self.values.nbytes
        start = header + first * self.values.itemsize
        return np.fromfile(self.file, self.values.dtype, count, offset=start).astype(np.int64)

    def check(self, entered: Column) -> None:
        """The values must put as many samples into each pool as the pool has."""
        if (np.cumsum(entered[:-1]) != self.pools).any():
            raise DataeffError(
                f"{self.file or self.metric}: order.npy does not list the samples by these values, equal values by id; "
                f"run `dataeff analyze` again"
            )


@dataclass(frozen=True, slots=True)
class Intersection:
    """`opens_at` [levels]: the steps at which the pool may grow; `counts` [blocks, levels + 1]: samples per block of
    ids and entry level, the last level being those that the run never admits.
    """

    samples: int
    dtype: np.dtype[Any]
    gates: tuple[Gate, ...]
    opens_at: Column
    counts: Column

    @classmethod
    def of(
        cls, sizes: Mapping[str, Column], indexes: Mapping[str, DifficultyIndex], folders: Mapping[str, Path]
    ) -> Intersection:
        """From each metric's pool size at every step ([steps], from 1 on, non-decreasing)."""
        grows = {metric: np.flatnonzero(np.diff(size, prepend=0) > 0) for metric, size in sizes.items()}
        opens_at = np.unique(np.concatenate(list(grows.values())))
        gates = []
        for metric, steps in grows.items():
            levels = np.append(np.searchsorted(opens_at, steps), len(opens_at)).astype(np.int32)
            gates.append(Gate.of(indexes[metric], folders.get(metric), sizes[metric][steps], levels))
        index = indexes[gates[0].metric]
        samples = len(index)
        counts = np.zeros((-(-samples // BLOCK_SAMPLES), len(opens_at) + 1), dtype=np.int64)
        found = cls(samples, index.order.dtype, tuple(gates), opens_at, counts)
        found._count()
        return found

    def pool_sizes(self, steps: int) -> Column:
        """[steps]: the samples in the joint pool at each step."""
        admitted = np.concatenate([[0], np.cumsum(self.counts.sum(axis=0))])
        pools: Column = admitted[np.searchsorted(self.opens_at, np.arange(steps), side="right")]
        return pools

    def _count(self) -> None:
        entered = [np.zeros(len(gate.pools) + 1, dtype=np.int64) for gate in self.gates]

        def count(block: int) -> list[Column]:
            levels, entered_here = self._levels(block)
            self.counts[block] = np.bincount(levels, minlength=self.counts.shape[1])
            return entered_here

        for here in self._each_block("plan: counting samples by entry step", count):
            for total, part in zip(entered, here, strict=True):
                total += part
        for gate, total in zip(self.gates, entered, strict=True):
            gate.check(total)

    def _levels(self, block: int) -> tuple[NDArray[np.int32], list[Column]]:
        first = block * BLOCK_SAMPLES
        levels = np.zeros(min(BLOCK_SAMPLES, self.samples - first), dtype=np.int32)
        entered = [np.zeros(len(gate.pools) + 1, dtype=np.int64) for gate in self.gates]
        for gate, counts in zip(self.gates, entered, strict=True):
            gate.raise_levels(first, levels, counts)
        return levels, entered

    def _each_block(self, name: str, work: Callable[[int], Any]) -> Iterator[Any]:
        progress = Progress(name, self.samples, "samples")
        with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as threads:
            for block, result in enumerate(threads.map(work, range(len(self.counts)))):
                yield result
                progress.show(min(self.samples, (block + 1) * BLOCK_SAMPLES))

    def admission(self, folder: Path | None) -> Admission:
        """The ids by entry step, those of one step by id: in the folder's admission.npy, or in memory."""
        if folder is None:
            ids = np.empty(self.samples, dtype=self.dtype)
            self._place(lambda position, part: ids.__setitem__(slice(position, position + len(part)), part))
            return Admission.of_ids(ids)
        file, needed = folder / FILE, self.samples * self.dtype.itemsize
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DataeffError(
                f"{file}: needs {needed:,} bytes, the disk has {free:,} left; free some or plan elsewhere"
            )
        with file.open("wb") as stream:
            header = {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self.samples,),
            }
            np.lib.format.write_array_header_1_0(stream, header)
            stream.flush()
            start = stream.tell()
            self._place(lambda position, part: _write_at(stream.fileno(), part, start + position * self.dtype.itemsize))
        return Admission.of_file(file)

    def _place(self, write: Callable[[int, NDArray[Any]], None]) -> None:
        """Writes each block's ids, level by level, to their places in the order of admission."""
        totals = self.counts.sum(axis=0)
        places = (np.cumsum(totals) - totals) + (np.cumsum(self.counts, axis=0) - self.counts)

        def place(block: int) -> None:
            levels, _ = self._levels(block)
            ends = np.cumsum(self.counts[block])
            ids = np.empty(len(levels), dtype=self.dtype)
            _sort_by_level(levels, block * BLOCK_SAMPLES, ends - self.counts[block], ids)
            for level in np.flatnonzero(self.counts[block]):
                write(int(places[block, level]), ids[ends[level] - self.counts[block, level] : ends[level]])

        for _ in self._each_block("plan: sorting samples by entry step", place):
            pass


def _write_at(descriptor: int, ids: NDArray[Any], offset: int) -> None:
    left = ids.data.cast("B")
    while len(left):
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _raise_levels(
    values: Any,
    first_id: Any,
    last_values: Any,
    last_ids: Any,
    rows: Any,
    low: Any,
    shift: Any,
    level_of: Any,
    levels: Any,
    entered: Any,
) -> None:
    """Per sample: the first pool whose last (value, id) is not before the sample's, and that pool's entry level."""
    pools = last_values.size
    for index in range(values.size):
        value, id = values[index], first_id + index
        first, last = np.int64(0), np.int64(0)
        if value > last_values[pools - 1]:
            first = last = pools
        elif value >= low:
            bucket = np.uint64(value - low) >> shift
            first, last = np.int64(rows[bucket]), np.int64(rows[bucket + np.uint64(1)])
        while first < last:
            middle = (first + last) >> 1
            if last_values[middle] < value or (last_values[middle] == value and last_ids[middle] < id):
                first = middle + 1
            else:
                last = middle
        entered[first] += 1
        levels[index] = max(levels[index], level_of[first])


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sort_by_level(levels: Any, first_id: Any, starts: Any, ids: Any) -> None:
    for index in range(levels.size):
        level = levels[index]
        ids[starts[level]] = first_id + index
        starts[level] += 1
