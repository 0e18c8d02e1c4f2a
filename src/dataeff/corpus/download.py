"""One file from the first of several mirrors that has it whole: resumed, verified, and kept in the cache.

A mirror that breaks off or stalls gives way to the next at once and is asked again in a later round; one that has no
such file, or another file than the pinned one, is dropped. A pinned file may be put together from several mirrors,
since its sha256 is checked in the end. A file without pin never is: each mirror fills a partial file of its own, and
what came is recorded beside the file (size, sha256, address, time), for every later run to be held to.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError

from dataeff.corpus.address import without_credentials
from dataeff.corpus.partial import NotResumable, Partial, Wanted, WrongFile
from dataeff.errors import DataeffError
from dataeff.files import read_json, sha256_file, write_json

PAUSES_SECONDS = (1.0, 4.0, 15.0)
"""Before each further round over the mirrors."""
WORTHWHILE_BYTES = 1 << 24
"""A round that brought so much is not counted: a large file may break off any number of times."""


class Unavailable(DataeffError):
    """A source that cannot be had, from anywhere: its substitute may be taken, if the corpus allows it."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where a file may be had: a name for people (without credentials), and its address, which may take a look-up."""

    name: str
    find_url: Callable[[], str]
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    bytes: int
    sha256: str


class _Mixed(Exception):
    """The wrong bytes may be another mirror's, or an earlier run's: this one gets a chance of its own."""


def download(wanted: Wanted, mirrors: Sequence[Mirror]) -> Found:
    """The verified file in the cache, downloaded if it is not there whole. Safe to call concurrently."""
    wanted = _with_recorded_pin(wanted)
    found = _cached(wanted)
    if found is not None:
        return found
    with _lock(wanted.target):
        # Another process may have brought the file while this one waited.
        wanted = _with_recorded_pin(wanted)
        return _cached(wanted) or _Download(wanted, mirrors).run()


def _with_recorded_pin(wanted: Wanted) -> Wanted:
    if wanted.sha256 is not None or not wanted.record.is_file():
        return wanted
    recorded = read_json(wanted.record)
    try:
        sha256, size = str(recorded["sha256"]), int(recorded["bytes"])
    except (KeyError, TypeError, ValueError):
        raise DataeffError(f"{wanted.record}: no record of a download; remove it and run again") from None
    if wanted.bytes not in (None, size):
        raise DataeffError(
            f"{wanted.label}: {wanted.bytes} bytes are pinned, {size} were fetched on {recorded.get('time')}; "
            f"correct the pin, or remove {wanted.record} to take the file of the new size"
        )
    return Wanted(wanted.label, wanted.target, wanted.remedy, sha256, size)


def _cached(wanted: Wanted) -> Found | None:
    """The file in the cache; None if it has to be fetched. A file that a record describes is never replaced unasked."""
    if not wanted.target.is_file():
        return None
    found = Found(wanted.target, wanted.target.stat().st_size, sha256_file(wanted.target))
    fault = _fault(wanted, found)
    if fault is None and wanted.sha256 is not None:
        return found
    if wanted.record.is_file():
        raise DataeffError(
            f"{wanted.target}: {fault} (recorded in {wanted.record.name} when it was fetched); it was changed or "
            f"damaged since. Remove the file to fetch the recorded one again, or both to take what the source has now"
        )
    print(f"fetch: {wanted.target} is damaged ({fault or 'no record of it'}); fetching it again", flush=True)
    return None


def _fault(wanted: Wanted, found: Found) -> str | None:
    if wanted.bytes not in (None, found.bytes):
        return f"{found.bytes} bytes found, {wanted.bytes} expected"
    if wanted.sha256 not in (None, found.sha256):
        return f"sha256 {found.sha256} found, {wanted.sha256} expected"
    return None


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process at a time downloads `target`; the system lets go of the lock of a process that dies."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("w")
    except OSError as error:
        raise DataeffError(f"{target.parent}: cannot be written to ({error}); set `cache` to another folder") from None
    with lock as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"fetch: waiting for another process that fetches {target.name}", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise DataeffError(
                f"{target.parent}: no file locks on this file system ({error}); set `cache` to another folder"
            ) from None
        yield


class _Download:
    """The rounds over the mirrors of one file, under its lock."""

    def __init__(self, wanted: Wanted, mirrors: Sequence[Mirror]) -> None:
        self.wanted = wanted
        self.mirrors = list(mirrors)
        self.faults: dict[str, str] = {}
        self.received = 0

    def run(self) -> Found:
        """Rounds over the mirrors until one has brought the file, or none is left, or the pauses are used up."""
        pauses = iter(PAUSES_SECONDS)
        while self.mirrors:
            before = self.received
            for mirror in list(self.mirrors):
                found = self._from(mirror)
                if found is not None:
                    return found
            if self.received - before >= WORTHWHILE_BYTES:
                pauses = iter(PAUSES_SECONDS)
            pause_seconds = next(pauses, None)
            if pause_seconds is None or not self.mirrors:
                break
            print(f"fetch: {self.wanted.label}: trying again in {pause_seconds:.0f} s", flush=True)
            time.sleep(pause_seconds)
        told = "; ".join(f"{name} ({fault})" for name, fault in self.faults.items())
        raise Unavailable(f"{self.wanted.label}: cannot be had from {told}. {self.wanted.remedy}")

    def _from(self, mirror: Mirror) -> Found | None:
        """The file, if this mirror completes it. A mirror whose answer would be the same again is dropped."""
        partial = Partial.of(self.wanted, mirror.name)
        try:
            return self._completed(mirror, partial)
        except _Mixed:
            return self._from(mirror)
        except (WrongFile, DataeffError) as error:
            self._note(mirror, str(error), drop=True)
        except NotResumable as error:
            partial.discard()
            self._note(mirror, str(error))
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.discard()
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DataeffError(
                    f"{self.wanted.target.parent}: {error}; free room, or set `cache` to a folder on a larger disk, "
                    f"and run again: the download goes on where it stopped"
                ) from None
            self._note(mirror, str(error) or type(error).__name__, drop=_is_final(error))
        return None

    def _note(self, mirror: Mirror, fault: str, *, drop: bool = False) -> None:
        self.faults[mirror.name] = fault
        print(f"fetch: {self.wanted.label}: {mirror.name}: {fault}", flush=True)
        if drop:
            self.mirrors.remove(mirror)

    def _completed(self, mirror: Mirror, partial: Partial) -> Found:
        """The partial file completed from this mirror, verified and moved to its place."""
        url = mirror.find_url()
        try:
            partial.receive(url, mirror.token, self.wanted)
        finally:
            self.received += partial.received
        found = Found(self.wanted.target, partial.path.stat().st_size, sha256_file(partial.path))
        fault = _fault(self.wanted, found)
        if fault is not None:
            partial.discard()
            raise _Mixed if partial.shared else WrongFile(f"{fault}; the download was removed")
        self._keep(partial, found, without_credentials(url))
        return found

    def _keep(self, partial: Partial, found: Found, url: str) -> None:
        with partial.path.open("rb") as stream:
            os.fsync(stream.fileno())
        if self.wanted.sha256 is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(self.wanted.record, {"bytes": found.bytes, "sha256": found.sha256, "url": url, "time": now})
            print(f"fetch: {self.wanted.label}: no pin; sha256 {found.sha256} recorded", flush=True)
        partial.path.replace(self.wanted.target)
        for leftover in self.wanted.target.parent.glob(f"{_glob_safe(self.wanted.target.name)}*.part*"):
            leftover.unlink(missing_ok=True)


def _glob_safe(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _is_final(error: Exception) -> bool:
    """Whether the answer would be the same again: any refusal but timed out, bad range, too many requests."""
    return isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code not in (408, 416, 429)
