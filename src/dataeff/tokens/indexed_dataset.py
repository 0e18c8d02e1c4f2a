"""Token sequences in Megatron's memory-mapped files: {prefix}.bin (tokens) and {prefix}.idx (where they lie).

The format is kept to the byte, so that Megatron-DeepSpeed trains on our files and we read anyone's. An .idx
is: magic, version, a code for the type of a token, number of sequences, number of document entries, then per
sequence its size in tokens (int32) and its byte offset in the .bin (int64), then the document entries
(int64).

Megatron and DeepSpeed gave the codes 6 and 8 different meanings. We write Megatron's (uint16 is 8), because
Megatron is what trains on tokens; on reading, the size of the .bin decides which of the two is meant.

A reader trusts nothing: every field is checked against the sizes of the two files before it is used.
"""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import temporary_sibling

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sQBQQ")
UINT16_VOCABULARY_LIMIT = 65_500

# Code -> the integer types that one of the two writers means by it; Megatron's first.
TYPES: dict[int, tuple[type[np.integer[Any]], ...]] = {
    1: (np.uint8,),
    2: (np.int8,),
    3: (np.int16,),
    4: (np.int32,),
    5: (np.int64,),
    6: (np.uint16,),
    7: (np.uint32,),
    8: (np.uint16, np.uint64),
}
_WRITE_CODES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
_CHECK_ROWS = 1 << 20


def bin_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".bin")


def idx_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".idx")


def token_type(vocab_size: int) -> np.dtype[Any]:
    """The type that Megatron stores tokens of this vocabulary in."""
    return np.dtype(np.uint16 if vocab_size < UINT16_VOCABULARY_LIMIT else np.int32)


class IndexedDataset:
    """The sequences of one pair of files, memory-mapped and read-only.

    `tokens` is all of them in a row; sequence i is `tokens[starts[i] : starts[i] + sizes[i]]`.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = Path(prefix)
        index = _map(idx_path(self.prefix))
        data = _map(bin_path(self.prefix))
        code, sequences, entries = _check_header(idx_path(self.prefix), index)
        sizes_end = HEADER.size + 4 * sequences
        pointers_end = sizes_end + 8 * sequences
        self.sizes: NDArray[np.int32] = index[HEADER.size : sizes_end].view(np.int32)
        self._pointers: NDArray[np.int64] = index[sizes_end:pointers_end].view(np.int64)
        self.document_index: NDArray[np.int64] = index[pointers_end : pointers_end + 8 * entries].view(np.int64)
        self.token_count = _count_tokens(idx_path(self.prefix), self.sizes)
        self.dtype = self._find_dtype(code, data.size)
        self._check_pointers()
        self._check_documents()
        self.tokens: NDArray[Any] = data.view(self.dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, sequence: int) -> NDArray[Any]:
        start = int(self._pointers[sequence]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.sizes[sequence])]

    @property
    def starts(self) -> NDArray[np.int64]:
        """Position of each sequence's first token in `tokens`; a new array."""
        return self._pointers // self.dtype.itemsize

    def _find_dtype(self, code: int, data_bytes: int) -> np.dtype[Any]:
        options = [np.dtype(option) for option in TYPES[code]]
        for option in options:
            if self.token_count * option.itemsize == data_bytes:
                return option
        raise DataeffError(
            f"{bin_path(self.prefix)}: {data_bytes} bytes, but {idx_path(self.prefix)} describes "
            f"{self.token_count} tokens of type {options[0]} ({self.token_count * options[0].itemsize} "
            f"bytes); they are not one pair or one is cut short: delete both and make them again"
        )

    def _check_pointers(self) -> None:
        """Sequences lie one after the other without gaps, as every writer of the format leaves them."""
        expected = 0
        for first in range(0, len(self), _CHECK_ROWS):
            sizes = self.sizes[first : first + _CHECK_ROWS].astype(np.int64)
            ends = expected + np.cumsum(sizes * self.dtype.itemsize)
            wrong = self._pointers[first : first + _CHECK_ROWS] != ends - sizes * self.dtype.itemsize
            if wrong.any():
                row = first + int(wrong.argmax())
                raise _bad_index(
                    idx_path(self.prefix),
                    f"sequence {row} is said to start at byte {int(self._pointers[row])}",
                )
            expected = int(ends[-1])

    def _check_documents(self) -> None:
        entries = self.document_index
        if len(entries) and (entries[0] != 0 or entries[-1] > len(self) or (entries[1:] < entries[:-1]).any()):
            raise _bad_index(
                idx_path(self.prefix), "its document entries do not rise from 0 to the number of sequences"
            )


