"""`dataeff run`: snakemake, after clearing a lock that a killed one left behind, and never a living one's; and the
result table at its end, also when there was nothing left to do.

Snakemake's own lock is a file that outlives kill -9. This command shares a lock of the kernel with the snakemake
that it starts, held for as long as either lives, so a lock file found while holding it belongs to nobody, unless a
snakemake was started by hand in this folder: that one is looked for among the processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from dataeff.errors import DataeffError
from dataeff.study.workflow import LAUNCHED

_PR_SET_PDEATHSIG = 1
_DRY = frozenset({"-n", "--dry-run", "--dryrun"})


def run_snakemake(arguments: Sequence[str]) -> None:
    """Runs `snakemake ARGUMENTS` and exits with its status; does not return."""
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
        other = living_snakemake()
        if other is not None:
            raise DataeffError(
                f"{Path.cwd()}: snakemake runs here already as process {other}; let it end or stop it first"
            )
        print("A snakemake that was killed left its lock behind; removing it.", flush=True)
        # These two come first: `--quiet` would take a target that follows it, and `--` ends the options.
        subprocess.run([*_snakemake(), "--quiet", "--unlock", *arguments], check=True)
    status = _wait([*_snakemake(), *_quieter(arguments), *arguments], lock)
    if status == 0 and not _DRY.intersection(arguments):
        _print_summary()
    sys.exit(status)


def _wait(command: Sequence[str], lock: int) -> int:
    """The exit status of the command, which inherits the lock, is told to end when we are, and never outlives us."""
    process = subprocess.Popen(
        command, pass_fds=(lock,), env={**os.environ, LAUNCHED: "1"}, preexec_fn=_end_with_parent
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; snakemake ends its jobs first
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    return process.wait()


def _end_with_parent() -> None:
    """Asks the kernel to kill this process when its parent dies, so that kill -9 of one is kill -9 of both."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _quieter(arguments: Sequence[str]) -> list[str]:
    """Without a wish of the user's own, the reasons for each job are left to dry runs: they fill the screen."""
    if _DRY.intersection(arguments) or any(word.startswith(("--quiet", "-q")) for word in arguments):
        return []
    return ["--quiet", "reason", "--rerun-incomplete"]  # the last one so that --quiet takes no target that follows


def _print_summary() -> None:
    from dataeff.study.load import Study
    from dataeff.study.workflow import CURRENT, print_summary

    if CURRENT.is_file():
        print_summary(Study.thaw(Path(CURRENT.read_text())))


def _snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake"]


def living_snakemake() -> int | None:
    """The process id of a snakemake whose working folder is this one, and that did not start this process.

    `timeout 9h snakemake` and its like have that word in their command line, too: they are ancestors of their own.
    """
    here, own = Path.cwd(), {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            words = process.info["cmdline"] or []
            called = any(Path(word).name == "snakemake" for word in words[:3])
            if called and process.pid not in own and Path(process.cwd()) == here:
                return int(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None
