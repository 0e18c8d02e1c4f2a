"""The difficulty index in the files of DeepSpeed's DataAnalyzer, to the byte, so that its sampler takes ours.

Per metric M, from value.npy and order.npy (the smallest integer types, DeepSpeed's type codes):

- M_sample_to_metric: a sequence of one value per sample, by sample id;
- M_index_to_sample: a sequence per distinct value, rising: the ids of the samples that have it;
- M_index_to_metric: the distinct values themselves, one per sequence;
- M_index_to_sample_percentile_merged: the same ids in about a hundred sequences, of as many distinct values each.

The ids are those of order.npy and the values those of value.npy, copied by the kernel; the rest is streamed, so that
memory does not grow with the samples. DeepSpeed's own folders are read back as a DifficultyIndex, too.
"""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.map import RESIDENT_LIMIT_BYTES, integer_type, load_frequency, resident_bytes, storing
from dataeff.analyze.reduce import FACTS
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory
from dataeff.progress import Progress
from dataeff.study.types import FREQUENCY
from dataeff.tokens.indexed_dataset import IndexedDataset, idx_path, index_writer, write_indexed_arrays

SAMPLE_TO_METRIC = "sample_to_metric"
INDEX_TO_SAMPLE = "index_to_sample"
INDEX_TO_METRIC = "index_to_metric"
PERCENTILE_MERGED = "index_to_sample_percentile_merged"
METRIC_VALUE = "metric_value"

_BLOCK = 1 << 20
_LONGEST = np.iinfo(np.int32).max

Runs = tuple[NDArray[Any], NDArray[np.int64]]


def prefix_of(folder: Path, metric: str, kind: str) -> Path:
    """The path, less .bin or .idx, of one of a metric's pairs in its folder."""
    return Path(folder) / f"{metric}_{kind}"


def write_metric(index: Path, out: Path) -> None:
    """Writes the four pairs of the native index folder `index`, and a copy of its index.json, to the folder `out`."""
    opened = DifficultyIndex.open(index)
    with storing(Path(out)), atomic_directory(out) as target:
        shutil.copyfile(Path(index) / FACTS, target / FACTS)
        _write_pairs(opened, Path(index), target)


def add_pairs(index: Path) -> None:
    """Writes the four pairs beside the files of the native index folder `index`."""
    opened = DifficultyIndex.open(index)
    with storing(Path(index)), TemporaryDirectory(dir=index, prefix=".") as scratch:
        _write_pairs(opened, Path(index), Path(scratch))
        # The .idx of the ids is what makes a folder DeepSpeed's: it comes last.
        last = f"{opened.metric}_{INDEX_TO_SAMPLE}.idx"
        last = f"{opened.metric}_{INDEX_TO_SAMPLE}.idx"
        for path in sorted(Path(scratch).iterdir(), key=lambda path: path.name == last):
            path.replace(index / path.name)


def write_frequency(frequency: Path, out: Path) -> None:
    """Writes the counts of a .npy as the folder `out`'s total_vocab_freq_metric_value: one sequence of all of them."""
    counts = load_frequency(frequency)
    dtype = integer_type(int(counts.min()), int(counts.max()))
    with atomic_directory(out) as target:
        prefix = prefix_of(target, FREQUENCY, METRIC_VALUE)
        write_indexed_arrays(prefix, [counts], dtype, documents="one", codes="deepspeed")


def is_deepspeed_index(folder: Path, metric: str) -> bool:
    return idx_path(prefix_of(folder, metric, INDEX_TO_SAMPLE)).is_file()


def open_deepspeed_index(folder: Path, metric: str) -> DifficultyIndex:
    """A metric's folder of DeepSpeed's analyser, or of `write_metric`, as the object that plans select from."""
    values = IndexedDataset(prefix_of(folder, metric, SAMPLE_TO_METRIC))
    order = IndexedDataset(prefix_of(folder, metric, INDEX_TO_SAMPLE))
    samples = len(values)
    if not samples or values.token_count != samples or order.token_count != samples:
        raise DataeffError(
            f"{folder}: {values.token_count} values of {samples} samples and {order.token_count} ids in order: not "
            f"the index of one metric; analyze again"
        )
    return DifficultyIndex(metric, values.tokens, order.tokens)


