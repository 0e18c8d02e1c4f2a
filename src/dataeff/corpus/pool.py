"""The pool of clean documents that a corpus is chosen from, and the choice: cut to size, hold out, shuffle.

Cleaned text waits in a spool file; memory holds only where each document lies there (about 0.3 kB each), so a
corpus may be larger than memory. Choices are made by keyed permutation of blocks (readers.py says what a
block is): the same documents and seed give the same choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TypeVar

import numpy as np

from dataeff import keyed
from dataeff.corpus.clean import text_digest
from dataeff.corpus.shard import Document

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a clean document lies in the spool, and what it belongs to."""

    source: str
    domain: str
    block: str
    offset: int
    bytes: int


@dataclass(slots=True)
class Pool:
    """All clean, distinct documents read so far: their text in the spool, and digests of all texts seen."""

    spool: IO[bytes]
    digests: set[bytes] = field(default_factory=set)
    end: int = 0

    def add(self, text: str, source: str, domain: str, block: str) -> Entry | None:
        """Where the text now lies; None if its like was seen before."""
        digest = text_digest(text)
        if digest in self.digests:
            return None
        self.digests.add(digest)
        data = text.encode("utf-8")
        self.spool.write(data)
        entry = Entry(source, domain, block, self.end, len(data))
        self.end += len(data)
        return entry

    def documents(self, entries: Iterable[Entry]) -> Iterator[Document]:
        for entry in entries:
            self.spool.seek(entry.offset)
            yield Document(self.spool.read(entry.bytes).decode("utf-8"), entry.domain)


def _blocks(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries by block, blocks and entries in the order read."""
    blocks: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        blocks.setdefault((entry.source, entry.block), []).append(entry)
    return list(blocks.values())


def shuffled(items: Sequence[Item], order_key: int) -> list[Item]:
    """The items in the order of the keyed permutation of their positions."""
    order = keyed.permute(np.arange(len(items)), len(items), order_key)
    return [items[index] for index in order]


def cut_to_size(entries: Sequence[Entry], max_bytes: int | None, order_key: int) -> list[Entry]:
    """Documents, blocks in keyed order, up to the first that would exceed `max_bytes`; all if it is None."""
    if max_bytes is None:
        return list(entries)
    kept: list[Entry] = []
    left = max_bytes
    for block in shuffled(_blocks(entries), order_key):
        for entry in block:
            left -= entry.bytes
            if left < 0:
                return kept
            kept.append(entry)
    return kept


def hold_out(entries: Sequence[Entry], budget_bytes: int, order_key: int) -> tuple[list[Entry], list[Entry]]:
    """(training, held out): whole blocks in keyed order are held out, up to the first that no longer fits.

    Going on past it, to fill the budget, would hold out too many short documents. A block larger than the
    whole budget is passed over.
    """
    heldout: list[Entry] = []
    left = budget_bytes
    for block in shuffled(_blocks(entries), order_key):
        size = sum(entry.bytes for entry in block)
        if size > budget_bytes:
            continue
        if size > left:
            break
        left -= size
        heldout += block
    out = set(heldout)
    return [entry for entry in entries if entry not in out], heldout
