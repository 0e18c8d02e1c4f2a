"""Held-out texts as masked sentence pairs, made like the samples of training: same cutting, same pairing, same masks.

For measures only, so all of it is keyed by one fixed seed: every run is measured on the same pairs with the same
masks. The texts go through token files and an index map in a temporary folder: pairs are made in one way only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from dataeff.samples import pairs
from dataeff.samples.batch import SampleBatch, SpecialIds
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.batch import Batch
from dataeff.tokens.indexed_dataset import write_indexed_dataset
from dataeff.tokens.vocabulary import Tokenizer
from dataeff.tokens.word_pieces import WordPieceEncoder

SEED = 1234
SHORT_SEQ_PROB = 0.1


@dataclass(frozen=True, slots=True)
class Pairs:
    """Samples and the lengths [n] that they were made for, which limit their masks."""

    batch: SampleBatch
    targets: NDArray[np.int64]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    return SpecialIds(tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)


def target_lengths(samples: pairs.PairSamples, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    targets: NDArray[np.int64] = samples.mapping[ids, 2].astype(np.int64)
    return targets


def first_pairs(texts: Iterable[str], tokenizer: Tokenizer, sequence_length: int, count: int) -> Pairs | None:
    """Up to `count` pairs of the first of the texts that are needed to make them; None if they give none."""
    encoder = WordPieceEncoder(tokenizer)
    parts: list[Batch] = []
    tokens = 0
    for text in texts:
        parts.append(_usable(encoder.encode([text])))
        tokens += len(parts[-1].ids)
        # Sentences are taken until a pair is full, so that a pair uses up less than two lengths of them.
        if tokens >= 2 * count * sequence_length:
            break
    return _pairs(parts, tokenizer, sequence_length, count)


def all_pairs(texts: Sequence[str], tokenizer: Tokenizer, sequence_length: int) -> Pairs | None:
    """All pairs of the texts; None if they give none."""
    return _pairs([_usable(WordPieceEncoder(tokenizer).encode(texts))], tokenizer, sequence_length, None)


def _usable(batch: Batch) -> Batch:
    """The documents that pairs are made of: of at least two sentences, none of them too long."""
    ends = np.cumsum([0, *batch.document_sizes])
    documents = [slice(first, last) for first, last in pairwise(ends)]
    kept = [
        rows for rows in documents if rows.stop - rows.start > 1 and batch.sizes[rows].max() <= pairs.LONGEST_SENTENCE
    ]
    starts = np.cumsum([0, *batch.sizes])
    none = batch.ids[:0]
    return Batch(
        np.concatenate([none, *(batch.ids[starts[rows.start] : starts[rows.stop]] for rows in kept)]),
        np.concatenate([batch.sizes[:0], *(batch.sizes[rows] for rows in kept)]),
        np.array([rows.stop - rows.start for rows in kept], dtype=np.int32),
    )


def _pairs(parts: Sequence[Batch], tokenizer: Tokenizer, sequence_length: int, count: int | None) -> Pairs | None:
    if not any(len(part.sizes) for part in parts):
        return None
    spec = SamplesSpec(family="bert", sequence_length=sequence_length, seed=SEED, short_seq_prob=SHORT_SEQ_PROB)
    with TemporaryDirectory(prefix="dataeff-pairs-") as name:
        prefix, folder = Path(name) / "text", Path(name) / "samples"
        with write_indexed_dataset(prefix, tokenizer.vocab_size) as writer:
            for part in parts:
                writer.add_flat(part.ids, part.sizes, part.document_sizes)
        pairs.build(spec, [prefix], folder)
        samples = pairs.PairSamples(folder, [prefix], special_ids(tokenizer))
        ids = np.arange(len(samples) if count is None else min(count, len(samples)))
        return Pairs(samples.batch(ids), target_lengths(samples, ids))
