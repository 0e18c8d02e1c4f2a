"""Where a run's seconds go: each step in parts, and what lies beside the steps. What `timings.jsonl` and
`timings.json` say is added up here.

A step is cut into laps: at the end of each part one look at the clock, which books the time since the last look to
that part, so that the parts add up to the step by construction. On a CPU a collective blocks, and DeepSpeed's are
booked to `communication` instead of the part that they happen in. On a GPU the host runs ahead of the device, so the
laps are events in its stream; they are read once, at the step's end, when the device is done with the step. There
DeepSpeed's collectives overlap with the backward pass and the update and stay part of these.

Between two rows of the log everything else is booked too (start-up, held-out text, logging, checkpoints, and `other`
for what is left), so that the account of a run, over all its starts, leaves no second out.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from typing import Any, Literal, TypeVar

import torch

Part = Literal["data", "forward", "backward", "optimizer", "communication", "other"]
PARTS: tuple[Part, ...] = ("data", "forward", "backward", "optimizer", "communication", "other")
BESIDE = ("startup", "heldout", "logging", "checkpoint", "export", "other")
COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "inference_all_reduce",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "broadcast",
    "barrier",
)
"""Methods of DeepSpeed's communication backend that training calls."""
DIGITS = 6

Item = TypeVar("Item")


@dataclass(frozen=True)
class StepTimes:
    """Of one step on this rank; `parts` add up to `seconds`."""

    seconds: float
    parts: Mapping[Part, float]


class StepClock:
    """Cuts steps into laps, by the host's clock: right where the device is the host."""

    def __init__(self) -> None:
        self._parts: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._begun = self._last = time.monotonic()
        self._communicated = 0.0

    def start(self) -> None:
        """A step begins."""
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._communicated = 0.0
        self._begun = self._last = time.monotonic()

    def steps(self, drawn: Iterable[Item]) -> Iterator[Item]:
        """The same items, with a step beginning before each: drawing its samples' ids is part of it."""
        items = iter(drawn)
        while True:
            self.start()
            try:
                item = next(items)
            except StopIteration:
                return
            yield item

    def lap(self, part: Part) -> None:
        """Books the time since the last lap to `part`, less what collectives took of it."""
        now = time.monotonic()
        self._parts[part] += now - self._last - self._communicated
        self._parts["communication"] += self._communicated
        self._communicated = 0.0
        self._last = now

    def communicated(self, seconds: float) -> None:
        """A collective took this long, within the present lap."""
        self._communicated += seconds

    def stop(self) -> StepTimes:
        """The step is over; what is left since the last lap is `other`."""
        self.lap("other")
        return StepTimes(self._last - self._begun, self._parts)


