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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

PACKAGES = ("numpy", "numba", "torch", "deepspeed", "tokenizers", "gigatoken", "nupunkt")


@dataclass(frozen=True)
class Row:
    what: str
    ours: str
    peer: str
    ratio: float | None
    goal: str


def print_table(title: str, rows: list[Row]) -> None:
    print(f"\n### {title}\n\n| what | ours | peer | ratio | goal |\n|---|---|---|---|---|")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
        print(f"| {row.what} | {row.ours} | {row.peer} | {ratio} | {row.goal} |")
    sys.stdout.flush()


def print_machine() -> None:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(f"{len(os.sched_getaffinity(0))} cores of {cpu}; Python {platform.python_version()}; {packages}")


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run: the one least disturbed by the machine's other work."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@dataclass(frozen=True)
class Finished:
    seconds: float
    peak_bytes: int


def run_process(arguments: list[str], **environment: str) -> Finished:
    """Wall time and peak resident memory of a command; what it prints is shown only if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(arguments)}: failed\n{output[-3000:]}")
    return Finished(time.perf_counter() - start, usage.ru_maxrss * 1024)


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
