"""What a run tells while it runs: metrics.jsonl (what happened), timings.jsonl (how long it took), a progress line.

Metrics are the same for every execution of a run on one machine; timings never are, so they live apart.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any, TextIO

from dataeff.progress import Pace


class Log:
    """A JSON-lines file that a resumed run continues: rows after the step it resumes from are dropped."""

    def __init__(self, path: Path, done_steps: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= done_steps]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self.path = path
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


class Logs:
    """The two logs of a run's state folder, of which `done_steps` steps are done."""

    def __init__(self, state: Path, done_steps: int) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.metrics = Log(state / "metrics.jsonl", done_steps)
        self.timings = Log(state / "timings.jsonl", done_steps)

    def write(self, row: dict[str, Any], seconds: float) -> None:
        self.metrics.write(row)
        self.timings.write({"step": row["step"], "seconds": round(seconds, 6)})

    def sync(self) -> None:
        self.metrics.sync()
        self.timings.sync()

    def close(self) -> None:
        self.metrics.close()
        self.timings.close()


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Progress:
    """One line every few seconds: step, loss, learning rate, tokens, tokens per second, time left."""

    def __init__(self, name: str, total_tokens: int, tokens_done: int) -> None:
        self._name = name
        self._pace = Pace(total_tokens, tokens_done, every_seconds=5.0)

    def show(self, row: dict[str, Any], steps: int, *, now: bool = False) -> None:
        reading = self._pace.reading(row["effective_tokens"], now=now)
        if reading is None:
            return
        loss = "passed over" if row["loss"] is None else f"loss {row['loss']:.4f}"
        heldout = f"  held-out {row['heldout_loss']:.4f}" if "heldout_loss" in row else ""
        print(
            f"{self._name}  step {row['step']}/{steps}  {loss}{heldout}  "
            f"lr {row['learning_rate']:.2e}  {row['effective_tokens']:,} tokens  "
            f"{reading.rate:,.0f} tokens/s  {reading.left}",
            flush=True,
        )


def peak_memory_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
