"""What happens to a step that is not as it should be: passed over, or reported, and after how many the run ends.

A step whose loss or gradient is no finite number makes no update; its samples are passed over. Every rank decides
alike, since both numbers are those of the whole step. Loss scaling (fp16) finds its scale by such steps, so an overflow
of a gradient with a finite loss is no fault there and does not count.

A spike is a loss far above those before it. It is reported, no more: a curriculum makes some by design, and what helps
against one (another learning rate, other data) is a decision about the study.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from dataeff.errors import DataeffError

WINDOW_STEPS, FEWEST_STEPS = 100, 20
DEVIATIONS, LEAST_RISE = 6.0, 0.1
_TO_STANDARD = 1.4826
"""A normal distribution's standard deviation is this many times its median absolute deviation."""
IDS_TOLD = 64

Row = Mapping[str, Any]


class NonFinite(DataeffError):
    """A step's loss or gradient norm is no finite number."""


Outcome = Literal["applied", "skipped", "overflow"]


def outcome(loss: float, gradient_norm: float, precision: str) -> Outcome:
    """What became of a step with this loss and gradient norm."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return "applied"
    return "overflow" if precision == "fp16" and math.isfinite(loss) else "skipped"


def shown(number: float) -> float | None:
    """A number as JSON holds it, which knows no NaN and no infinity."""
    return number if math.isfinite(number) else None


class Skips:
    """Counts the steps that were passed over one after the other. `in_a_row`: those that a resumed run ends with."""

    def __init__(self, most: int, in_a_row: int = 0) -> None:
        self.most, self.in_a_row = most, in_a_row

    def applied(self) -> None:
        self.in_a_row = 0

    def skipped(self, error: NonFinite) -> None:
        """Raises the error if the step was one too many."""
        self.in_a_row += 1
        if self.in_a_row > self.most:
            raise error

    @property
    def told(self) -> str:
        """What a message says of the steps before, and of the setting."""
        before = f", as were the {self.in_a_row} steps before" if self.in_a_row else ""
        return f"{before} (max_skipped: {self.most})"


def skipped_at_the_end(rows: Sequence[Row]) -> int:
    """How many steps in a row, up to the last, were passed over; overflows of fp16 between them do not count."""
    counted = (row for row in reversed(rows) if "overflow" not in row)
    return sum(1 for _ in takewhile(lambda row: "skipped" in row, counted))


def told_ids(ids: Sequence[int]) -> str:
    """A step's sample ids in a message: all, or the first of many."""
    text = ", ".join(map(str, ids[:IDS_TOLD]))
    return text if len(ids) <= IDS_TOLD else f"{text} and {len(ids) - IDS_TOLD} more"


@dataclass(frozen=True)
class Spike:
    step: int
    loss: float
    median: float

    def facts(self) -> dict[str, float]:
        return {"step": self.step, "loss": self.loss, "median": self.median}


class SpikeWatch:
    """Finds where the loss leaves its running median: by more than 6 robust standard deviations of the last 100 steps
    (of at least 20), and more than 10% of the median, so that a loss that hardly moves makes none. A rise that lasts
    is one spike.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        """`rows`: those of the steps before."""
        self._losses: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._high = False
        self.found: list[Spike] = []
        for row in rows:
            self.see(row)

    def tell(self, name: str, row: Row) -> None:
        """Sees the row of the run `name`, and says so where a spike begins."""
        spike = self.see(row)
        if spike is not None:
            print(
                f"{name}: loss {spike.loss:.4f} at step {spike.step}, the median before {spike.median:.4f}", flush=True
            )

    def see(self, row: Row) -> Spike | None:
        """The spike that begins with this metrics row, if one does."""
        loss = row["loss"]
        if loss is None:
            return None
        spike = None
        if len(self._losses) >= FEWEST_STEPS:
            median = statistics.median(self._losses)
            deviation = _TO_STANDARD * statistics.median(abs(value - median) for value in self._losses)
            high = loss - median > max(DEVIATIONS * deviation, LEAST_RISE * abs(median))
            if high and not self._high:
                spike = Spike(row["step"], loss, median)
                self.found.append(spike)
            self._high = high
        self._losses.append(loss)
        return spike


def guard_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """For run.json: the steps that were passed over and the spikes; nothing of what did not happen."""
    facts = {
        "skipped_steps": [row["step"] for row in rows if "skipped" in row],
        "overflow_steps": sum("overflow" in row for row in rows),
        "loss_spikes": [spike.facts() for spike in SpikeWatch(rows).found],
    }
    return {name: value for name, value in facts.items() if value}
