"""One owner per state folder: a second writer waits for the first, and gives up with its name.

The lock is the kernel's (flock), so it ends with its process, however that ends; the file's text only tells who
holds it. Not a pid file: those outlive kill -9.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dataeff.errors import DataeffError

if TYPE_CHECKING:
    from dataeff.pretrain.engine import Ranks

WAIT_SECONDS = 3600.0
_OWNED, _MARGIN_SECONDS = "owned", 60.0


@contextmanager
def owned_by_all(path: Path, ranks: Ranks, *, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Rank 0 holds the lock for all ranks; the others wait in the store that they share, which no collective's timeout
    limits, and end as it does where it gives up.
    """
    if ranks.rank > 0:
        _await_first(path, ranks, wait_seconds)
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(owned(path, wait_seconds=wait_seconds))
        except BaseException:
            ranks.store.set(_OWNED, "no")
            raise
        ranks.store.set(_OWNED, "yes")
        yield


def _await_first(path: Path, ranks: Ranks, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds + _MARGIN_SECONDS
    while not ranks.store.check([_OWNED]):
        if time.monotonic() >= deadline:
            raise DataeffError(f"{path}: rank 0 did not come to own it; start again")
        time.sleep(0.05)
    if ranks.store.get(_OWNED) != b"yes":
        raise DataeffError(f"{path}: rank 0 does not own it; what it said tells why")


@contextmanager
def owned(path: Path, *, wait_seconds: float = WAIT_SECONDS, poll_seconds: float = 1.0) -> Iterator[None]:
    """Holds the lock file `path` (made if absent, removed at the end); waits up to `wait_seconds` for another owner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    told = False
    while (descriptor := _try(path)) is None:
        if not told and wait_seconds > 0:
            print(f"{path}: in use by {_holder(path)}; waiting for it up to {wait_seconds:.0f} s", flush=True)
            told = True
        if time.monotonic() >= deadline:
            raise DataeffError(f"{path}: still in use by {_holder(path)}; let it end or stop it, then run again")
        time.sleep(poll_seconds)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_who()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The owner before may have removed the file between our open and our lock: then this lock is on nothing.
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except BlockingIOError:
        pass
    except FileNotFoundError:
        pass
    os.close(descriptor)
    return None


def _who() -> dict[str, str | int]:
    job = os.environ.get("SLURM_JOB_ID")
    return {"host": socket.gethostname(), "pid": os.getpid(), **({"slurm_job": job} if job else {})}


def _holder(path: Path) -> str:
    try:
        who = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return "another process"
    return ", ".join(f"{key} {value}" for key, value in who.items())
