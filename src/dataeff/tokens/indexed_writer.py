"""Writes .bin/.idx pairs: sequence by sequence, or many at once as one flat array with sizes.

Everything streams: sizes and document entries go to temporary files as tokens go to theirs, so memory does not grow
with the data. Both files take their names together at the end or not at all.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dataeff.errors import DataeffError
from dataeff.files import temporary_sibling, write_json
from dataeff.pretrain.owner import owned
from dataeff.tokens.index_format import (
    HEADER,
    MAGIC,
    VERSION,
    Codes,
    bin_path,
    facts_path,
    idx_path,
    token_type,
    type_code,
)

_ROWS = 1 << 18
_COPY_BYTES = 1 << 26
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a kernel or file system answers that cannot copy from file to file by itself.
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class _Files:
    data: IO[bytes]
    index: IO[bytes]
    entries: IO[bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """Which values may be written, and what to tell (with {low} and {high}) when one may not."""

    low: int
    high: int
    fault: str


Writer = TypeVar("Writer", bound="SequenceWriter")


class SequenceWriter:
    """Appends sequences and ends documents; all of it goes to open files.

    The .idx is written as far as it can be (the sizes) behind a header that is filled in at the end. `facts`, if set,
    become {prefix}.json.
    """

    def __init__(self, files: _Files, dtype: np.dtype[Any], code: int, limits: Limits) -> None:
        self.dtype = dtype
        self.sequence_count = self.document_count = self.token_count = self._last_end = 0
        self.facts: dict[str, Any] | None = None
        self._files, self._code, self._limits = files, code, limits
        files.index.write(bytes(HEADER.size))
        files.entries.write(np.zeros(1, dtype=np.int64).tobytes())

    def add(self, values: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """One document of one sequence."""
        self.add_sequence(values)
        self.end_documents(np.array([self.sequence_count]))

    def add_sequence(self, values: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """One more sequence of a document that `end_documents` will end."""
        array = np.asarray(values, dtype=np.int64 if len(values) == 0 else None)
        self._add_sequences(array, np.array([array.size]))

    def add_flat(
        self,
        values: NDArray[np.integer[Any]],
        sizes: NDArray[np.integer[Any]],
        document_sizes: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        """Sequences of these sizes, one after the other in `values`; documents of `document_sizes` sequences.

        Without `document_sizes`, each sequence is a document.
        """
        sequences = len(sizes) if document_sizes is None else int(document_sizes.sum())
        if int(sizes.sum()) != len(values) or sequences != len(sizes):
            raise ValueError(f"sizes of {sizes.sum()} tokens, {len(sizes)} sequences; given {len(values)}, {sequences}")
        before = self.sequence_count
        self._add_sequences(values, sizes)
        ends = np.arange(1, len(sizes) + 1) if document_sizes is None else np.cumsum(document_sizes)
        self.end_documents(before + ends)

    def add_file(self, source: IO[bytes], sizes: Iterable[NDArray[np.integer[Any]]]) -> None:
        """Sequences of these sizes, whose tokens, of this writer's type, are all of `source`."""
        self._files.data.flush()
        copied = _copy(source.fileno(), self._files.data.fileno())
        self._files.data.seek(0, os.SEEK_END)
        for part in sizes:
            self._files.index.write(part.astype(np.int32).tobytes())
            self.sequence_count += len(part)
        self.token_count += copied // self.dtype.itemsize

    def end_documents(self, ends: NDArray[np.integer[Any]]) -> None:
        """Documents that end before the sequences of these numbers, which rise."""
        if len(ends) == 0:
            return
        if ends[0] < self._last_end or (ends[1:] < ends[:-1]).any():
            raise ValueError(f"documents end at {ends}, after one that ends at {self._last_end}")
        self._files.entries.write(ends.astype(np.int64).tobytes())
        self.document_count += len(ends)
        self._last_end = int(ends[-1])

    def _add_sequences(self, values: NDArray[np.integer[Any]], sizes: NDArray[np.integer[Any]]) -> None:
        if len(values) and not self._limits.low <= int(values.min()) <= int(values.max()) <= self._limits.high:
            fault = self._limits.fault.format(low=values.min(), high=values.max())
            raise DataeffError(f"document {self.document_count}: {fault}")
        if len(sizes) and int(sizes.max()) > np.iinfo(np.int32).max:
            raise DataeffError(
                f"document {self.document_count}: a sequence of {sizes.max()} tokens; the format counts at most "
                f"2**31 - 1: split the document"
            )
        self._files.data.write(np.ascontiguousarray(values, dtype=self.dtype).data)
        self._files.index.write(np.ascontiguousarray(sizes, dtype=np.int32).data)
        self.sequence_count += len(sizes)
        self.token_count += len(values)

    def finish(self) -> None:
        """The byte offsets, the document entries and the header."""
        if self._last_end != self.sequence_count:
            raise ValueError(f"the last document ends at sequence {self._last_end} of {self.sequence_count}")
        index, entries = self._files.index, self._files.entries
        _write_pointers(index, self.sequence_count, self.dtype.itemsize)
        entries.seek(0)
        shutil.copyfileobj(entries, index, _COPY_BYTES)
        index.seek(0)
        index.write(HEADER.pack(MAGIC, VERSION, self._code, self.sequence_count, self.document_count + 1))


