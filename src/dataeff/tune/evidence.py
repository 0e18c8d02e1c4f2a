"""What one short training showed: its validation losses, and how far they rose above the best before.

The criterion: a validation perplexity must not exceed `limit` times the best one so far. The limit of 1.3 is recalled
from the papers (arXiv 2212.03597, 3.1; 2108.06084) and was not verified against their text; it is an option.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from dataeff.study.base import ExactFraction, Frozen
from dataeff.tune.search import Candidate

LIMIT = 1.3
_LOSS = "heldout_loss"
_LARGEST_EXPONENT = 700.0
"""Of e, in a float: a perplexity that is e**700 times another is as bad as any."""


class Probe(Frozen):
    """The validation loss after `step` steps, counted from 1."""

    step: int
    loss: float


class Evidence(Frozen):
    """Of one candidate, or of the run without the pacing (`start` and `over` are None).

    `identity` is the digest of all that decided the losses. `diverged_at`: the step, from 1, whose loss or gradient
    was not finite, or after which the validation loss was not. `refused`: why no plan could be made, if none could.
    """

    identity: str
    start: int | None
    over: ExactFraction | None
    steps: int
    steps_to_train: int
    effective_tokens: int
    probes: list[Probe]
    diverged_at: int | None = None
    refused: str | None = None
    seconds: float

    @property
    def candidate(self) -> Candidate | None:
        return None if self.start is None or self.over is None else Candidate(self.start, self.over)

    def worst(self) -> tuple[float, int] | None:
        """The largest ratio of a perplexity to the best before it, and its step; None before the second probe."""
        worst, best = None, math.inf
        for number, probe in enumerate(self.probes):
            ratio = math.exp(min(probe.loss - best, _LARGEST_EXPONENT)) if number else 0.0
            if number and (worst is None or ratio > worst[0]):
                worst = ratio, probe.step
            best = min(best, probe.loss)
        return worst

    def is_stable(self, limit: float) -> bool:
        worst = self.worst()
        return self.diverged_at is None and self.refused is None and worst is not None and worst[0] <= limit

    def verdict(self, limit: float) -> str:
        if self.refused is not None:
            return "not possible"
        if self.diverged_at is not None:
            return f"diverged at step {self.diverged_at:,}"
        return "stable" if self.is_stable(limit) else "fluctuates"


def read_metrics(path: Path) -> tuple[int, int, list[Probe], int | None]:
    """Steps, effective tokens and finite validation losses of a metrics.jsonl, up to its first loss that is not
    finite, and the step of that one. A last line that is not whole yet is left out.
    """
    steps, tokens = 0, 0
    probes: list[Probe] = []
    for line in _whole_lines(path):
        row = json.loads(line)
        steps, tokens = int(row["step"]), int(row["effective_tokens"])
        if _LOSS in row:
            if row[_LOSS] is None or not math.isfinite(row[_LOSS]):
                return steps, tokens, probes, steps
            probes.append(Probe(step=steps, loss=float(row[_LOSS])))
    return steps, tokens, probes, None


def _whole_lines(path: Path) -> Iterable[str]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return (line for line in text.splitlines(keepends=True) if line.endswith("\n"))
