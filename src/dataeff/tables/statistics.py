"""Means over seeds, and when an interval may be given: Student's t from three seeds on, otherwise none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

SEEDS_FOR_A_CLAIM = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `seeds` values and half the width of its 95% interval (None below three seeds)."""

    mean: float
    half_width: float | None
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of one value a seed; differences to the baseline are taken seed by seed before."""
    seeds = len(values)
    mean = sum(values) / seeds
    if seeds < SEEDS_FOR_A_CLAIM:
        return Estimate(mean, None, seeds)
    from scipy.special import stdtrit

    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (seeds - 1))
    quantile = float(stdtrit(seeds - 1, 0.5 + CONFIDENCE / 2))
    return Estimate(mean, quantile * deviation / sqrt(seeds), seeds)


def claim(seeds: int) -> str:
    """What a row over this many seeds supports."""
    return f"95% t interval, n = {seeds}" if seeds >= SEEDS_FOR_A_CLAIM else f"n = {seeds}: no claim"