def _write_pairs(index: DifficultyIndex, source: Path, target: Path) -> None:
    samples, metric = len(index), index.metric
    id_type = integer_type(0, samples - 1)
    value_type = integer_type(*index.values[index.order[[0, -1]]].tolist())

    def write(kind: str, dtype: np.dtype[Any], data: IO[bytes], sizes: Iterator[NDArray[Any]], documents: int) -> None:
        with index_writer(prefix_of(target, metric, kind), dtype, "deepspeed") as writer:
            writer.add_file(data, sizes)
            writer.end_documents(np.full(documents, writer.sequence_count))

    # DeepSpeed merges the file of its one reduce thread, which has ended its document, and ends one more: an empty one.
    # It writes the percentiles without that detour.
    with TemporaryFile(dir=target, buffering=0) as distinct, TemporaryFile(dir=target, buffering=0) as counts:
        number = 0
        for found, lengths in _runs(index, source):
            distinct.write(found.astype(value_type).data)
            counts.write(_sequence_sizes(lengths, metric).data)
            number += len(found)
        with _data(source / "value.npy", value_type, target) as values:
            write(SAMPLE_TO_METRIC, value_type, values, _ones(samples), documents=2)
        distinct.seek(0)
        write(INDEX_TO_METRIC, value_type, distinct, _ones(number), documents=2)
        with _data(source / "order.npy", id_type, target) as ids:
            write(INDEX_TO_SAMPLE, id_type, ids, _read_sizes(counts, _BLOCK), documents=2)
        with _data(source / "order.npy", id_type, target) as ids:
            merged = (
                _sequence_sizes(part.sum(keepdims=True, dtype=np.int64), metric)
                for part in _read_sizes(counts, max(1, number // 100))
            )
            write(PERCENTILE_MERGED, id_type, ids, merged, documents=1)


def _runs(index: DifficultyIndex, source: Path) -> Iterator[Runs]:
    """(distinct values, number of samples that have each), rising, in blocks."""
    progress = Progress(f"analyze {index.metric}, DeepSpeed's files", len(index), "samples")
    pending: Runs = (np.empty(0, index.values.dtype), np.empty(0, np.int64))
    with _mapped(source / "value.npy") as (values, release_values), _mapped(source / "order.npy") as (order, release):
        for first in range(0, len(index), _BLOCK):
            block = values[order[first : first + _BLOCK]]
            starts = np.concatenate([[0], np.flatnonzero(block[1:] != block[:-1]) + 1])
            found = np.concatenate([pending[0], block[starts]])
            lengths = np.concatenate([pending[1], np.diff(starts, append=len(block))])
            if len(pending[0]) and found[0] == found[1]:
                lengths[1] += lengths[0]
                found, lengths = found[1:], lengths[1:]
            if (found[1:] <= found[:-1]).any():
                raise DataeffError(f"{source}: order.npy does not follow the values in value.npy; analyze again")
            yield found[:-1], lengths[:-1]
            pending = found[-1:], lengths[-1:]
            progress.show(first + len(block))
            if resident_bytes() > RESIDENT_LIMIT_BYTES:
                release_values()
                release()
    yield pending


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[NDArray[Any], Callable[[], None]]]:
    """A .npy's array over a map of the file, and what gives the map's pages back to the system."""
    described = np.load(path, mmap_mode="r")
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    array = np.frombuffer(mapped, described.dtype, len(described), described.offset)
    yield array, lambda: mapped.madvise(mmap.MADV_DONTNEED)


@contextmanager
def _data(path: Path, dtype: np.dtype[Any], scratch: Path) -> Iterator[IO[bytes]]:
    """The bytes of a .npy's array in this type, as an open file that stands at their start."""
    array = np.load(path, mmap_mode="r")
    # Numbers below 2**63 have the same bytes with and without a sign.
    if array.dtype == dtype or (array.dtype.kind in "iu" and array.dtype.itemsize == dtype.itemsize == 8):
        with path.open("rb", buffering=0) as stream:
            stream.seek(array.offset)
            yield stream
        return
    with TemporaryFile(dir=scratch, buffering=0) as converted:
        for first in range(0, len(array), _BLOCK):
            converted.write(array[first : first + _BLOCK].astype(dtype).data)
        converted.seek(0)
        yield converted


def _ones(count: int) -> Iterator[NDArray[np.int32]]:
    for first in range(0, count, _BLOCK):
        yield np.ones(min(_BLOCK, count - first), dtype=np.int32)


def _read_sizes(counts: IO[bytes], rows: int) -> Iterator[NDArray[np.int32]]:
    """The file's numbers, so many at a time."""
    counts.seek(0)
    while part := counts.read(4 * rows):
        yield np.frombuffer(part, dtype=np.int32)


def _sequence_sizes(lengths: NDArray[np.int64], metric: str) -> NDArray[np.int32]:
    if len(lengths) and int(lengths.max()) > _LONGEST:
        raise DataeffError(
            f"{metric}: {lengths.max()} samples go into one sequence of DeepSpeed's files, which count at most "
            f"{_LONGEST}; use the native form of the index"
        )
    return lengths.astype(np.int32)