def _map(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, memory-mapped (a file of no bytes cannot be)."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size == 0:
                return np.empty(0, dtype=np.uint8)
            return np.frombuffer(mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ), dtype=np.uint8)
    except FileNotFoundError:
        raise DataeffError(
            f"{path}: no such file; a .bin and its .idx go together: make both with `dataeff tokens encode`"
        ) from None
    except (OSError, ValueError) as error:
        raise DataeffError(f"{path}: cannot be read ({error}); check that it is a readable file") from None


def _bad_index(path: Path, fault: str) -> DataeffError:
    return DataeffError(
        f"{path}: {fault}; this is no sound Megatron index: delete the .bin and .idx and make them again"
    )


def _check_header(path: Path, index: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Type code, number of sequences, number of document entries; they account for every byte of the file."""
    if index.size < HEADER.size:
        raise _bad_index(path, f"{index.size} bytes are fewer than its header's {HEADER.size}")
    magic, version, code, sequences, entries = HEADER.unpack(index[: HEADER.size].tobytes())
    if magic != MAGIC:
        raise _bad_index(path, f"it begins with {magic!r}, not with {MAGIC!r}")
    if version != VERSION:
        raise _bad_index(path, f"format version {version}; only version {VERSION} is known")
    if code not in TYPES:
        raise _bad_index(path, f"token type code {code}; known: {', '.join(map(str, TYPES))}")
    # Python integers: a count near 2**64 does not wrap.
    described = HEADER.size + 12 * sequences + 8 * entries
    if described != index.size:
        raise _bad_index(
            path,
            f"{sequences} sequences and {entries} document entries take {described} bytes, not {index.size}",
        )
    return code, sequences, entries


def _count_tokens(path: Path, sizes: NDArray[np.int32]) -> int:
    if len(sizes) and int(sizes.min()) < 0:
        raise _bad_index(path, f"sequence {int(sizes.argmin())} has the size {int(sizes.min())}")
    return int(sizes.sum(dtype=np.int64))


class IndexedDatasetWriter:
    """Appends documents of one sequence each; tokens go straight to disk, sizes are kept (4 bytes a
    document).
    """

    def __init__(self, stream: BinaryIO, vocab_size: int) -> None:
        self._stream = stream
        self._vocab_size = vocab_size
        self.dtype = token_type(vocab_size)
        self.sizes = array("i")
        self.token_count = 0

    def add(self, tokens: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        values = np.asarray(tokens, dtype=np.int64 if len(tokens) == 0 else None)
        if values.size and not 0 <= int(values.min()) <= int(values.max()) < self._vocab_size:
            raise DataeffError(
                f"document {len(self.sizes)}: token ids from {values.min()} to {values.max()}; the "
                f"vocabulary has {self._vocab_size}: use the tokenizer that the ids were made with"
            )
        self._stream.write(values.astype(self.dtype).tobytes())
        self.sizes.append(values.size)
        self.token_count += values.size

    def index_bytes(self) -> Iterator[bytes]:
        """The .idx, part by part."""
        documents = len(self.sizes)
        sizes = np.frombuffer(self.sizes, dtype=np.int32)
        ends = np.cumsum(sizes, dtype=np.int64) * self.dtype.itemsize
        yield HEADER.pack(MAGIC, VERSION, _WRITE_CODES[self.dtype], documents, documents + 1)
        yield sizes.tobytes()
        yield (ends - sizes.astype(np.int64) * self.dtype.itemsize).tobytes()
        yield np.arange(documents + 1, dtype=np.int64).tobytes()


@contextmanager
def write_indexed_dataset(prefix: Path, vocab_size: int) -> Iterator[IndexedDatasetWriter]:
    """Yields a writer; on success both files take their names, on failure neither does.

    The old .idx goes first and the new one comes last: a process killed in between leaves a .bin without an
    .idx, which no reader accepts, and never an old index over new tokens.
    """
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    data, index = temporary_sibling(bin_path(prefix)), temporary_sibling(idx_path(prefix))
    try:
        with data.open("wb") as stream:
            writer = IndexedDatasetWriter(stream, vocab_size)
            yield writer
            _sync(stream)
        with index.open("wb") as stream:
            stream.writelines(writer.index_bytes())
            _sync(stream)
        idx_path(prefix).unlink(missing_ok=True)
        data.replace(bin_path(prefix))
        index.replace(idx_path(prefix))
    finally:
        data.unlink(missing_ok=True)
        index.unlink(missing_ok=True)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())
