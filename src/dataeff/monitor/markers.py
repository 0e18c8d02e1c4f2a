"""What Snakemake notes on the disk while it works: the outputs of jobs under way, and its lock.

`.snakemake/incomplete` holds an empty record per output of every job that was started (or submitted) and has not ended,
named by the base64 of the output's path; `.snakemake/locks` holds files while a Snakemake works, and after kill -9.
"""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Markers:
    """`started`: outputs of jobs under way, as absolute paths, with the time of their start or submission."""

    locked: bool = False
    started: dict[Path, float] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, snakemake: Path) -> Markers:
        locks = snakemake / "locks"
        locked = locks.is_dir() and any(locks.iterdir())
        started = {}
        for folder, _, names in os.walk(snakemake / "incomplete"):
            for name in names:
                record = Path(folder, name)
                output = _output_of(record.relative_to(snakemake / "incomplete"))
                if output is not None:
                    started[Path(os.path.normpath(root.resolve() / output))] = _changed(record)
        return cls(locked, started)

    def of(self, outputs: tuple[Path, ...]) -> float | None:
        """When the job that makes these was started; None if none is under way."""
        times = [time for path in outputs if (time := self._time(path)) is not None]
        return min(times, default=None)

    def _time(self, path: Path) -> float | None:
        return self.started.get(Path(os.path.normpath(path)))


def _output_of(record: Path) -> str | None:
    """The output's path; of long ones, all parts of the name but the last begin with @."""
    text = "".join(part.removeprefix("@") for part in record.parts)
    try:
        return urlsafe_b64decode(text).decode()
    except (NotBase64, UnicodeDecodeError, ValueError):
        return None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
