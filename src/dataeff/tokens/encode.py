"""One shard of text to one pair of token files: a sequence per document, each ended by the end-of-text token.

As Megatron's preprocess_data.py --append-eod does it. Documents are read, encoded and written in batches, so
memory does not grow with the shard. A document without any text makes no sequence and is counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dataeff.corpus.shard import read_documents
from dataeff.progress import Progress
from dataeff.tokens.indexed_dataset import write_indexed_dataset
from dataeff.tokens.tokenizer import load

BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of a shard."""

    documents: int
    empty_documents: int
    characters: int
    tokens: int


def encode(shard: Path, tokenizer: Path, out_prefix: Path) -> Encoded:
    """Writes {out_prefix}.bin and .idx; both appear together or not at all."""
    # The library's threads are safe: nothing forks after they start.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    encoder = load(tokenizer)
    # A first pass over the text costs little beside encoding it, and tells how long the rest takes.
    total = sum(len(document.text) for document in read_documents(shard))
    progress = Progress(f"tokens {out_prefix.name}", total, "characters")
    documents = characters = empty = 0
    with write_indexed_dataset(out_prefix, encoder.vocab_size) as writer:
        for texts in _batches(shard):
            filled = [text for text in texts if text]
            for ids in encoder.encode_batch(filled):
                writer.add([*ids, encoder.eos_id])
            documents += len(filled)
            empty += len(texts) - len(filled)
            characters += sum(map(len, filled))
            progress.show(characters)
    result = Encoded(documents, empty, characters, writer.token_count)
    print(
        f"tokens {out_prefix.name}: {documents:,} documents, {characters:,} characters, {result.tokens:,} "
        f"tokens; {empty:,} empty documents left out",
        flush=True,
    )
    return result


def _batches(shard: Path) -> Iterator[list[str]]:
    """Texts of about BATCH_CHARACTERS together: large enough for all threads, small enough for any memory."""
    texts: list[str] = []
    characters = 0
    for document in read_documents(shard):
        texts.append(document.text)
        characters += len(document.text) + 1
        if characters >= BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts
