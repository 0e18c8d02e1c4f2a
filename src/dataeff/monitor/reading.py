"""Bounded reads of files that others are writing: the end of a log, the last rows of a JSON-lines file.

A file system that a whole cluster shares is slow in many small calls and in long reads, and a log may be a gigabyte:
nothing here reads more than it was told to.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL_BYTES = 16_384
SEARCHED_BYTES = 4_194_304
_BLOCK_BYTES = 65_536


@dataclass(frozen=True)
class Seen:
    """A file's size and time of its last change, in seconds since the epoch."""

    size: int
    changed: float


def look(path: Path) -> Seen | None:
    """None where there is no such file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Seen(found.st_size, found.st_mtime)


def tail(path: Path, limit: int = TAIL_BYTES) -> bytes:
    """The last `limit` bytes, from the start of a line on; nothing where there is no such file."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            start = stream.seek(max(0, size - limit))
            found = stream.read(limit)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    return found if start == 0 else found[found.find(b"\n") + 1 :]


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that hold anything."""
    lines = tail(path).decode(errors="replace").replace("\r", "\n").split("\n")
    return [line.rstrip() for line in lines if line.strip()][-count:]


def last_rows(path: Path, limit: int = TAIL_BYTES) -> list[dict[str, Any]]:
    """The complete rows at the end of a JSON-lines file, oldest first."""
    return [row for line in tail(path, limit).split(b"\n") if (row := _row(line)) is not None]


def last_row_with(path: Path, key: str, limit: int = SEARCHED_BYTES) -> dict[str, Any] | None:
    """The last complete row that has `key`, looked for in the last `limit` bytes, from their end on."""
    word = json.dumps(key).encode()
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            first = max(0, end - limit)
            rest = b""
            while end > first:
                start = max(first, end - _BLOCK_BYTES)
                stream.seek(start)
                head, *lines = (stream.read(end - start) + rest).split(b"\n")
                for line in reversed([head, *lines] if start == 0 else lines):
                    if word in line and (row := _row(line)) is not None:
                        return row
                rest, end = head, start
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None


def _row(line: bytes) -> dict[str, Any] | None:
    """None for what is no row: a line whose end is not written yet, or that a lost page left empty."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
