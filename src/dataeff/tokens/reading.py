"""The documents of a .jsonl or .jsonl.zst shard, in blocks of whole lines: read in one place, parsed in another.

Cutting a file into lines is quick and has to be done in order; parsing costs more and can be done by any process, so
the two are apart. As strict as `corpus.shard.read_documents`, with the same words: a damaged or foreign file stops the
stage, with file, line and remedy. People's own files may have their text under another key and name no domain.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from dataeff.corpus.shard import LARGEST_LINE_BYTES, REMEDY, decompressed, endless_line
from dataeff.errors import DataeffError

BLOCK_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_BLOCKS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a shard; `read_bytes` of the file have been read up to their end."""

    first_line: int
    data: bytes
    read_bytes: int


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of documents and the domain of each ("" where its line names none)."""

    texts: list[str]
    domains: list[str]


def line_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Blocks of about `block_bytes` (a longer line is a block); only the byte \\n ends a line."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such shard; {REMEDY}") from None
    with stream:
        parts: list[bytes] = []
        size, line = 0, 1
        for chunk in decompressed(stream, str(path)) if path.suffix == ".zst" else _plain(stream):
            parts.append(chunk)
            size += len(chunk)
            cut = chunk.rfind(b"\n") + 1
            if size >= block_bytes and cut:
                parts[-1] = chunk[:cut]
                data = b"".join(parts)
                yield Block(line, data, stream.tell())
                line += data.count(b"\n")
                parts = [chunk[cut:]]
                size = len(parts[0])
            if size > LARGEST_LINE_BYTES + block_bytes:
                raise endless_line(f"{path}:{line}")
        if data := b"".join(parts):
            yield Block(line, data, stream.tell())


def _plain(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def read_ahead(blocks: Iterator[Block]) -> Generator[Block, None, None]:
    """The same blocks, read and decompressed by a thread while the caller works on earlier ones."""
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        pending: deque[Future[Block | None]] = deque()
        for _ in range(_BLOCKS_AHEAD):
            pending.append(thread.submit(next, blocks, None))
        while (block := pending.popleft().result()) is not None:
            pending.append(thread.submit(next, blocks, None))
            yield block


def parse(block: Block, name: str, text_key: str) -> Texts:
    """The documents of a block of the shard `name`."""
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()  # what follows the last \n
    texts, domains = [], []
    for number, line in enumerate(lines, start=block.first_line):
        try:
            record = orjson.loads(line)
            text = record[text_key]
            meta = record.get("meta")
            domain = meta.get("pile_set_name", "") if isinstance(meta, dict) else ""
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            text = domain = None
        if not isinstance(text, str) or not isinstance(domain, str):
            text, domain = _parse_slowly(line, f"{name}:{number}", text_key)
        texts.append(text)
        domains.append(domain)
    return Texts(texts, domains)


def _parse_slowly(line: bytes, where: str, text_key: str) -> tuple[str, str]:
    """As Python's own parser has it, which takes a little more (NaN, large numbers), or what is wrong, in words."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataeffError(f"{where}: not UTF-8 at byte {error.start} of the line; {REMEDY}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataeffError(f"{where}: not JSON ({error}); {REMEDY}") from None
    if not isinstance(record, dict) or not isinstance(text := record.get(text_key), str):
        raise DataeffError(f'{where}: a line {{"{text_key}": "..."}} is needed, this one has no "{text_key}"; {REMEDY}')
    meta = record.get("meta")
    domain = meta.get("pile_set_name", "") if isinstance(meta, dict) else ""
    if not isinstance(domain, str):
        raise DataeffError(f'{where}: its "meta": {{"pile_set_name": ...}} is {domain!r}, not a name; {REMEDY}')
    for value in (text, domain):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataeffError(
                f"{where}: half a surrogate pair at character {error.start}, which is no text; {REMEDY}"
            ) from None
    return text, domain
