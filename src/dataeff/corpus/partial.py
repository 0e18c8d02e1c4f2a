"""What has come of a file so far, and how the rest is asked for: resumed only where the bytes are known to fit.

With a pinned sha256 any server may go on where another stopped, since the whole is checked in the end. Without one,
only the server that began may, and only while it names the same version of the file (If-Range, RFC 9110).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from dataeff.corpus.address import open_address
from dataeff.progress import Pace

CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to have at `target`; `label` says what it is and `remedy` what to do if no mirror has it."""

    label: str
    target: Path
    remedy: str
    sha256: str | None = None
    bytes: int | None = None

    @property
    def record(self) -> Path:
        """The pin that was recorded at the first download, where the configuration has none."""
        return self.target.with_name(f"{self.target.name}.pin.json")


class WrongFile(Exception):
    """This mirror's file is not the wanted one."""


class NotResumable(Exception):
    """The mirror does not go on where the partial file ends: it has to begin again."""


class Partial:
    """The file's beginning beside its place, and, where no pin can tell, the mark of the version that it is of."""

    def __init__(self, path: Path, *, pinned: bool) -> None:
        self.path = path
        self.mark_path = path.with_name(f"{path.name}.mark")
        self.pinned = pinned
        self.shared = False
        """Whether it holds bytes from before this request: another mirror's, or an earlier run's."""
        self.received = 0

    @classmethod
    def of(cls, wanted: Wanted, mirror: str) -> Partial:
        name = wanted.target.name
        if wanted.sha256 is None:
            name += f".{hashlib.sha256(mirror.encode()).hexdigest()[:8]}"
        return cls(wanted.target.with_name(f"{name}.part"), pinned=wanted.sha256 is not None)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.mark_path.unlink(missing_ok=True)

    def receive(self, url: str, token: str | None, wanted: Wanted) -> None:
        """Appends what the partial file lacks."""
        have = self._resumable_bytes(wanted)
        self.shared = have > 0
        if have and have == wanted.bytes:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and not self.pinned:
            headers["If-Range"] = self.mark_path.read_text(encoding="utf-8")
        with open_address(url, headers, token) as response:
            begin = have if response.status == HTTPStatus.PARTIAL_CONTENT else 0
            total = self._total(response, begin, wanted)
            if not begin:
                self.shared = False
                self._mark(response)
            end = self._append(response, begin, total, wanted)
        if total is not None and end < total:
            raise ConnectionError(f"the connection ended after {end} of {total} bytes")

    def _resumable_bytes(self, wanted: Wanted) -> int:
        """How much of the partial file can be kept; without a pin, only what the server has given a mark for."""
        have = self.path.stat().st_size if self.path.exists() else 0
        if (wanted.bytes is not None and have > wanted.bytes) or not (self.pinned or self.mark_path.exists()):
            self.discard()
            return 0
        return have

    def _mark(self, response: Any) -> None:
        """Keeps what names this version of the file: a strong ETag, or else its date."""
        etag = response.headers.get("ETag", "")
        mark = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        self.discard()
        if mark and not self.pinned:
            self.mark_path.write_text(mark, encoding="utf-8")

    def _total(self, response: Any, begin: int, wanted: Wanted) -> int | None:
        """The whole file's size, as the server says; refuses one that cannot be the wanted file's."""
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length)
        if begin:
            parts = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if parts is None or int(parts[1]) != begin:
                raise NotResumable(f"does not go on at byte {begin}; beginning again")
            total = int(parts[2])
        if total is None:
            if wanted.sha256 is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
                raise WrongFile("tells no size, so that a file that broke off would look whole; pin its sha256")
            return wanted.bytes
        if wanted.bytes not in (None, total):
            if not self.shared:
                self.discard()
            raise WrongFile(f"{total} bytes found, {wanted.bytes} expected")
        return total

    def _append(self, response: Any, end: int, total: int | None, wanted: Wanted) -> int:
        """Writes what comes, and shows how fast; the size. A byte too many ends it: it can no longer be right."""
        pace = Pace(total or 0, end)
        with self.path.open("ab" if end else "wb") as stream:
            while (total is None or end <= total) and (chunk := response.read1(CHUNK_BYTES)):
                stream.write(chunk)
                end += len(chunk)
                self.received += len(chunk)
                reading = pace.reading(end)
                if reading is not None:
                    share, left = f"{end / 1e6:.1f} MB", "time left unknown"
                    if total is not None:
                        share, left = f"{end / 1e6:.1f} of {total / 1e6:.1f} MB", reading.left
                    print(f"fetch: {wanted.label}: {share}, {reading.rate / 1e6:.1f} MB/s, {left}", flush=True)
        return end
