"""Samples: fixed-length windows over the shuffled documents, addressed by Megatron's three index files.

`doc_idx` is the order of the documents, `sample_idx` where each window begins (position in doc_idx, offset in
that document), `shuffle_idx` the order in which the windows are numbered. They are built as
Megatron-DeepSpeed's GPTDataset builds them for one exact epoch, from the same numpy generator, so that its
index files and ours are interchangeable. A window holds sequence_length + 1 tokens (inputs and the labels one
further on) and shares its last token with the next. Several token files are one dataset by reference:
document numbers count on from file to file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, read_json, write_json, write_manifest
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import IndexedDataset

FACTS = "samples.json"
_LOCATE_ROWS = 1 << 20
_RUN_AGAIN = "run `dataeff samples` again"


def open_tokens(prefixes: Sequence[Path]) -> list[IndexedDataset]:
    if not prefixes:
        raise DataeffError("no token files given; pass the prefix (the name less .bin) of at least one")
    return [IndexedDataset(prefix) for prefix in prefixes]


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path) -> None:
    """Writes out/{doc_idx,sample_idx,shuffle_idx}.npy and samples.json for one epoch over the token files."""
    datasets = open_tokens(prefixes)
    sizes = np.concatenate([dataset.sizes for dataset in datasets])
    tokens, length = int(sizes.sum(dtype=np.int64)), spec.sequence_length
    if tokens < length + 1:
        raise DataeffError(
            f"{', '.join(map(str, prefixes))}: {tokens} tokens are fewer than one sample's {length + 1}; "
            f"use a larger corpus or a shorter sequence_length"
        )
    if len(sizes) > np.iinfo(np.int32).max:
        raise DataeffError(
            f"{', '.join(map(str, prefixes))}: {len(sizes)} documents; Megatron counts at most 2**31 - 1: use fewer"
        )
    random = np.random.RandomState(spec.seed)
    doc_idx = np.arange(len(sizes), dtype=np.int32)
    random.shuffle(doc_idx)
    sample_idx = build_sample_idx(sizes, doc_idx, length)
    samples = len(sample_idx) - 1
    shuffle_idx = np.arange(samples, dtype=id_type(samples))
    random.shuffle(shuffle_idx)
    with atomic_directory(out) as folder:
        np.save(folder / "doc_idx.npy", doc_idx)
        np.save(folder / "sample_idx.npy", sample_idx)
        np.save(folder / "shuffle_idx.npy", shuffle_idx)
        facts = {
            "samples": samples,
            "sequence_length": length,
            "seed": spec.seed,
            "tokens_per_epoch": tokens,
            "token_files": _describe(datasets),
        }
        write_json(folder / FACTS, facts)
        write_manifest(folder)


def id_type(samples: int) -> type[np.integer[Any]]:
    """The type of a sample's number, by Megatron's rule."""
    return np.int64 if samples >= np.iinfo(np.uint32).max - 1 else np.uint32


def _describe(datasets: Sequence[IndexedDataset]) -> list[dict[str, Any]]:
    return [
        {"name": dataset.prefix.name, "documents": len(dataset), "tokens": dataset.token_count} for dataset in datasets
    ]


def build_sample_idx(sizes: NDArray[np.int32], doc_idx: NDArray[np.int32], sequence_length: int) -> NDArray[np.int32]:
    """[samples + 1, 2]: position in doc_idx and offset in that document of token i * sequence_length of the
    epoch.

    Megatron walks the documents and stops each window at its last token, which the next one begins with: the
    walk ends where that token lies, never at the start of an empty document. Only the first row is fixed at
    (0, 0).
    """
    ordered = sizes[doc_idx].astype(np.int64)
    ends = np.cumsum(ordered)
    samples = (int(ends[-1]) - 1) // sequence_length
    sample_idx = np.zeros((samples + 1, 2), dtype=np.int32)
    for first in range(1, samples + 1, _LOCATE_ROWS):
        rows = slice(first, min(first + _LOCATE_ROWS, samples + 1))
        token = np.arange(rows.start, rows.stop, dtype=np.int64) * sequence_length
        position = np.searchsorted(ends, token, side="right")
        sample_idx[rows, 0] = position
        sample_idx[rows, 1] = token - (ends[position] - ordered[position])
    return sample_idx


class Samples:
    """The samples of an index folder, read from its token files; memory-mapped, safe to read from many
    threads.
    """

    def __init__(self, folder: Path, prefixes: Sequence[Path]) -> None:
        self.folder = Path(folder)
        self._datasets = open_tokens(prefixes)
        facts = read_json(self.folder / FACTS)
        try:
            self.sequence_length = int(facts["sequence_length"])
            self.tokens_per_epoch = int(facts["tokens_per_epoch"])
            self._count = int(facts["samples"])
            described = facts["token_files"]
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{self.folder / FACTS}: not the facts of a sample index; {_RUN_AGAIN}") from None
        found = _describe(self._datasets)
        if described != found:
            raise DataeffError(
                f"{self.folder / FACTS}: made for the token files {described}, given {found}; {_RUN_AGAIN}"
            )
        self._sizes = np.concatenate([dataset.sizes for dataset in self._datasets])
        self._check_counts()
        documents = len(self._sizes)
        self._doc_idx = load_array(self.folder / "doc_idx.npy", (documents,), "i", _RUN_AGAIN)
        self._sample_idx = load_array(self.folder / "sample_idx.npy", (self._count + 1, 2), "i", _RUN_AGAIN)
        self._shuffle_idx = load_array(self.folder / "shuffle_idx.npy", (self._count,), "iu", _RUN_AGAIN)
        self._starts = [dataset.starts for dataset in self._datasets]

    def _check_counts(self) -> None:
        tokens = int(self._sizes.sum(dtype=np.int64))
        expected = (tokens - 1) // self.sequence_length if self.sequence_length > 0 else 0
        if tokens != self.tokens_per_epoch or self._count != expected or expected < 1:
            raise DataeffError(
                f"{self.folder / FACTS}: {self._count} samples of {self.sequence_length} + 1 tokens in "
                f"{self.tokens_per_epoch}; the token files hold {tokens}, which give {expected}; {_RUN_AGAIN}"
            )

    def __len__(self) -> int:
        return self._count

    def read(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Tokens [len(ids), sequence_length + 1] of the samples with these numbers."""
        ids = np.asarray(ids)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._count:
            raise ValueError(f"sample ids from {ids.min()} to {ids.max()}; there are {self._count} samples")
        try:
            rows = self._sample_idx[self._shuffle_idx[ids]]
        except IndexError:
            raise self._bad_entry() from None
        tokens = np.empty((len(ids), self.sequence_length + 1), dtype=np.int64)
        first_document = 0
        for dataset, starts in zip(self._datasets, self._starts, strict=True):
            if not _copy_tokens(rows, self._doc_idx, self._sizes, dataset.tokens, starts, first_document, tokens):
                raise self._bad_entry()
            first_document += len(dataset)
        return tokens

    def _bad_entry(self) -> DataeffError:
        return DataeffError(f"{self.folder}: an entry of its arrays points outside the tokens; {_RUN_AGAIN}")


