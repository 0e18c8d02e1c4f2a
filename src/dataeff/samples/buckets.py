"""GPT samples in length buckets: each document cut into pieces of 2^k tokens, none of which crosses its ends.

Dataset Decomposition (arXiv 2405.13226). A sample of length L is L + 1 tokens, inputs and the targets one further on.
A document of n tokens, its end token included, has n - 1 targets (nothing precedes its first token); they are cut
into powers of two, largest first, down to the shortest bucket, a piece longer than the longest bucket into several of
that one. So neighbouring pieces share a token, and every token of a kept piece is predicted exactly once. The paper's
own script takes L + 1 tokens off the document for each piece: each later piece loses a target there. By default
it also cuts what is longer than the longest bucket at random; here, as with that switched off, the longest come first.

`starts` (int64 [samples]) is where each sample begins, counted through the token files, bucket after bucket, the
shortest first. The documents are walked twice, to count and to fill it in; it is memory-mapped: 8 bytes a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.bucket_plan import LAYOUT, Buckets, bucket_lengths
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, read_json, write_json, write_manifest
from dataeff.progress import Progress
from dataeff.samples.arrays import create_array, load_array, release
from dataeff.samples.batch import Ids
from dataeff.samples.gpt import FACTS, RUN_AGAIN
from dataeff.samples.split import training_documents
from dataeff.samples.tokens import describe, file_of, open_tokens, tokens_by_type
from dataeff.study.base import FamilyName
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import IndexedDataset

ARRAY = "starts.npy"
_DOCUMENTS = 1 << 20
"""Documents walked at a time: 4 MB of sizes."""


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path) -> None:
    """Writes out/starts.npy, samples.json and manifest.json over the token files; says what is left out."""
    datasets = open_tokens(prefixes)
    documents = training_documents(spec.split, sum(map(len, datasets)))
    lengths = np.array(bucket_lengths(spec.sequence_length), dtype=np.int64)
    counts, targets = np.zeros(len(lengths), dtype=np.int64), 0
    for _, sizes in _blocks(datasets, documents, "samples: counting pieces"):
        targets += int(_count(sizes, lengths, counts))
    samples, kept = int(counts.sum()), int((counts * lengths).sum())
    if samples < 1:
        raise DataeffError(
            f"{', '.join(map(str, prefixes))}: none of {documents} documents has {lengths[0] + 1} tokens, which the "
            f"shortest length bucket needs; use a corpus of longer documents or a variant without length buckets"
        )
    with atomic_directory(out) as folder:
        starts = create_array(folder / ARRAY, (samples,), np.int64)
        next_places = np.cumsum(counts) - counts
        for begin, sizes in _blocks(datasets, documents, "samples: placing pieces"):
            _place(sizes, begin, lengths, next_places, starts)
            release(starts)
        pairs = zip(lengths.tolist(), counts.tolist(), strict=True)
        facts = {
            "family": "gpt",
            "layout": LAYOUT,
            "samples": samples,
            "sequence_length": int(lengths[-1]),
            "buckets": [{"length": length, "samples": count} for length, count in pairs],
            "documents": documents,
            "targets": targets,
            "targets_left_out": targets - kept,
            "token_files": describe(datasets),
        }
        write_json(folder / FACTS, facts)
        write_manifest(folder)
    print(
        f"samples: {samples:,} of {lengths[0]} to {lengths[-1]} tokens from {documents:,} documents; "
        f"{targets - kept:,} of {targets:,} tokens ({(targets - kept) / targets:.2%}) are left out: rests of documents "
        f"shorter than {lengths[0]}",
        flush=True,
    )


def _blocks(datasets: Sequence[IndexedDataset], documents: int, what: str) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Sizes of the first `documents` documents in parts, each with the number of tokens ahead of it."""
    progress, done, token = Progress(what, documents, "documents"), 0, 0
    for dataset in datasets:
        last, at = min(len(dataset), documents - done), token
        for first in range(0, last, _DOCUMENTS):
            # Not aligned in the file, which compiled code would take for another type: a copy is.
            sizes = dataset.sizes[first : min(first + _DOCUMENTS, last)].copy()
            yield at, sizes
            at += int(sizes.sum(dtype=np.int64))
            dataset.release()
            progress.show(done + first + len(sizes))
        done, token = done + last, token + dataset.token_count


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _count(sizes: Any, lengths: Any, counts: Any) -> Any:
    """Adds each bucket's pieces of these documents to `counts`; the number of targets that the documents have."""
    targets, last = 0, lengths.size - 1
    for document in range(sizes.size):
        left: Any = max(0, np.int64(sizes[document]) - 1)
        targets += left
        counts[last] += left // lengths[last]
        left %= lengths[last]
        for bucket in range(last):
            if left & lengths[bucket]:
                counts[bucket] += 1
    return targets


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _place(sizes: Any, begin: Any, lengths: Any, next_places: Any, starts: Any) -> None:
    """Writes where the pieces of these documents start, each bucket's from `next_places` on, and moves these on."""
    document_start = np.int64(begin)
    for document in range(sizes.size):
        token, left = document_start, np.int64(sizes[document]) - 1
        bucket = lengths.size - 1
        while bucket >= 0:
            if left >= lengths[bucket]:
                starts[next_places[bucket]] = token
                next_places[bucket] += 1
                token += lengths[bucket]
                left -= lengths[bucket]
            else:
                bucket -= 1
        document_start += sizes[document]


