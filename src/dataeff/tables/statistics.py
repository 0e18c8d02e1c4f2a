"""Means over seeds, and when an interval or a test may be given: Student's t from three seeds on, otherwise none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval's ends; None where there is none."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval of one value a seed; differences to the baseline are taken seed by seed before."""
    seeds = len(values)
    mean = sum(values) / seeds
    if seeds < SEEDS_FOR_A_CLAIM:
        return Estimate(mean, None, seeds)
    return Estimate(mean, t_quantile(seeds) * _standard_error(values, mean), seeds)


def t_quantile(seeds: int) -> float:
    """What a standard error over so many seeds is multiplied by for half of a 95% interval."""
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 0.5 + CONFIDENCE / 2))


def paired_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test that the differences, one a seed, are 0 on average.

    None below three seeds. Below 0.05 exactly where the 95% interval of `estimate` leaves 0 out.
    """
    return p_of(estimate(differences))


def p_of(found: Estimate) -> float | None:
    """Two-sided p of the t test that an estimate is one of 0; None where it has no interval."""
    from scipy.special import stdtr

    if found.half_width is None:
        return None
    if found.half_width == 0:
        return 1.0 if found.mean == 0 else 0.0
    return float(2 * stdtr(found.seeds - 1, -abs(found.mean) * t_quantile(found.seeds) / found.half_width))


def _standard_error(values: Sequence[float], mean: float) -> float:
    return sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / sqrt(len(values))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p by name, adjusted for as many tests as are given (Holm 1979): the chance of any false one stays below it."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def seeds_in_words(counts: Iterable[int]) -> str:
    """`3 seeds`; `3 or 5 seeds` where not everything ran with as many."""
    different = sorted(set(counts))
    return " or ".join(map(str, different)) + (" seed" if different == [1] else " seeds")


def claim(seeds: int) -> str:
    """What a row over this many seeds supports."""
    return f"95% t interval, n = {seeds}" if seeds >= SEEDS_FOR_A_CLAIM else f"n = {seeds}: no claim"
