"""doctor: whether the file systems of results and cache do what the study relies on, how fast, and with what room.

Relied on are locks of the kernel that a second process respects (pretrain/owner.py), renames that replace a file or
folder at once (files.py), and mapped files (samples, tokens). Each is tried in a folder that is removed again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dataeff.inquiry.parameters import padded_vocabulary, parameter_counts
from dataeff.monitor.doctor_software import existing
from dataeff.monitor.finding import Finding, ok, problem, warning
from dataeff.study import workflow as study_of
from dataeff.study.load import Study

WRITTEN_BYTES, SMALL_FILES = 64 * 2**20, 50
SLOW_BYTES_PER_SECOND, SLOW_FILES_PER_SECOND = 50e6, 20.0
_TRIES_LOCK = (
    "import fcntl, sys\n"
    "try:\n    fcntl.flock(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError:\n    sys.exit(3)\n"
)


def files(study: Study, root: Path) -> Iterator[Finding]:
    results, cache = root / study.results, Path(study_of.cache_folder(study))
    yield room(results, bytes_needed(study))
    for what, folder in (("results", results), ("cache", cache)):
        place = existing(folder)
        if not os.access(place, os.W_OK | os.X_OK):
            yield problem(what, f"{place} cannot be written", f"name another folder by the setting {what}")
            continue
        yield from file_system(what, place)


def bytes_needed(study: Study) -> int:
    """Models of the default grid's runs, and the checkpoints of the largest run; not the corpus and its tokens."""
    sizes = []
    for run in study.grids[study.grid]:
        scale = study.family(run)
        count = parameter_counts(run.family, scale.model, padded_vocabulary(study.tokenizers[scale.tokenizer])).total
        sizes.append((count * 4, count * (12 if scale.precision == "fp32" else 14)))
    kept = study.hardware.keep_last + 1
    return sum(model for model, _ in sizes) + kept * max(checkpoint for _, checkpoint in sizes)


def room(folder: Path, needed: int) -> Finding:
    free = shutil.disk_usage(existing(folder)).free
    said = (
        f"{free / 1e9:,.1f} GB are free for {folder}; its models and one run's checkpoints take {needed / 1e9:,.1f} GB"
    )
    if free < needed:
        return problem("room", said, "name a larger file system by the setting results")
    if free < 3 * needed:
        return warning("room", said, "the corpus, its tokens and checkpoints of other runs come on top")
    return ok("room", said)


def file_system(what: str, place: Path) -> Iterator[Finding]:
    """What is relied on, tried in a folder of its own below `place`."""
    try:
        with tempfile.TemporaryDirectory(prefix=".dataeff-doctor-", dir=place) as folder:
            yield _lock(what, place, Path(folder))
            yield _rename(what, place, Path(folder))
            yield _speed(what, place, Path(folder))
    except OSError as error:
        yield problem(what, f"{place}: {error.strerror or error}", "use another file system for it")


def _lock(what: str, place: Path, folder: Path) -> Finding:
    """A lock is of use only if another process is refused it."""
    path, remedy = folder / "lock", "use a file system with flock (NFS: mount without nolock), by the setting results"
    with path.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return problem(f"{what}, locks", f"{place} has none ({error.strerror})", remedy)
        tried = subprocess.run([sys.executable, "-c", _TRIES_LOCK, str(path)], check=False).returncode
    if tried != 3:
        return problem(f"{what}, locks", f"{place}: two processes get the same lock", remedy)
    return ok(f"{what}, locks", f"{place}: a second process waits")


def _rename(what: str, place: Path, folder: Path) -> Finding:
    """A file over a file, and a folder in another's place; and that the new content is read through a map."""
    old, new = folder / "file", folder / ".new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    new.replace(old)
    (folder / "a").mkdir()
    (folder / "a").rename(folder / "b")
    with old.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        content = bytes(mapped)
    if content != b"new" or not (folder / "b").is_dir():
        return problem(f"{what}, renames", f"{place}: a renamed file is read as it was", "use another file system")
    return ok(f"{what}, renames", f"{place}: files and folders are replaced at once, and mapped")


def _speed(what: str, place: Path, folder: Path) -> Finding:
    block, begun = os.urandom(2**20), time.monotonic()
    with (folder / "large").open("wb") as stream:
        for _ in range(WRITTEN_BYTES // len(block)):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    rate = WRITTEN_BYTES / (time.monotonic() - begun)
    begun = time.monotonic()
    for number in range(SMALL_FILES):
        (folder / f".{number}").write_bytes(b"small")
        (folder / f".{number}").replace(folder / f"{number}")
    files_rate = SMALL_FILES / (time.monotonic() - begun)
    said = f"{place}: {rate / 1e6:,.0f} MB/s written to disk, {files_rate:,.0f} small files a second"
    if rate < SLOW_BYTES_PER_SECOND or files_rate < SLOW_FILES_PER_SECOND:
        return warning(f"{what}, speed", said, "raise hardware: checkpoint_every, or use a faster file system")
    return ok(f"{what}, speed", said)
