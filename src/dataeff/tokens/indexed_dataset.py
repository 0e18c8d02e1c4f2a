"""Token sequences in Megatron's memory-mapped files: {prefix}.bin (tokens) and {prefix}.idx (where they lie).

The format is kept to the byte, so that Megatron-DeepSpeed trains on our files and we read anyone's; index_format
has the layout, indexed_writer writes it. What other modules use, all of it importable from here:

- `IndexedDataset(prefix)`: `sizes`, `pointers`, `document_index`, `tokens`, `dtype`, `token_count`, `len(d)`, `d[i]`,
  `release()`;
- `write_indexed_dataset(prefix, vocab_size)`: a context that yields an IndexedDatasetWriter (`add`, `add_flat`);
- `write_indexed_arrays(prefix, arrays, dtype, documents="each" | "one" | entries, codes="megatron" | "deepspeed")`:
  any integer arrays as sequences, and `index_writer(prefix, dtype, codes)`, the context below it, for data at hand as
  one flat array with sizes.

`indexed_merge` makes one pair of several, and lets DeepSpeed's own reader open a pair.

A reader trusts nothing: every field is checked against the sizes of the two files before it is used, in parts, so
that opening and reading a file larger than memory takes no memory to speak of. On reading, the size of the .bin
decides which of the two meanings of code 8 (uint16, uint64) is meant.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.tokens.index_format import HEADER, MAGIC, TYPES, VERSION, bin_path, facts_path, idx_path, token_type
from dataeff.tokens.indexed_writer import (
    IndexedDatasetWriter,
    index_writer,
    write_indexed_arrays,
    write_indexed_dataset,
)

__all__ = [
    "HEADER",
    "MAGIC",
    "IndexedDataset",
    "IndexedDatasetWriter",
    "bin_path",
    "facts_path",
    "idx_path",
    "index_writer",
    "token_type",
    "write_indexed_arrays",
    "write_indexed_dataset",
]

_CHECK_ROWS = 1 << 20


class IndexedDataset:
    """The sequences of one pair of files, memory-mapped and read-only.

    `tokens` is all of them in a row, `sizes` (int32) how many each has, `pointers` (int64) the byte in the .bin that
    each starts at, `document_index` (int64, one more than documents) which sequence each document starts with. The
    arrays are views of the files, not aligned in memory (the header has 34 bytes); reading them makes pages resident
    until `release`.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = Path(prefix)
        self._index_map, index = _map(idx_path(self.prefix))
        self._data_map, data = _map(bin_path(self.prefix))
        code, sequences, entries = _check_header(idx_path(self.prefix), index)
        sizes_end = HEADER.size + 4 * sequences
        pointers_end = sizes_end + 8 * sequences
        self.sizes: NDArray[np.int32] = index[HEADER.size : sizes_end].view(np.int32)
        self.pointers: NDArray[np.int64] = index[sizes_end:pointers_end].view(np.int64)
        self.document_index: NDArray[np.int64] = index[pointers_end : pointers_end + 8 * entries].view(np.int64)
        self.token_count = self._count_tokens()
        self.dtype = self._find_dtype(code, data.size)
        self._check_pointers()
        self._check_documents()
        self.tokens: NDArray[Any] = data.view(self.dtype)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, sequence: int) -> NDArray[Any]:
        start = int(self.pointers[sequence]) // self.dtype.itemsize
        return self.tokens[start : start + int(self.sizes[sequence])]

    def release(self) -> None:
        """Gives the pages read so far back to the system; the arrays stay valid and are read again when used."""
        _release(self._index_map)
        _release(self._data_map)

    def _count_tokens(self) -> int:
        total = 0
        for first in range(0, len(self), _CHECK_ROWS):
            sizes = self.sizes[first : first + _CHECK_ROWS]
            if int(sizes.min()) < 0:
                row = first + int(sizes.argmin())
                raise _bad_index(idx_path(self.prefix), f"sequence {row} has the size {int(self.sizes[row])}")
            total += int(sizes.sum(dtype=np.int64))
            _release(self._index_map)
        return total

    def _find_dtype(self, code: int, data_bytes: int) -> np.dtype[Any]:
        for option in TYPES[code]:
            if self.token_count * option.itemsize == data_bytes:
                return option
        first = TYPES[code][0]
        hint = "they are not one pair or one is cut short"
        if data_bytes == (self.token_count + len(self.document_index) - 1) * first.itemsize:
            hint = (
                "one token a document too many, as some versions of Megatron's preprocess_data.py --append-eod leave "
                "the end token out of the sizes"
            )
        raise DataeffError(
            f"{bin_path(self.prefix)}: {data_bytes} bytes, but {idx_path(self.prefix)} describes "
            f"{self.token_count} tokens of type {first} ({self.token_count * first.itemsize} bytes); {hint}: delete "
            f"both and make them again"
        )

    def _check_pointers(self) -> None:
        """Sequences lie one after the other without gaps, as every writer of the format leaves them."""
        expected = 0
        for first in range(0, len(self), _CHECK_ROWS):
            lengths = self.sizes[first : first + _CHECK_ROWS].astype(np.int64) * self.dtype.itemsize
            ends = expected + np.cumsum(lengths)
            wrong = self.pointers[first : first + _CHECK_ROWS] != ends - lengths
            if wrong.any():
                row = first + int(wrong.argmax())
                raise _bad_index(
                    idx_path(self.prefix), f"sequence {row} is said to start at byte {int(self.pointers[row])}"
                )
            expected = int(ends[-1])
            _release(self._index_map)

    def _check_documents(self) -> None:
        """Documents begin with the first sequence, follow each other and leave out none."""
        entries, last = self.document_index, 0
        sound = len(entries) > 0 and entries[0] == 0 and entries[-1] == len(self)
        for first in range(0, len(entries), _CHECK_ROWS):
            part = entries[first : first + _CHECK_ROWS]
            sound = sound and int(part[0]) >= last and not (part[1:] < part[:-1]).any()
            last = int(part[-1])
            _release(self._index_map)
        if not sound:
            raise _bad_index(
                idx_path(self.prefix),
                f"its document entries do not rise from 0 to the number of sequences ({len(self)})",
            )


def _map(path: Path) -> tuple[mmap.mmap | None, NDArray[np.uint8]]:
    """The bytes of a file, memory-mapped (a file of no bytes cannot be)."""
    try:
        # A pipe in place of the file would make a blocking open wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataeffError(
            f"{path}: no such file; a .bin and its .idx go together: make both with `dataeff tokens encode`"
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise _unreadable(path, "not a regular file")
        if facts.st_size == 0:
            return None, np.empty(0, dtype=np.uint8)
        mapped = mmap.mmap(descriptor, facts.st_size, access=mmap.ACCESS_READ)
        return mapped, np.frombuffer(mapped, dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(descriptor)


def _unreadable(path: Path, why: object) -> DataeffError:
    return DataeffError(f"{path}: cannot be read ({why}); check that it is a readable file")


def _release(mapped: mmap.mmap | None) -> None:
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


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
