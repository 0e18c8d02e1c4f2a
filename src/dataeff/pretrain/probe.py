"""The held-out probe: measures on a fixed piece of held-out text at full length, a few times during a run.

The training loss of a curriculum run is over shorter or easier samples and says little beside the baseline's; the
probe is the same text at the same length for every run. It is small; the evaluation stage scores much more text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dataeff.families import Family
from dataeff.families.batch import StepBatch
from dataeff.families.interface import Sum


def probe_measures(
    network: Any, family: Family, batch: StepBatch, micro_batch: int, device: torch.device | str
) -> dict[str, float]:
    """Means over the rows by the measure's name; leaves the model in training mode and torch's generator untouched."""
    network.eval()
    sums: dict[str, Sum] = {}
    with torch.no_grad():
        for start in range(0, batch.rows, micro_batch):
            found = family.probe_sums(network, batch.part(slice(start, start + micro_batch), device))
            sums = {name: sums.get(name, Sum(0.0, 0)) + found[name] for name in found}
    network.train()
    return {name: total.mean for name, total in sums.items()}


def probe_steps(cumulative_effective_tokens: np.ndarray, points: int, target_tokens: int) -> set[int]:
    """0-based steps after which the probe is taken: those that reach the `points` equal parts of the run's budget of
    effective tokens, and the last one.

    Parts of the budget, not of what the last step makes of it, which differs by up to a step between variants: so
    all runs of one budget are measured at the same effective tokens, each up to a step of its own later. A plan that is
    cut short ends before its budget and has the parts of what it reaches.
    """
    last = len(cumulative_effective_tokens) - 1
    budget = min(target_tokens, int(cumulative_effective_tokens[-1]))
    # Rounded up: a step reaches a mark between two tokens with the token after it.
    marks = [-(-budget * point // points) for point in range(1, points + 1)]
    return {int(step) for step in np.searchsorted(cumulative_effective_tokens, marks)} | {last}
