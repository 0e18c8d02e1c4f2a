"""What a run tells while it runs: metrics.jsonl (what happened), timings.jsonl (how long it took), a progress line, and
TensorBoard's events if they are wanted.

Metrics are the same for every execution of a run on one machine; timings never are, so they live apart.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch

from dataeff.pretrain.timing import Account, Beside, StepTimes, row_of
from dataeff.progress import Pace

if TYPE_CHECKING:
    from dataeff.pretrain.engine import Ranks
    from dataeff.pretrain.events import Events
    from dataeff.pretrain.utilisation import Utilisation

Row = dict[str, Any]


class Log:
    """A JSON-lines file that a resumed run continues: rows after the step it resumes from are dropped."""

    def __init__(self, path: Path, done_steps: int, take: Callable[[Row], object]) -> None:
        """`take` is handed every row: those that are kept now, those that are written later."""
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= done_steps]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(path)
        self.path, self._take = path, take
        for line in kept:
            take(json.loads(line))
        self._stream: TextIO = path.open("a")

    def write(self, row: Row) -> None:
        self._take(row)
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
        self.rows: list[Row] = []
        """Of metrics.jsonl."""
        self.account = Account()
        self.metrics = Log(state / "metrics.jsonl", done_steps, self.rows.append)
        self.timings = Log(state / "timings.jsonl", done_steps, self.account.add)

    def write(self, row: Row, times: StepTimes, beside: dict[str, float]) -> None:
        self.metrics.write(row)
        self.timings.write(row_of(row["step"], times, beside))

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
    """One line every few seconds: step, loss, learning rate, tokens, tokens per second, MFU where it is known, time
    left. Rates are of this start of the run.
    """

    def __init__(self, name: str, total_tokens: int, tokens_done: int) -> None:
        self._name = name
        self._pace = Pace(total_tokens, tokens_done, every_seconds=5.0)

    def show(self, row: Row, steps: int, *, mfu: Callable[[], float | None] = lambda: None, now: bool = False) -> None:
        reading = self._pace.reading(row["effective_tokens"], now=now)
        if reading is None:
            return
        loss = "passed over" if row["loss"] is None else f"loss {row['loss']:.4f}"
        heldout = f"  held-out {row['heldout_loss']:.4f}" if "heldout_loss" in row else ""
        share = mfu()
        utilised = "" if share is None else f"MFU {share:.1%}  "
        print(
            f"{self._name}  step {row['step']}/{steps}  {loss}{heldout}  "
            f"lr {row['learning_rate']:.2e}  {row['effective_tokens']:,} tokens  "
            f"{reading.rate:,.0f} tokens/s  {utilised}{reading.left}",
            flush=True,
        )


@dataclass
class Meter:
    """All that rank 0 writes and says of a step."""

    logs: Logs
    beside: Beside
    progress: Progress
    utilisation: Utilisation
    steps: int
    first: int
    """Steps that earlier starts have done."""
    events: Events | None = None
    seconds: float = 0.0
    """Of the steps of this start."""

    def tell(self, row: Row, times: StepTimes) -> None:
        beside = self.beside.take(times.seconds)
        with self.beside.timed("logging"):
            self.seconds += times.seconds
            self.logs.write(row, times, beside)
            if self.events is not None:
                self.events.write(row, times.seconds)
            self.progress.show(row, self.steps, mfu=lambda: self._mfu(row["step"]), now=row["step"] == self.steps)

    def _mfu(self, done: int) -> float | None:
        return self.utilisation.speed(self.first, done - self.first, self.seconds).mfu

    def sync(self) -> None:
        self.logs.sync()
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        self.logs.close()
        if self.events is not None:
            self.events.close()


@dataclass(frozen=True)
class PeakMemory:
    """The most that any rank held; of a graphics card, what torch gave out and what it took from the driver."""

    host_bytes: int
    cuda_allocated_bytes: int | None
    cuda_reserved_bytes: int | None

    @classmethod
    def of_ranks(cls, ranks: Ranks) -> PeakMemory:
        """All ranks call it."""
        host = -ranks.smallest(-peak_memory_bytes())
        if ranks.device.type != "cuda":
            return cls(host, None, None)
        allocated, reserved = (
            torch.cuda.max_memory_allocated(ranks.device),
            torch.cuda.max_memory_reserved(ranks.device),
        )
        return cls(host, -ranks.smallest(-allocated), -ranks.smallest(-reserved))


def peak_memory_bytes() -> int:
    """Of this process on the host."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