class DeviceClock(StepClock):
    """Laps by events in the GPU's stream, read once a step; `other` is what the host's time of the step is longer."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[Part, Any]] = []
        self._unused: list[Any] = []

    def start(self) -> None:
        super().start()
        self._unused += [event for _, event in self._events]
        self._events = []
        self._record("other")

    def lap(self, part: Part) -> None:
        self._record(part)

    def _record(self, part: Part) -> None:
        event: Any = self._unused.pop() if self._unused else _new_event()
        event.record()
        self._events.append((part, event))

    def stop(self) -> StepTimes:
        self._record("other")
        self._events[-1][1].synchronize()
        seconds = time.monotonic() - self._begun
        for (_, before), (part, after) in pairwise(self._events):
            self._parts[part] += before.elapsed_time(after) / 1000
        self._parts["other"] += seconds - sum(self._parts.values())
        return StepTimes(seconds, self._parts)


def _new_event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def step_clock(device: torch.device) -> StepClock:
    """The clock of this device; on a CPU, DeepSpeed's collectives tell it what they take. After the engine's start."""
    if device.type == "cuda":
        return DeviceClock()
    from deepspeed import comm

    clock = StepClock()
    time_collectives(comm.comm.cdb, clock)
    return clock


def time_collectives(backend: Any, clock: StepClock) -> None:
    """Has the collectives of a backend, and the handles of those that run beside the step, tell what they block for."""
    for name in COLLECTIVES:
        if hasattr(backend, name):
            setattr(backend, name, _timed(getattr(backend, name), clock))


def _timed(collective: Any, clock: StepClock) -> Any:
    @wraps(collective)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        handle = collective(*args, **kwargs)
        clock.communicated(time.monotonic() - begun)
        return handle if handle is None or not hasattr(handle, "wait") else _TimedHandle(handle, clock)

    return timed


class _TimedHandle:
    """A collective under way, whose `wait` is timed; all else is the handle's own."""

    def __init__(self, handle: Any, clock: StepClock) -> None:
        self._handle = handle
        self.wait = _timed(handle.wait, clock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


class Beside:
    """What this start of a run spends outside of its steps. `seconds`: in all, by what it went to."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(BESIDE, 0.0)
        self._taken = dict(self.seconds)
        self._since = time.monotonic()

    def begin(self, started: float) -> None:
        """Training begins; what happened since `started` (by time.monotonic) was start-up."""
        self._since = started
        self.seconds["startup"] += time.monotonic() - started

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] += time.monotonic() - begun

    def take(self, step_seconds: float, rest: str = "other") -> dict[str, float]:
        """By what it went to, the time since the last call that neither a step of `step_seconds` nor an earlier call
        accounts for; what was not timed is `rest`.
        """
        now = time.monotonic()
        known = sum(self.seconds.values()) - sum(self._taken.values())
        self.seconds[rest] += max(0.0, now - self._since - step_seconds - known)
        found = {name: seconds - self._taken[name] for name, seconds in self.seconds.items()}
        self._taken, self._since = dict(self.seconds), now
        return {name: seconds for name, seconds in found.items() if seconds > 0}


def row_of(step: int, times: StepTimes, beside: Mapping[str, float]) -> dict[str, Any]:
    """A row of timings.jsonl. `step` counts from 1; `beside`: the time between the row before and this one."""
    return {
        "step": step,
        "seconds": round(times.seconds, DIGITS),
        "parts": {name: round(seconds, DIGITS) for name, seconds in times.parts.items()},
        "beside": {name: round(seconds, DIGITS) for name, seconds in beside.items()},
    }


@dataclass
class Account:
    """The rows of timings.jsonl, added up, over all starts of a run. `ends`: the seconds of all steps up to each."""

    steps: int = 0
    starts: int = 0
    step_seconds: float = 0.0
    ends: array[float] = field(default_factory=lambda: array("d"))
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    beside: dict[str, float] = field(default_factory=lambda: dict.fromkeys(BESIDE, 0.0))

    def add(self, row: Mapping[str, Any]) -> None:
        """Steps of a run that an earlier version began were not cut into parts: they are `other`."""
        self.steps += 1
        self.step_seconds += row["seconds"]
        self.ends.append(self.step_seconds)
        for name, seconds in row.get("parts", {"other": row["seconds"]}).items():
            self.parts[name] += seconds
        self.add_beside(row.get("beside", {}))

    def add_beside(self, beside: Mapping[str, float]) -> None:
        self.starts += "startup" in beside
        for name, seconds in beside.items():
            self.beside[name] += seconds

    @property
    def run_seconds(self) -> float:
        return self.step_seconds + sum(self.beside.values())

    def facts(self) -> dict[str, Any]:
        """For timings.json: seconds and shares, of the run and of its steps."""
        run = {"steps": self.step_seconds, **self.beside}
        return {
            "starts": self.starts,
            "run_seconds": round(self.run_seconds, 3),
            "run_parts": _shares(run, self.run_seconds),
            "step_parts": _shares(self.parts, self.step_seconds),
        }


def _shares(parts: Mapping[str, float], whole: float) -> dict[str, dict[str, float]]:
    return {
        name: {"seconds": round(seconds, DIGITS), "share": round(seconds / whole, DIGITS)}
        for name, seconds in parts.items()
    }