class BucketSamples:
    """GPT samples in length buckets, read from their token files; memory-mapped, safe to read from threads.

    `buckets`: their lengths and sizes; sample ids count through them, the shortest bucket first.
    """

    family: ClassVar[FamilyName] = "gpt"

    def __init__(self, folder: Path, prefixes: Sequence[Path]) -> None:
        self.folder = Path(folder)
        self.datasets = open_tokens(prefixes)
        facts = read_json(self.folder / FACTS)
        found = Buckets.of_facts(facts, self.folder / FACTS)
        if found is None:
            raise DataeffError(f"{self.folder / FACTS}: not the facts of length buckets; {RUN_AGAIN}")
        self.buckets = found
        described = describe(self.datasets)
        if facts.get("token_files") != described:
            raise DataeffError(
                f"{self.folder / FACTS}: made for the token files {facts.get('token_files')}, given {described}; "
                f"{RUN_AGAIN}"
            )
        self._ends = np.cumsum(self.buckets.samples)
        self.starts = load_array(self.folder / ARRAY, (len(self),), "i", RUN_AGAIN)
        self._first_tokens = np.cumsum([0, *(dataset.token_count for dataset in self.datasets)], dtype=np.int64)
        self._tokens = tokens_by_type(self.datasets)

    @property
    def sequence_length(self) -> int:
        """The longest bucket's."""
        return self.buckets.lengths[-1]

    def __len__(self) -> int:
        return sum(self.buckets.samples)

    def read(self, ids: Ids, length: int) -> NDArray[np.int64]:
        """Tokens [len(ids), length + 1] of samples of the bucket of this length."""
        ids = np.asarray(ids)
        first, end = self._range(length)
        if ids.size and not first <= int(ids.min()) <= int(ids.max()) < end:
            raise DataeffError(
                f"{self.folder}: samples {ids.min()} to {ids.max()} are asked for as of {length} tokens, which are "
                f"{first} to {end - 1} here; the plan is of other samples: run `dataeff plan` again"
            )
        tokens = np.empty((len(ids), length + 1), dtype=np.int64)
        starts = self.starts[ids].astype(np.int64)
        for present, files in self._tokens:
            if not _copy_pieces(starts, self._first_tokens, present, files, tokens):
                raise DataeffError(f"{self.folder / ARRAY}: an entry points outside the tokens; {RUN_AGAIN}")
        return tokens

    def _range(self, length: int) -> tuple[int, int]:
        if length not in self.buckets.lengths:
            known = ", ".join(map(str, self.buckets.lengths))
            raise DataeffError(
                f"{self.folder}: there is no bucket of {length} tokens, only of {known}; the plan is of other samples: "
                f"run `dataeff plan` again"
            )
        bucket = self.buckets.lengths.index(length)
        return int(self._ends[bucket]) - self.buckets.samples[bucket], int(self._ends[bucket])


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _copy_pieces(starts: Any, firsts: Any, present: Any, tokens: Any, out: Any) -> bool:
    """Fills in what the token files of one type hold of these pieces; False if one lies in no file, or not in one."""
    width = out.shape[1]
    for row in range(starts.size):
        start = starts[row]
        if start < 0 or start >= firsts[-1]:
            return False
        file = file_of(start, firsts)
        if start + width > firsts[file + 1]:
            return False
        if present[file]:
            source, here = tokens[file], start - firsts[file]
            for index in range(width):
                out[row, index] = source[here + index]
    return True
