"""What a run tells while it runs: metrics.jsonl (what happened), timings.jsonl (how long it took), a progress line.

Metrics are the same for every execution of a run on one machine; timings never are, so they live apart.
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path
from typing import Any, TextIO


class Log:
    """A JSON-lines file that a resumed run continues: rows after the step it resumes from are dropped."""

    def __init__(self, path: Path, done_steps: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= done_steps]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in kept]
        self._stream: TextIO = path.open("a")

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def sync(self) -> None:
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self.sync()
        self._stream.close()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Progress:
    """One line every few seconds: step, loss, learning rate, tokens, tokens per second, time left."""

    def __init__(self, name: str, total_tokens: int, *, every_seconds: float = 5.0) -> None:
        self._name, self._total, self._every = name, total_tokens, every_seconds
        self._started = self._shown = time.monotonic()
        self._tokens_at_start: int | None = None

    def show(self, row: dict[str, Any], steps: int, *, now: bool = False) -> None:
        tokens = int(row["effective_tokens"])
        if self._tokens_at_start is None:
            self._tokens_at_start = tokens
            self._started = time.monotonic()
        elapsed = time.monotonic() - self._started
        if not now and time.monotonic() - self._shown < self._every:
            return
        self._shown = time.monotonic()
        rate = (tokens - self._tokens_at_start) / elapsed if elapsed > 0 else 0.0
        left = f"{clock((self._total - tokens) / rate)} left" if rate > 0 else "time left unknown"
        heldout = f"  held-out {row['heldout_loss']:.4f}" if "heldout_loss" in row else ""
        print(
            f"{self._name}  step {row['step']}/{steps}  loss {row['loss']:.4f}{heldout}  "
            f"lr {row['learning_rate']:.2e}  {tokens:,} tokens  {rate:,.0f} tokens/s  {left}",
            flush=True,
        )


def clock(seconds: float) -> str:
    """3725 -> '1:02:05', 65 -> '1:05'."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
