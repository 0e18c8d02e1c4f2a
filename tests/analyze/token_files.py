"""Megatron token files of made-up text: documents for GPT, sentences for BERT."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dataeff.tokens.indexed_dataset import index_writer

GPT_VOCABULARY, BERT_VOCABULARY = 5_000, 3_000
CLS, SEP, PAD = 101, 102, 0


def write_documents(prefix: Path, documents: int, seed: int = 0, vocabulary: int = GPT_VOCABULARY) -> Path:
    """One sequence per document, each ended by the last token of the vocabulary."""
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 300, documents)
    tokens = np.minimum(random.zipf(1.3, int(sizes.sum())) - 1, vocabulary - 2)
    tokens[np.cumsum(sizes) - 1] = vocabulary - 1
    with index_writer(prefix, np.uint16) as writer:
        writer.add_flat(tokens, sizes)
    return prefix


def write_sentences(prefix: Path, documents: int, seed: int = 0) -> Path:
    """Several sequences per document; no special tokens."""
    random = np.random.default_rng(seed)
    sentences = random.integers(1, 12, documents)
    sizes = random.integers(1, 40, int(sentences.sum()))
    tokens = 200 + np.minimum(random.zipf(1.3, int(sizes.sum())), BERT_VOCABULARY - 201)
    with index_writer(prefix, np.uint16) as writer:
        writer.add_flat(tokens, sizes, sentences)
    return prefix
