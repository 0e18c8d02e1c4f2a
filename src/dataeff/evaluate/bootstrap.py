"""Paired bootstrap: how far the difference between two models could move if other items of the same kind were asked.

Both models were asked the same items, so a resample draws items, not answers: the items that are hard for both
leave no trace in the difference. Of several seeds the mean is taken inside each resample; of an average over tasks,
items are drawn within each task. The interval says nothing about other seeds of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataeff.errors import DataeffError
from dataeff.evaluate.rescore import Floats, TaskItems, of_means
from dataeff.keyed import generator

RESAMPLES = 2000
CONFIDENCE = 0.95
DRAWN_TOGETHER = 1_000_000
"""Items drawn at once: 8 MB of positions."""


@dataclass(frozen=True)
class Difference:
    """A difference and its 95% percentile interval over resamples of the items."""

    value: float
    low: float
    high: float


def resampled(name: str, runs: Sequence[TaskItems], resamples: int = RESAMPLES) -> Floats:
    """[runs, resamples]: every run's value of one task in the same resamples, which are keyed by `name` and the items.

    DataeffError unless all runs were asked the same items in the same order.
    """
    first = runs[0]
    for other in runs[1:]:
        if other.digest != first.digest or other.aggregation != first.aggregation:
            raise DataeffError(
                f"task '{name}': {len(first.numbers)} and {len(other.numbers)} items, not the same ones: nothing can "
                f"be paired; evaluate both runs with one spec"
            )
    count, columns = first.numbers.shape
    together = np.concatenate([run.numbers for run in runs], axis=1)
    random = generator(0, f"evaluate/bootstrap/{name}/{first.digest}")
    parts: list[Floats] = []
    for start in range(0, resamples, step := max(1, DRAWN_TOGETHER // count)):
        weights = _weights(random, count, min(step, resamples - start))
        parts.append(weights @ together / count)
    means = np.concatenate(parts).reshape(resamples, len(runs), columns).transpose(1, 0, 2)
    return of_means(first.aggregation, means)


def _weights(random: np.random.Generator, count: int, resamples: int) -> Floats:
    """[resamples, items]: how often each item is drawn in each of `resamples` draws of `count` items."""
    drawn = random.integers(0, count, (resamples, count))
    flat = (drawn + np.arange(resamples)[:, None] * count).ravel()
    return np.bincount(flat, minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def paired(ours: Sequence[TaskItems], theirs: Sequence[TaskItems], name: str) -> Difference:
    """The difference of one task's metric: the mean over seeds of ours less that of theirs, on the same items."""
    return averaged({name: (ours, theirs)})


def averaged(tasks: Mapping[str, tuple[Sequence[TaskItems], Sequence[TaskItems]]]) -> Difference:
    """The same of the plain mean over tasks; each has its (ours, theirs), one entry a seed."""
    values, spread = [], np.zeros(RESAMPLES)
    for name, (ours, theirs) in tasks.items():
        found = resampled(name, [*ours, *theirs])
        spread += found[: len(ours)].mean(axis=0) - found[len(ours) :].mean(axis=0)
        values.append(_mean(ours) - _mean(theirs))
    return interval(sum(values) / len(tasks), spread / len(tasks))


def interval(value: float, spread: Floats) -> Difference:
    """A difference with the percentiles of what it was in the resamples."""
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(value, float(low), float(high))


def _mean(runs: Sequence[TaskItems]) -> float:
    return sum(run.value for run in runs) / len(runs)
