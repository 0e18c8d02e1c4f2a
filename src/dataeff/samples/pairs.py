"""BERT samples: pairs of segments of a document's sentences, addressed by Megatron's index map.

`samples_mapping` [samples, 3] holds per sample its first sentence, one past its last, and the target length in tokens
(uint32; uint64 from 2**32 sentences on). It is that of Megatron's build_mapping, to the byte: documents are cut into
runs of sentences anew in every epoch, short_seq_prob of them to a random shorter length, and all are shuffled. What a
row becomes (where it is cut into two segments, which of them comes first, what is cut off to fit) is drawn from a
generator of its own, keyed by seed + row, as Megatron's BertDataset does; masking comes later, in training.

The mapping is memory-mapped, in building too: 12 bytes a sample, 30 GB for 2.5 billion. Building walks the sentences
twice in order; the shuffle at its end is Megatron's and swaps rows at random: it wants the mapping in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, read_json, write_json, write_manifest
from dataeff.samples.arrays import create_array, load_array, release
from dataeff.samples.batch import Ids, SampleBatch, SpecialIds
from dataeff.samples.gpt import FACTS, RUN_AGAIN
from dataeff.samples.mersenne import (
    WORDS,
    WORDS_64,
    next32,
    next64,
    next_below,
    next_double,
    seed32,
    seed64,
)
from dataeff.samples.split import training_documents
from dataeff.samples.tokens import describe, documents_of, file_of, first_sequences, open_tokens
from dataeff.study.base import FamilyName
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import IndexedDataset

LONGEST_SENTENCE = 512
"""Megatron leaves out a document with a sentence of more tokens than this."""
FRAME_TOKENS = 3
"""[CLS] and twice [SEP]."""


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path) -> None:
    """Writes out/samples_mapping.npy, samples.json and manifest.json over the token files (a sequence a sentence)."""
    datasets = open_tokens(prefixes)
    if spec.short_seq_prob is None:
        raise DataeffError("samples of sentence pairs need short_seq_prob; Megatron's is 0.1")
    if spec.sequence_length < FRAME_TOKENS + 2:
        raise DataeffError(
            f"sequence_length {spec.sequence_length}: [CLS] and two [SEP] leave no room for two segments; at least "
            f"{FRAME_TOKENS + 2} is needed"
        )
    if not 1 <= spec.seed < np.iinfo(np.int32).max:
        raise DataeffError(
            f"seed {spec.seed}: Megatron's index map takes seeds from 1 to {np.iinfo(np.int32).max - 1}; choose another"
        )
    documents = training_documents(spec.split, sum(map(documents_of, datasets)))
    boundaries = _boundaries(datasets, documents)
    sizes = tuple(dataset.sizes for dataset in datasets)
    firsts = first_sequences(datasets)
    wide = int(firsts[-1]) > np.iinfo(np.uint32).max
    longest = spec.sequence_length - FRAME_TOKENS
    # Half is rounded up, as C does.
    every = int(1 / spec.short_seq_prob + 0.5) if spec.short_seq_prob > 0 else 0
    nowhere = np.zeros((0, 3), dtype=np.uint64 if wide else np.uint32)
    arguments = (boundaries, sizes, firsts, spec.epochs, longest, every, spec.seed)
    samples = _cut_documents(*arguments, nowhere)
    if samples < 1:
        raise DataeffError(
            f"{', '.join(map(str, prefixes))}: no document of {documents} gives a sentence pair: at least two "
            f"sentences are needed, none of more than {LONGEST_SENTENCE} tokens"
        )
    with atomic_directory(out) as folder:
        mapping = create_array(folder / "samples_mapping.npy", (samples, 3), np.uint64 if wide else np.uint32)
        _cut_documents(*arguments, mapping)
        _shuffle(mapping, spec.seed + 1)
        release(mapping)
        facts = {
            "family": "bert",
            "samples": samples,
            "sequence_length": spec.sequence_length,
            "seed": spec.seed,
            "epochs": spec.epochs,
            "documents": documents,
            "short_seq_prob": spec.short_seq_prob,
            "token_files": describe(datasets),
        }
        write_json(folder / FACTS, facts)
        write_manifest(folder)


def _boundaries(datasets: Sequence[IndexedDataset], documents: int) -> tuple[NDArray[np.int64], ...]:
    """Per token file: where its documents begin and end, as far as they are among the first `documents`."""
    found, left = [], documents
    for dataset in datasets:
        taken = min(left, documents_of(dataset))
        found.append(dataset.document_index[: taken + 1])
        left -= taken
    return tuple(found)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _target_length(state: Any, every: Any, longest: Any) -> Any:
    """Mostly the longest; once in `every` draws one from 2 to the longest."""
    if every == 0:
        return np.int64(longest)
    drawn = np.int64(next32(state))
    return np.int64(2 + drawn % (longest - 1)) if drawn % every == 0 else np.int64(longest)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _cut_documents(
    boundaries: Any, sizes: Any, firsts: Any, epochs: Any, longest: Any, every: Any, seed: Any, mapping: Any
) -> Any:
    """The number of samples; fills in their rows if `mapping` has room for them (then it has for all).

    A document's sentences are taken until the target length is reached, but never so that a single one is left over;
    a sample has at least two.
    """
    state = np.empty(WORDS + 1, dtype=np.uint32)
    seed32(state, seed)
    row = np.int64(0)
    for _ in range(epochs):
        for file in range(len(boundaries)):
            ends, lengths, base = boundaries[file], sizes[file], firsts[file]
            for document in range(ends.size - 1):
                first, last = ends[document], ends[document + 1]
                if last - first < 2 or _has_long_sentence(lengths, first, last):
                    continue
                begin, tokens, sentences = first, np.int64(0), 0
                target = _target_length(state, every, longest)
                for sentence in range(first, last):
                    tokens += lengths[sentence]
                    sentences += 1
                    left = last - sentence - 1
                    if left == 0 or (tokens >= target and left > 1 and sentences >= 2):
                        if row < mapping.shape[0]:
                            mapping[row, 0] = base + begin
                            mapping[row, 1] = base + sentence + 1
                            mapping[row, 2] = target
                        row += 1
                        begin, tokens, sentences = sentence + 1, np.int64(0), 0
                        target = _target_length(state, every, longest)
    return row


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _has_long_sentence(lengths: Any, first: Any, last: Any) -> bool:
    for sentence in range(first, last):  # noqa: SIM110 (no generators in compiled code)
        if lengths[sentence] > LONGEST_SENTENCE:
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _shuffle(mapping: Any, seed: Any) -> None:
    """From the last row down, each changes places with one at or before it."""
    state = np.empty(WORDS_64 + 1, dtype=np.uint64)
    seed64(state, seed)
    for row in range(mapping.shape[0] - 1, 0, -1):
        other = np.int64(next64(state) % np.uint64(row + 1))
        for column in range(3):
            kept = mapping[row, column]
            mapping[row, column] = mapping[other, column]
            mapping[other, column] = kept


class PairSamples:
    """Sentence pairs of an index map, read from their token files; memory-mapped, safe to read from threads."""

    family: ClassVar[FamilyName] = "bert"

    def __init__(self, folder: Path, prefixes: Sequence[Path], special: SpecialIds) -> None:
        self.folder, self.special = Path(folder), special
        self.datasets = open_tokens(prefixes)
        facts = read_json(self.folder / FACTS)
        try:
            self.sequence_length, self.seed = int(facts["sequence_length"]), int(facts["seed"])
            self._count = int(facts["samples"])
            described = facts["token_files"]
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{self.folder / FACTS}: not the facts of a BERT sample index; {RUN_AGAIN}") from None
        found = describe(self.datasets)
        if described != found:
            raise DataeffError(
                f"{self.folder / FACTS}: made for the token files {described}, given {found}; {RUN_AGAIN}"
            )
        self.mapping = load_array(self.folder / "samples_mapping.npy", (self._count, 3), "iu", RUN_AGAIN)
        self._firsts = first_sequences(self.datasets)
        self._check_length()

    @property
    def width(self) -> int:
        return self.sequence_length

    def __len__(self) -> int:
        return self._count

    def batch(self, ids: Ids) -> SampleBatch:
        """[CLS] first segment [SEP] second segment [SEP], padded to the sequence length."""
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self._count:
            raise ValueError(f"sample ids from {ids.min()} to {ids.max()}; there are {self._count} samples")
        rows = self.mapping[ids].astype(np.int64)
        tokens = np.full((len(ids), self.sequence_length), self.special.pad, dtype=np.int64)
        types = np.zeros((len(ids), self.sequence_length), dtype=np.int8)
        lengths, swapped = np.zeros(len(ids), dtype=np.int32), np.zeros(len(ids), dtype=np.bool_)
        cuts = np.zeros((len(ids), 5), dtype=np.int64)
        sizes = tuple(dataset.sizes for dataset in self.datasets)
        fault = _cut_pairs((self.seed + ids) % 2**32, rows, sizes, self._firsts, self.sequence_length, cuts, swapped)
        if fault >= 0:
            raise DataeffError(
                f"{self.folder}: sample {ids[fault]} points outside the sentences of its token files, or does not fit "
                f"into {self.sequence_length} tokens; {RUN_AGAIN}"
            )
        frame = (self.special.cls, self.special.sep)
        for file, dataset in enumerate(self.datasets):
            _copy_pairs(
                rows,
                cuts,
                swapped,
                self._firsts,
                file,
                dataset.sizes,
                dataset.pointers,
                dataset.tokens,
                frame,
                tokens,
                types,
                lengths,
            )
        return SampleBatch(tokens, lengths, types, swapped)

    def release(self) -> None:
        """Gives the pages read so far back to the system."""
        for dataset in self.datasets:
            dataset.release()
        release(self.mapping)

    def _check_length(self) -> None:
        """The longest target must be what the sequence length leaves: it may be that of another index."""
        if self._count < 1:
            raise DataeffError(f"{self.folder}: an index map without samples; {RUN_AGAIN}")
        targets = self.mapping[:: max(1, self._count // 1000), 2]
        longest, limit = int(targets.max()), self.sequence_length - FRAME_TOKENS
        # Of random targets alone (short_seq_prob 1), none need be the longest possible.
        usual = 2 * int((targets == longest).sum()) > len(targets) > 10
        if longest > limit or (longest < limit and usual):
            raise DataeffError(
                f"{self.folder}: its pairs have up to {longest} tokens, a sequence length of {self.sequence_length} "
                f"holds {limit}; give the sequence length that the index was made with"
            )


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _cut_pairs(seeds: Any, rows: Any, sizes: Any, firsts: Any, width: Any, cuts: Any, swapped: Any) -> Any:
    """Draws each pair's cut; the first row that cannot be one, or -1.

    `cuts`: sentences of the segment that comes first in the text; its tokens; tokens dropped from its front; tokens of
    the other segment; tokens dropped from the other's front.
    """
    state = np.empty(WORDS + 1, dtype=np.uint32)
    for row in range(rows.shape[0]):
        first, last, target = rows[row, 0], rows[row, 1], rows[row, 2]
        if first < 0 or last - first < 2 or last > firsts[-1] or target < 2 or target > width - FRAME_TOKENS:
            return row
        file = file_of(first, firsts)
        if last > firsts[file + 1]:
            return row
        seed32(state, seeds[row])
        sentences = last - first
        cut = 1 + next_below(state, sentences - 1) if sentences >= 3 else np.int64(1)
        early, late = np.int64(0), np.int64(0)
        for sentence in range(sentences):
            size = np.int64(sizes[file][first - firsts[file] + sentence])
            if sentence < cut:
                early += size
            else:
                late += size
        swap = next_double(state) < 0.5
        swapped[row] = swap
        a, b = (late, early) if swap else (early, late)
        front_a, front_b = np.int64(0), np.int64(0)
        while a + b > target:
            from_front = False
            if a > b:
                a -= 1
                from_front = next_double(state) < 0.5
                front_a += 1 if from_front else 0
            else:
                b -= 1
                from_front = next_double(state) < 0.5
                front_b += 1 if from_front else 0
        cuts[row, 0] = cut
        cuts[row, 1], cuts[row, 2] = (b, front_b) if swap else (a, front_a)
        cuts[row, 3], cuts[row, 4] = (a, front_a) if swap else (b, front_b)
    return -1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _copy_pairs(
    rows: Any, cuts: Any, swapped: Any, firsts: Any, file: Any, sizes: Any, pointers: Any, tokens: Any, frame: Any,
    out: Any, types: Any, lengths: Any,
) -> None:  # fmt: skip
    """Fills in the pairs whose sentences lie in this file; a document never spans two."""
    for row in range(rows.shape[0]):
        first = rows[row, 0] - firsts[file]
        if rows[row, 0] < firsts[file] or rows[row, 0] >= firsts[file + 1]:
            continue
        # Sentences lie one after the other: a segment is one stretch of tokens.
        start = pointers[first] // tokens.itemsize
        early = np.int64(0)
        for sentence in range(cuts[row, 0]):
            early += sizes[first + sentence]
        early_start, late_start = start + cuts[row, 2], start + early + cuts[row, 4]
        early_size, late_size = cuts[row, 1], cuts[row, 3]
        a_start, a_size = (late_start, late_size) if swapped[row] else (early_start, early_size)
        b_start, b_size = (early_start, early_size) if swapped[row] else (late_start, late_size)
        out[row, 0] = frame[0]
        for index in range(a_size):
            out[row, 1 + index] = tokens[a_start + index]
        out[row, 1 + a_size] = frame[1]
        end = 2 + a_size
        # Megatron frames an empty second segment with nothing.
        if b_size > 0:
            for index in range(b_size):
                out[row, end + index] = tokens[b_start + index]
            out[row, end + b_size] = frame[1]
            types[row, end : end + b_size + 1] = 1
            end += b_size + 1
        lengths[row] = end