def load_array(path: Path, shape: tuple[int | None, ...], kinds: str, remedy: str) -> NDArray[Any]:
    """A memory-mapped .npy of integers; refused unless of this shape (None: any) and of these kinds."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; {remedy}") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataeffError(f"{path}: not a numpy array ({error}); {remedy}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or not values.dtype.isnative:
        raise DataeffError(f"{path}: not an array of integers; {remedy}")
    fits = [wanted in (None, found) for wanted, found in zip(shape, values.shape, strict=False)]
    if values.ndim != len(shape) or not all(fits):
        raise DataeffError(f"{path}: an array of shape {values.shape}; {shape} is needed; {remedy}")
    # A plain view: indexing a numpy.memmap object costs several times as much.
    return np.asarray(values)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _copy_tokens(rows: Any, doc_idx: Any, sizes: Any, tokens: Any, starts: Any, first_document: int, out: Any) -> bool:
    """Fills in what one token file holds of each window; False if an entry points outside the documents.

    The walk over a window's documents is repeated for each file; it is short beside the copying.
    """
    length = out.shape[1]
    for row in range(rows.shape[0]):
        position, offset, filled = rows[row, 0], np.int64(rows[row, 1]), 0
        while filled < length:
            if position < 0 or position >= doc_idx.size:
                return False
            document = doc_idx[position]
            if document < 0 or document >= sizes.size or offset < 0 or offset > sizes[document]:
                return False
            taken = min(length - filled, sizes[document] - offset)
            here = document - first_document
            if 0 <= here < starts.size:
                start = starts[here] + offset
                for index in range(taken):
                    out[row, filled + index] = tokens[start + index]
            filled += taken
            position += 1
            offset = np.int64(0)
    return True
