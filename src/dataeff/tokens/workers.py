"""Blocks of a shard to batches of ids: in this process, or in several worker processes, in order either way.

Workers are started anew (spawned), not forked: the parent has threads. One that dies ends the stage with one message;
workers whose parent dies end by themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.tokens.batch import Batch, Encoder
from dataeff.tokens.byte_pairs import BytePairEncoder
from dataeff.tokens.reading import Block, parse, read_ahead
from dataeff.tokens.vocabulary import Tokenizer, load
from dataeff.tokens.word_pieces import WordPieceEncoder

# Of this process and its workers together, for gigatoken's memory of words, which alone grows with the text. Its tables
# double at once, so the peak is up to twice as much.
MEMORY_BYTES = 640 << 20
_LEAST_MEMORY_BYTES = 300 << 20
# As much of a shard's beginning as both libraries encode.
_COMPARED_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a shard, or of one of its domains; a document without any token is empty and left out."""

    documents: int = 0
    empty_documents: int = 0
    characters: int = 0
    sequences: int = 0
    tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.documents + other.documents,
            self.empty_documents + other.empty_documents,
            self.characters + other.characters,
            self.sequences + other.sequences,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A block's ids, what they are per domain, and how far into the file its end lies."""

    batch: Batch
    domains: dict[str, Counts]
    read_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """What all blocks of a shard have in common."""

    shard: str
    tokenizer: Path
    text_key: str
    processes: int


class Worker:
    """Parses and encodes blocks; the first one also by the reference, to see that the ids are the same."""

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self._job = job
        self._encoder = _encoder(job, tokenizer)

    def __call__(self, block: Block) -> Part:
        read = parse(block, self._job.shard, self._job.text_key)
        if block.first_line == 1:
            self._compare(read.texts)
        batch = self._encoder.encode(read.texts)
        return Part(batch, _count(read.texts, read.domains, batch), block.read_bytes)

    def _compare(self, texts: list[str]) -> None:
        head, characters = [], 0
        for text in texts:
            head.append(text[: _COMPARED_CHARACTERS - characters])
            characters += len(head[-1])
            if characters >= _COMPARED_CHARACTERS:
                break
        pairs = zip(self._encoder.encode(head), self._encoder.reference(head), strict=True)
        if any(ours.tolist() != theirs.tolist() for ours, theirs in pairs):
            raise DataeffError(
                f"{self._job.shard}: its first documents get other ids from the fast encoder than from the tokenizers "
                f"library; install the versions that pyproject.toml pins"
            )


def _encoder(job: Job, tokenizer: Tokenizer) -> Encoder:
    if tokenizer.form == "word_pieces":
        return WordPieceEncoder(tokenizer)
    return BytePairEncoder(tokenizer, max(_LEAST_MEMORY_BYTES, MEMORY_BYTES // job.processes))


def _count(texts: list[str], domains: list[str], batch: Batch) -> dict[str, Counts]:
    counts: dict[str, list[int]] = {}
    rows = zip(texts, domains, batch.document_sizes.tolist(), batch.tokens_per_document().tolist(), strict=True)
    for text, domain, sequences, tokens in rows:
        row = counts.setdefault(domain, [0] * 5)
        row[0 if sequences else 1] += 1
        row[2] += len(text)
        row[3] += sequences
        row[4] += tokens
    return {domain: Counts(*row) for domain, row in counts.items()}


@contextmanager
def encode_blocks(job: Job, tokenizer: Tokenizer, blocks: Iterator[Block]) -> Iterator[Iterator[Part]]:
    """Yields an iterator that has a part for each block, in order."""
    if job.processes == 1:
        with closing(read_ahead(blocks)) as ahead:
            yield map(Worker(job, tokenizer), ahead)
        return
    pool = ProcessPoolExecutor(job.processes, multiprocessing.get_context("spawn"), _start)
    try:
        yield _in_order(pool, job, blocks)
    except BrokenProcessPool:
        _let_go(pool)
        raise DataeffError(
            f"{job.shard}: a worker process ended while it encoded this shard (killed, or out of memory); run again, "
            f"with more memory or fewer --processes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _let_go(pool: ProcessPoolExecutor) -> None:
    """Ends the sending of a block to workers that are gone: before Python 3.11.5 the pool waits for it for ever."""
    if sys.version_info < (3, 11, 5):
        pool._call_queue._reader.close()  # type: ignore[attr-defined]


def _in_order(pool: ProcessPoolExecutor, job: Job, blocks: Iterator[Block]) -> Iterator[Part]:
    pending: deque[Future[Part]] = deque()
    for block in blocks:
        pending.append(pool.submit(_run, job, block))
        if len(pending) > 2 * job.processes:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@cache
def _worker_of(job: Job) -> Worker:
    """The one worker of a worker process; made with its first block, so that its errors reach the parent."""
    return Worker(job, load(job.tokenizer))


def _run(job: Job, block: Block) -> Part:
    return _worker_of(job)(block)


def _start() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
