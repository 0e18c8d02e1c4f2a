"""Progress for people: how fast work goes and how long it will still take, asked for every few seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

EVERY_SECONDS = 3.0


@dataclass(frozen=True)
class Reading:
    """Units of work per second so far, and the time left at that pace (None: not known yet)."""

    rate: float
    left_seconds: float | None

    @property
    def left(self) -> str:
        return "time left unknown" if self.left_seconds is None else f"{clock(self.left_seconds)} left"


class Pace:
    """The pace of work of `total` units, of which `done` were done before it starts."""

    def __init__(self, total: float, done: float = 0, every_seconds: float | None = None) -> None:
        self._total, self._first = total, done
        self._every = EVERY_SECONDS if every_seconds is None else every_seconds
        self._start = self._shown = time.monotonic()

    def reading(self, done: float, *, now: bool = False) -> Reading | None:
        """The pace, if a line is due (or wanted `now`); None otherwise."""
        at = time.monotonic()
        if not now and at - self._shown < self._every:
            return None
        self._shown = at
        elapsed = at - self._start
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        return Reading(rate, (self._total - done) / rate if rate > 0 else None)


class Progress:
    """Prints a line whenever one is due: share done, units per second, time left."""

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self._pace = Pace(total)

    def show(self, done: int) -> None:
        reading = self._pace.reading(done)
        if reading is not None:
            share = f"{done / self.total:.0%} of {self.total:,} {self.unit}"
            print(f"{self.name}: {share}, {reading.rate:,.0f} a second, {reading.left}", flush=True)


def clock(seconds: float) -> str:
    """3725 -> '1:02:05', 65 -> '1:05'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
