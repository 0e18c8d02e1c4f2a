"""GPT windows read where they lie: token counts and sums of token weights straight from the mapped token files.

`Samples.batch` copies windows into a table of int64; for work that touches every token once, that copy costs several
times the work itself. Here a window is the stretches of documents that it takes, by place in the token files. All
stretches of many windows are brought into the order of the files before they are read: documents are shuffled, and a
mapped file that is read back and forth costs a page fault or a disk access for every document. Counts and sums of
integers do not depend on the order, so the values are those of reading window by window.

The kernels compile at first use and run outside Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.samples import PairSamples, Samples
from dataeff.samples.tokens import file_of, first_sequences

if TYPE_CHECKING:
    from dataeff.analyze.metrics import TokenWeights

BLOCK_WINDOWS = 1 << 20
"""Windows whose stretches are ordered together: about 75 MB for documents of 1,400 tokens."""
# A page that is touched brings up to 15 neighbours into memory: at most 256 MB between two calls of `relieve`.
_PLACED_AT_A_TIME, _READ_AT_A_TIME = 1 << 10, 1 << 12


@dataclass(frozen=True, slots=True)
class Stretches:
    """What some windows take of documents: `starts` and `lengths` in tokens of a file, window by window.

    Those of window i are [bounds[i], bounds[i + 1]). `order` lists all by file and then, roughly, by place; those of
    file f are order[of_file[f] : of_file[f + 1]].
    """

    bounds: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    order: NDArray[np.int32]
    of_file: NDArray[np.int64]


class Windows:
    """The windows of GPT samples, by their number in the epoch (a row of sample_idx).

    `relieve` is called every so often, so that it can give back mapped memory.
    """

    def __init__(self, samples: Samples, relieve: Callable[[], None] = lambda: None) -> None:
        self._samples, self._relieve = samples, relieve
        self._width = samples.sequence_length + 1
        datasets = samples.datasets
        self._sizes = tuple(dataset.sizes for dataset in datasets)
        self._pointers = tuple(dataset.pointers for dataset in datasets)
        self._item_bytes = np.array([dataset.dtype.itemsize for dataset in datasets], dtype=np.int64)
        self._first_documents = first_sequences(datasets)
        self._first_tokens = np.cumsum([0, *(dataset.token_count for dataset in datasets)], dtype=np.int64)

    @staticmethod
    def fit(samples: Samples | PairSamples) -> TypeGuard[Samples]:
        """Whether samples are windows at all: sentence pairs are not."""
        return isinstance(samples, Samples)

    def of_samples(self, first: int, last: int) -> NDArray[np.int64]:
        """The windows that the samples [first, last) are."""
        windows = np.asarray(self._samples.shuffle_idx[first:last], dtype=np.int64)
        if len(windows) and not 0 <= int(windows.min()) <= int(windows.max()) < len(self._samples):
            raise self._bad_entry()
        return windows

    def count(self, first: int, last: int, bins: int) -> NDArray[np.int64]:
        """How often each token id occurs in the windows [first, last)."""
        counts = np.zeros(bins, dtype=np.int64)
        stretches = self._stretches(np.arange(first, last))
        for file, chosen in self._in_file_order(stretches):
            tokens = self._samples.datasets[file].tokens
            wrong = _count(tokens, stretches.starts[chosen], stretches.lengths[chosen], counts)
            self._require_known(file, wrong, bins)
        return counts

    def sums(self, windows: NDArray[np.int64], weights: TokenWeights) -> NDArray[np.int64]:
        """The whole part of each window's sum of token weights."""
        stretches = self._stretches(windows)
        sums = np.empty(len(stretches.starts), dtype=np.int64)
        for file, chosen in self._in_file_order(stretches):
            tokens = self._samples.datasets[file].tokens
            found = np.empty(len(chosen), dtype=np.int64)
            wrong = _sum(tokens, stretches.starts[chosen], stretches.lengths[chosen], weights.units, found)
            self._require_known(file, wrong, len(weights.units))
            sums[chosen] = found
        values = np.empty(len(windows), dtype=np.int64)
        _sum_by_window(sums, stretches.bounds, weights.bits, values)
        return values

    def _stretches(self, windows: NDArray[np.int64]) -> Stretches:
        """A window's last token is where the next one begins, so that two rows of sample_idx tell its documents."""
        samples = self._samples
        counts = np.empty(len(windows), dtype=np.int64)
        for rows in _slices(len(windows), _PLACED_AT_A_TIME):
            here = samples.sample_idx[windows[rows], 0].astype(np.int64)
            counts[rows] = samples.sample_idx[windows[rows] + 1, 0].astype(np.int64) - here + 1
            self._relieve()
        if len(counts) and not 1 <= int(counts.min()) <= int(counts.max()) <= len(samples.doc_idx):
            raise self._bad_entry()
        bounds = np.concatenate([[0], np.cumsum(counts)])
        total = int(bounds[-1])
        starts, lengths = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int32)
        regions = np.empty(total, dtype=np.int32)
        # About as many regions as stretches: what is then out of order is so within a page or two.
        shift = max(0, int(self._first_tokens[-1]).bit_length() - max(1, total).bit_length())
        first_regions = np.concatenate([[0], np.cumsum((np.diff(self._first_tokens) >> shift) + 1)])
        for rows in _slices(len(windows), _PLACED_AT_A_TIME):
            sound = _place(
                windows[rows], self._width, samples.sample_idx, samples.doc_idx, self._first_documents, self._sizes,
                self._pointers, self._item_bytes, bounds[rows.start : rows.stop + 1], first_regions, shift, starts,
                lengths, regions,
            )  # fmt: skip
            if not sound:
                raise self._bad_entry()
            self._relieve()
        order = np.empty(total, dtype=np.int32)
        ends = _order(regions, int(first_regions[-1]), order)
        return Stretches(bounds, starts, lengths, order, ends[first_regions])

    def _in_file_order(self, stretches: Stretches) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """(file, some of its stretches), in order."""
        for file in range(len(self._samples.datasets)):
            chosen = stretches.order[stretches.of_file[file] : stretches.of_file[file + 1]]
            for rows in _slices(len(chosen), _READ_AT_A_TIME):
                yield file, chosen[rows]
                self._relieve()

    def _bad_entry(self) -> DataeffError:
        return DataeffError(
            f"{self._samples.folder}: an entry of its arrays points outside the tokens; run `dataeff samples` again"
        )

    def _require_known(self, file: int, wrong: int, bins: int) -> None:
        """`wrong`: the place in the file of a token without a bin, or -1."""
        if wrong >= 0:
            dataset = self._samples.datasets[file]
            document = int(np.searchsorted(dataset.pointers, wrong * dataset.dtype.itemsize, side="right")) - 1
            raise DataeffError(
                f"{dataset.prefix}: document {document} holds the token id {dataset.tokens[wrong]}, but the "
                f"frequencies have {bins} bins; tokens are of another tokenizer: run `dataeff tokens` again, or "
                f"give the vocabulary of the tokens (--vocab-size or --tokenizer)"
            )


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _place(
    windows: Any, width: Any, sample_idx: Any, doc_idx: Any, first_documents: Any, sizes: Any, pointers: Any,
    item_bytes: Any, bounds: Any, first_regions: Any, shift: Any, starts: Any, lengths: Any, regions: Any,
) -> bool:  # fmt: skip
    """Fills in the stretches of each window; False if an entry points outside the documents."""
    for row in range(windows.size):
        position, offset = np.int64(sample_idx[windows[row], 0]), np.int64(sample_idx[windows[row], 1])
        left = np.int64(width)
        for entry in range(bounds[row], bounds[row + 1]):
            if position < 0 or position >= doc_idx.size:
                return False
            document = np.int64(doc_idx[position])
            if document < 0 or document >= first_documents[-1]:
                return False
            file = file_of(document, first_documents)
            here = document - first_documents[file]
            size = np.int64(sizes[file][here])
            if offset < 0 or offset > size:
                return False
            taken = min(left, size - offset)
            start = pointers[file][here] // item_bytes[file] + offset
            starts[entry], lengths[entry] = start, taken
            regions[entry] = first_regions[file] + (start >> shift)
            left -= taken
            position += 1
            offset = np.int64(0)
        if left:
            return False
    return True


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _order(regions: Any, count: Any, order: Any) -> Any:
    """Fills in the stretches by region; returns where each region begins, [count + 1]."""
    begins = np.zeros(count + 1, dtype=np.int64)
    for region in regions:
        begins[region + 1] += 1
    for region in range(count):
        begins[region + 1] += begins[region]
    next_free = begins.copy()
    for index in range(regions.size):
        order[next_free[regions[index]]] = index
        next_free[regions[index]] += 1
    return begins


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count(tokens: Any, starts: Any, lengths: Any, counts: Any) -> Any:
    """Adds up the tokens of the stretches; the place of the first one without a bin, or -1."""
    for index in range(starts.size):
        wrong = _count_stretch(tokens[starts[index] : starts[index] + lengths[index]], counts)
        if wrong >= 0:
            return starts[index] + wrong
    return np.int64(-1)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum(tokens: Any, starts: Any, lengths: Any, units: Any, sums: Any) -> Any:
    """Fills in the sums of the stretches; the place of the first token without a weight, or -1."""
    for index in range(starts.size):
        sums[index], wrong = _sum_stretch(tokens[starts[index] : starts[index] + lengths[index]], units)
        if wrong >= 0:
            return starts[index] + wrong
    return np.int64(-1)


# The inner loops are functions of their own: within the outer ones they compile to half the speed.


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count_stretch(tokens: Any, counts: Any) -> Any:
    for index in range(tokens.size):
        token = np.int64(tokens[index])
        if token < 0 or token >= counts.size:
            return np.int64(index)
        counts[token] += 1
    return np.int64(-1)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum_stretch(tokens: Any, units: Any) -> Any:
    total = np.int64(0)
    for index in range(tokens.size):
        token = np.int64(tokens[index])
        if token < 0 or token >= units.size:
            return total, np.int64(index)
        total += units[token]
    return total, np.int64(-1)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _sum_by_window(sums: Any, bounds: Any, bits: Any, values: Any) -> None:
    for row in range(values.size):
        total = np.int64(0)
        for stretch in range(bounds[row], bounds[row + 1]):
            total += sums[stretch]
        values[row] = total >> bits
