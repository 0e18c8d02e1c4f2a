"""`dataeff run`: snakemake, after clearing a lock that a killed snakemake left behind, and never a living one's.

Snakemake's own lock is a file that outlives kill -9. This command holds a lock of the kernel for as long as the
snakemake that it becomes lives, so a lock file found while holding it belongs to nobody, unless a snakemake was
started by hand in this folder: that one is looked for among the processes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from dataeff.errors import DataeffError


def run_snakemake(arguments: Sequence[str]) -> None:
    """Replaces this process by `snakemake ARGUMENTS`; does not return."""
    folder = Path(".snakemake")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / "dataeff.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DataeffError(
            f"{Path.cwd()}: another `dataeff run` is at work in this folder; let it end or stop it first"
        ) from None
    if any((folder / "locks").glob("*")):
        other = _living_snakemake()
        if other is not None:
            raise DataeffError(
                f"{Path.cwd()}: snakemake runs here already as process {other}; let it end or stop it first"
            )
        print("A snakemake that was killed left its lock behind; removing it.", flush=True)
        # These two come first: `--quiet` would take a target that follows it, and `--` ends the options.
        subprocess.run([*_snakemake(), "--quiet", "--unlock", *arguments], check=True)
    os.set_inheritable(lock, True)  # the lock lives as long as the snakemake that this process becomes
    os.execv(sys.executable, [*_snakemake(), *arguments])


def _snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake"]


def _living_snakemake() -> int | None:
    """The process id of a snakemake whose working folder is this one."""
    here = Path.cwd()
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            words = process.info["cmdline"] or []
            called = any(Path(word).name == "snakemake" for word in words[:3])
            if called and process.pid != os.getpid() and Path(process.cwd()) == here:
                return int(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None
