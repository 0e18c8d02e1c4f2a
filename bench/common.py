"""What the benchmarks share: texts and tokens to work on, timing, peak memory, and the table that they print.

A benchmark runs ours and the peer one after the other in one go, on the same machine and the same data, and prints
ratios: single times on a shared machine say little. Start-up (imports, compilation) is left out on both sides
unless a row says "whole process".
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("numpy", "numba", "torch", "transformers", "deepspeed", "tokenizers", "gigatoken", "nupunkt")


@dataclass(frozen=True)
class Row:
    """`spread`: the quartiles of the ratio, where it was measured in turns."""

    what: str
    ours: str
    peer: str
    ratio: float | None
    goal: str
    spread: tuple[float, float] | None = None


def print_table(title: str, rows: list[Row], ratio: str = "ratio") -> None:
    """`ratio`: the heading of that column, which says what is divided by what where that is no speed-up."""
    print(f"\n### {title}\n\n| what | ours | peer | {ratio} | goal |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.ours} | {row.peer} | {_ratio(row)} | {row.goal} |")
    sys.stdout.flush()


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return ""
    digits = 1 if row.ratio >= 3 else 3 if row.spread else 2
    spread = "" if row.spread is None else f" ({row.spread[0]:.{digits}f}-{row.spread[1]:.{digits}f})"
    return f"{row.ratio:.{digits}f}x{spread}"


def print_machine() -> None:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ", ".join(_version(name) for name in PACKAGES)
    print(f"{len(os.sched_getaffinity(0))} cores of {cpu}; Python {platform.python_version()}; {packages}")
    print(f"load {', '.join(f'{load:.1f}' for load in os.getloadavg())} over 1, 5 and 15 minutes")


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run: the one least disturbed by the machine's other work."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Ratio:
    """The median of seconds over seconds, turn by turn, and the quartiles."""

    median: float
    quartiles: tuple[float, float]


@dataclass(frozen=True)
class Turns:
    """What works took that ran in turns in one process: whatever slows the machine for a while slows all of them.

    `seconds` by the clock, and `processor_seconds` of all threads of this process, which other processes that want the
    same cores change less; both by name, one entry a turn.
    """

    seconds: dict[str, list[float]]
    processor_seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, to: str) -> Ratio:
        return _ratio_of(self.seconds[name], self.seconds[to])

    def processor_ratio(self, name: str, to: str) -> Ratio:
        return _ratio_of(self.processor_seconds[name], self.processor_seconds[to])


def _ratio_of(ours: Sequence[float], peer: Sequence[float]) -> Ratio:
    low, middle, high = np.quantile(np.asarray(ours) / np.asarray(peer), (0.25, 0.5, 0.75))
    return Ratio(float(middle), (float(low), float(high)))


def in_turns(repeats: int, works: Mapping[str, Callable[[], Any]], warm_up: int = 1) -> Turns:
    """Each work runs once a turn; each turn begins with another one, since the first finds other data in the cache."""
    names = list(works)
    turns = Turns({name: [] for name in names}, {name: [] for name in names})
    for turn in range(warm_up + repeats):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            start, processor = time.perf_counter(), time.process_time()
            works[name]()
            taken = time.perf_counter() - start, time.process_time() - processor
            if turn >= warm_up:
                turns.seconds[name].append(taken[0])
                turns.processor_seconds[name].append(taken[1])
    return turns


@dataclass(frozen=True)
class Finished:
    seconds: float
    processor_seconds: float
    peak_bytes: int


# In a small process of its own: a child's peak begins with that of the process that started it.
_MEASURE = """
import os, subprocess, sys, time
start = time.perf_counter()
child = subprocess.Popen(sys.argv[2:])
_, status, used = os.wait4(child.pid, 0)
found = time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
with open(sys.argv[1], "w") as file:
    file.write(" ".join(map(str, found)))
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def run_process(arguments: list[str], folder: Path | None = None, **environment: str) -> Finished:
    """Wall time, processor time and peak resident memory of a command, in `folder`; what it prints is shown only if it
    fails.
    """
    with tempfile.NamedTemporaryFile("r") as facts:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MEASURE, facts.name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **environment},
        )
        if done.returncode:
            sys.exit(f"{' '.join(arguments)}: failed\n{done.stdout[-3000:]}")
        seconds, processor, peak = facts.read().split()
    return Finished(float(seconds), float(processor), int(peak))


def peak_bytes() -> int:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def quiet() -> Iterator[None]:
    """Hides what peers and stages print."""
    saved = os.dup(1), os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def zipf_tokens(count: int, vocabulary: int, seed: int = 1) -> np.ndarray:
    """Token ids as frequent as words are: id k with weight 1 / (k + 2.7)."""
    weights = 1 / (np.arange(vocabulary) + 2.7)
    cumulative = np.cumsum(weights / weights.sum())
    random = np.random.default_rng(seed)
    parts = [np.searchsorted(cumulative, random.random(size)) for size in np.diff([*range(0, count, 1 << 22), count])]
    return np.minimum(np.concatenate(parts), vocabulary - 1).astype(np.uint16)