class IndexedDatasetWriter(SequenceWriter):
    """A SequenceWriter for the ids of one vocabulary."""

    def __init__(self, files: _Files, prefix: Path, vocab_size: int) -> None:
        dtype = token_type(vocab_size)
        remedy = f"the vocabulary has {vocab_size}: use the tokenizer that the ids were made with"
        limits = Limits(0, vocab_size - 1, f"token ids from {{low}} to {{high}}; {remedy}")
        super().__init__(files, dtype, type_code(prefix, dtype, "megatron"), limits)


def _write_pointers(index: IO[bytes], sequences: int, itemsize: int) -> None:
    """Reads the sizes back part by part and appends the byte at which each sequence starts."""
    reached = 0
    for first in range(0, sequences, _ROWS):
        rows = min(_ROWS, sequences - first)
        index.seek(HEADER.size + 4 * first)
        lengths = np.frombuffer(index.read(4 * rows), dtype=np.int32).astype(np.int64) * itemsize
        ends = reached + np.cumsum(lengths)
        index.seek(HEADER.size + 4 * sequences + 8 * first)
        index.write((ends - lengths).tobytes())
        reached = int(ends[-1])
    index.seek(HEADER.size + 12 * sequences)


def _copy(source: int, target: int) -> int:
    """Appends one open file to another inside the kernel, or by reading where that cannot; the number of bytes."""
    copied = 0
    try:
        while count := os.copy_file_range(source, target, _COPY_BYTES):
            copied += count
    except OSError as error:
        if error.errno not in _NO_COPY_RANGE:
            raise
        while count := os.sendfile(target, source, None, _COPY_BYTES):
            copied += count
    return copied


@contextmanager
def _writing(prefix: Path, make: Callable[[_Files], Writer]) -> Iterator[Writer]:
    """Yields a writer of temporary files; on success the pair takes its names, on failure nothing is left."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data, index = temporary_sibling(bin_path(prefix)), temporary_sibling(idx_path(prefix))
    entries = temporary_sibling(prefix.with_name(prefix.name + ".documents"))
    try:
        with data.open("w+b") as tokens, index.open("w+b") as sizes, entries.open("w+b") as documents:
            writer = make(_Files(tokens, sizes, documents))
            yield writer
            writer.finish()
            for stream in (tokens, sizes):
                stream.flush()
                os.fsync(stream.fileno())
        _publish(prefix, data, index, writer.facts)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise DataeffError(
            f"{prefix}: the token files do not fit ({error.strerror}); free space there and run again"
        ) from None
    finally:
        for path in (data, index, entries):
            path.unlink(missing_ok=True)


def _publish(prefix: Path, data: Path, index: Path, facts: dict[str, Any] | None) -> None:
    """Gives the finished files their names, one process at a time, so that a pair is always of one process.

    The old .idx goes first and the new one comes last: a process killed in between leaves a .bin without an .idx,
    which no reader accepts, and never an old index over new tokens.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(owned(prefix.with_name(f".{prefix.name}.lock"), poll_seconds=0.05))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(f"{prefix}: no file locks on this file system; write it from one process only", flush=True)
        idx_path(prefix).unlink(missing_ok=True)
        data.replace(bin_path(prefix))
        if facts is not None:
            write_json(facts_path(prefix), facts)
        index.replace(idx_path(prefix))


@contextmanager
def write_indexed_dataset(prefix: Path, vocab_size: int) -> Iterator[IndexedDatasetWriter]:
    """Yields a writer of token ids below `vocab_size`, in Megatron's type for it and with Megatron's codes."""
    prefix = Path(prefix)
    with _writing(prefix, lambda files: IndexedDatasetWriter(files, prefix, vocab_size)) as writer:
        yield writer


@contextmanager
def index_writer(prefix: Path, dtype: DTypeLike, codes: Codes = "megatron") -> Iterator[SequenceWriter]:
    """Yields a writer of any integers that fit into `dtype`, with Megatron's or DeepSpeed's codes in the .idx."""
    prefix, stored = Path(prefix), np.dtype(dtype)
    code, bounds = type_code(prefix, stored, codes), np.iinfo(stored)
    fault = f"values from {{low}} to {{high}} do not fit into {stored}: use a larger type"
    limits = Limits(int(bounds.min), int(bounds.max), fault)
    with _writing(prefix, lambda files: SequenceWriter(files, stored, code, limits)) as writer:
        yield writer


def write_indexed_arrays(
    prefix: Path,
    arrays: Iterable[NDArray[np.integer[Any]]],
    dtype: DTypeLike,
    *,
    documents: Literal["each", "one"] | NDArray[np.integer[Any]] = "each",
    codes: Codes = "megatron",
) -> int:
    """Each array a sequence; the number of them. Streams: `arrays` may be a generator of any length.

    `documents`: each array is one, all arrays are one (as DeepSpeed's analyser has it), or entries that rise from 0
    to the number of arrays.
    """
    with index_writer(prefix, dtype, codes) as writer:
        for array in arrays:
            writer.add_sequence(array)
        if isinstance(documents, str):
            count = writer.sequence_count
            writer.end_documents(np.arange(1, count + 1) if documents == "each" else np.array([count]))
        elif len(documents) == 0 or documents[0] != 0:
            raise ValueError(f"document entries {documents}: they begin with 0")
        else:
            writer.end_documents(documents[1:])
    return writer.sequence_count
