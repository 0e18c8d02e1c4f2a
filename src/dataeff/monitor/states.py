"""The state of one item: finished, running, submitted, stopped, failed or pending, judged by files alone.

An output is there whole or not at all, so its presence is the proof of a finished job. Who is at work is said by
Snakemake's markers and, of a training, by the owner of its state; a log that ends with an error tells of a failure.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dataeff.monitor.items import Item
from dataeff.monitor.markers import Markers
from dataeff.monitor.reading import last_lines, look

State = Literal["finished", "running", "submitted", "stopped", "failed", "pending"]
STATES: tuple[State, ...] = ("finished", "running", "submitted", "stopped", "failed", "pending")
FRESH_SECONDS = 120.0
"""A job that writes no progress line for longer may be dead."""
SHOWN_LINES = 6
_ERROR = re.compile(
    r"^(Traceback \(most recent call last\)|\w*(Error|Exception)\b.*:|dataeff\b.*: error: |slurmstepd: error: |"
    r"srun: error: |Killed|.*(command not found|No such file or directory|Segmentation fault|Bus error))"
)


@dataclass(frozen=True)
class Judged:
    """An item's state. `detail`: the last line of a log of one at work; `lines`: the end of the log of one that failed
    or was cut off; `seconds`: since its log or its owner wrote last.
    """

    item: Item
    state: State
    detail: str = ""
    seconds: float | None = None
    lines: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Owner:
    """Who holds the state of a training; `alive` is None where that cannot be seen from this machine."""

    host: str
    pid: int
    slurm_job: str | None
    alive: bool | None

    @property
    def words(self) -> str:
        return f"job {self.slurm_job} on {self.host}" if self.slurm_job else f"process {self.pid} on {self.host}"


def owner_of(path: Path) -> Owner | None:
    """The owner that the file beside a state folder names; None where there is none, or a dead one of this machine."""
    try:
        who = json.loads(path.read_text(encoding="utf-8"))
        host, pid = str(who["host"]), int(who["pid"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    alive = _is_dataeff(pid) if host == socket.gethostname() else None
    return None if alive is False else Owner(host, pid, who.get("slurm_job"), alive)


def _is_dataeff(pid: int) -> bool:
    """Whether the process lives and is one of ours: numbers are given again to others."""
    try:
        return b"dataeff" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def is_current(item: Item, wanted: Mapping[str, Any]) -> bool:
    """Whether the item's own record of what it was made from is what is wanted now."""
    if item.identity is None:
        return True
    try:
        facts = json.loads(item.identity.read_text(encoding="utf-8"))
        return all(facts.get(name) == value for name, value in wanted.items())
    except (OSError, ValueError, AttributeError):
        return False


def judge(item: Item, markers: Markers, wanted: Mapping[str, Any], now: float | None = None) -> Judged:
    """The state of any item; of a training whose owner lives, training.py knows more."""
    now = time.time() if now is None else now
    started, log = markers.of(item.outputs), look(item.log)
    silent = None if log is None else max(0.0, now - log.changed)
    if started is not None:
        return _under_way(item, markers, started, log is not None and log.size > 0, silent, now)
    if all(look(path) is not None for path in item.outputs) and is_current(item, wanted):
        return Judged(item, "finished")
    if item.needed_for and all(look(path) is not None for path in item.needed_for):
        return Judged(item, "finished")
    lines = tuple(last_lines(item.log, SHOWN_LINES))
    if any(_ERROR.match(line) for line in lines):
        return Judged(item, "failed", lines[-1], silent, lines)
    return Judged(item, "pending")


def _under_way(item: Item, markers: Markers, started: float, has_log: bool, silent: float | None, now: float) -> Judged:
    """Of a job that Snakemake has started. On a cluster that is its submission: its own log begins when it does."""
    began = silent is not None and now - silent >= started - 1.0
    if not began:
        return Judged(item, "submitted" if markers.locked else "pending", seconds=now - started)
    lines = tuple(last_lines(item.log, SHOWN_LINES)) if has_log else ()
    detail = lines[-1] if lines else ""
    if markers.locked or (silent is not None and silent < FRESH_SECONDS):
        return Judged(item, "running", detail, silent)
    return Judged(item, "stopped", detail, silent, lines)
