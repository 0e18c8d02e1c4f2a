"""Pacing: the value of a difficulty at a step. The one home of the pacing formula.

    d(t) = floor((t / total)^(1/root) * (end - start) + start), rounded down to a multiple, at most `end`

Curriculum learning reads it at the 1-based step, random-LTD at the 0-based step with root 1 (arXiv 2212.03597,
3.1; equal to DeepSpeed's CurriculumScheduler and RandomLTDScheduler, which tests/parity checks).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.study.types import Pacing


@dataclass(frozen=True)
class PacingSchedule:
    """A pacing in whole units (tokens, percent or a metric's value) and whole steps."""

    start: int
    end: int
    total_steps: int
    root: int
    multiple_of: int
    floor: int

    @classmethod
    def resolve(
        cls,
        pacing: Pacing,
        *,
        unit: int,
        nominal_steps: int,
        floor_at_start: bool,
        where: str,
        total_steps: int | None = None,
    ) -> PacingSchedule:
        """The schedule of a run: `unit` is what a start or end of 1 stands for (the sequence length, or 1).

        `total_steps` is the duration where a published run has one that `over` does not give.

        `floor_at_start`: never below the first multiple at or above `start`, as CurriculumScheduler does and
        RandomLTDScheduler does not. Raises DataeffError where the pacing cannot be run at this size.
        """
        start, end = _whole(pacing.start * unit), _whole(pacing.end * unit)
        total = total_steps or max(1, round(pacing.over * nominal_steps))
        rounded_up = -(-start // pacing.multiple_of) * pacing.multiple_of
        if not floor_at_start and start // pacing.multiple_of == 0:
            raise DataeffError(
                f"{where}: start {start} rounds down to 0 with multiple_of {pacing.multiple_of}; "
                f"raise start to at least {pacing.multiple_of} or lower multiple_of"
            )
        if start < 1:
            raise DataeffError(f"{where}: start is {start} in whole units; at least 1 is needed")
        if floor_at_start and rounded_up > end:
            raise DataeffError(f"{where}: start {start}, rounded up to {rounded_up}, is above end {end}")
        return cls(start, end, total, pacing.root, pacing.multiple_of, rounded_up if floor_at_start else 0)

    def at(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Values at `steps` (any shape); non-decreasing.

        `end` is reached at total_steps where it is a multiple of multiple_of, otherwise some steps later (the
        fraction is not capped at 1), as in DeepSpeed.
        """
        fraction = np.asarray(steps, dtype=np.float64) / self.total_steps
        if self.root != 1:
            fraction = fraction ** (1.0 / self.root)
        value = np.floor(fraction * (self.end - self.start) + self.start).astype(np.int64)
        value -= value % self.multiple_of
        return np.minimum(np.maximum(value, self.floor), self.end)


def _whole(value: Fraction) -> int:
    return value.numerator // value.denominator
