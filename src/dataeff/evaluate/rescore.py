"""A task's value from the values of its items, without the harness: what averages, errors and tests start from.

Every aggregation here is a function of the mean over items of a few numbers of each item (an accuracy; log-likelihood
and words; true and false positives), so that a resample of the items is a mean with other weights (bootstrap.py).
Names and meanings are the harness's; one that is not here cannot be computed again, and a task with it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.evaluate.records import ITEMS, Record, read_records
from dataeff.evaluate.scores import Scores, TaskScore, read_scores
from dataeff.files import canonical_digest

SCORES = "scores.json"
TOLERANCE = 1e-9
"""Relative: a sum in another order differs by less, another item or rule by far more."""
ERROR_RESAMPLES = 1000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Aggregation:
    """`numbers`: those of an item's value; `of_means`: the task's value, of their means in the last axis."""

    numbers: Callable[[Any], Sequence[float]]
    of_means: Callable[[Floats], Floats]


@dataclass(frozen=True)
class TaskItems:
    """What the items of a task at one number of shots say.

    `numbers`: [items, numbers]. `digest` is of the items' identities in their order: equal for two runs that were
    asked the same.
    """

    aggregation: str
    numbers: Floats
    digest: str

    @property
    def value(self) -> float:
        return float(of_means(self.aggregation, self.numbers.mean(axis=0)))


def _positives(pair: Sequence[int]) -> Sequence[float]:
    """(true positive, false positive, false negative, true negative) of (gold, predicted), both 0 or 1."""
    gold, predicted = pair
    if gold not in (0, 1) or predicted not in (0, 1):
        raise ValueError(f"classes {gold} and {predicted}: f1 and matthews_corrcoef are of classes 0 and 1")
    return [gold * predicted, (1 - gold) * predicted, gold * (1 - predicted), (1 - gold) * (1 - predicted)]


def _f1(means: Floats) -> Floats:
    """0 where nothing is positive, as the harness has it."""
    true, false, missed = means[..., 0], means[..., 1], means[..., 2]
    return _ratio(2 * true, 2 * true + false + missed)


def _matthews(means: Floats) -> Floats:
    true, false, missed, other = (means[..., index] for index in range(4))
    together = (true + false) * (true + missed) * (other + false) * (other + missed)
    return _ratio(true * other - false * missed, np.sqrt(together))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


AGGREGATIONS: dict[str, Aggregation] = {
    "mean": Aggregation(lambda value: [value], lambda means: means[..., 0]),
    "perplexity": Aggregation(lambda value: [value], lambda means: np.exp(-means[..., 0])),
    "weighted_perplexity": Aggregation(lambda pair: pair, lambda means: np.exp(-means[..., 0] / means[..., 1])),
    "bits_per_byte": Aggregation(lambda pair: pair, lambda means: -means[..., 0] / means[..., 1] / math.log(2)),
    "f1": Aggregation(_positives, _f1),
    "matthews_corrcoef": Aggregation(_positives, _matthews),
}

DEFAULTS = {
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"), "mean"),
    "perplexity": "perplexity",
    **dict.fromkeys(("word_perplexity", "byte_perplexity"), "weighted_perplexity"),
    "bits_per_byte": "bits_per_byte",
    "f1": "f1",
    "mcc": "matthews_corrcoef",
}
"""The harness's aggregation of a metric whose task names none."""


def of_means(aggregation: str, means: Floats) -> Floats:
    """The task's value for each mean of its items' numbers, [..., numbers] -> [...]."""
    return np.asarray(AGGREGATIONS[aggregation].of_means(means))


def task_items(records: Sequence[Record], metric: str, aggregation: str) -> TaskItems:
    """The numbers of one task's records."""
    numbers_of = AGGREGATIONS[aggregation].numbers
    numbers = [[float(number) for number in numbers_of(record["metrics"][metric])] for record in records]
    return TaskItems(aggregation, np.array(numbers), canonical_digest([record["item"] for record in records]))


def standard_error(found: TaskItems) -> float | None:
    """The harness's formula of a mean; otherwise the spread over keyed resamples. None of a single item."""
    count = len(found.numbers)
    if count < 2:
        return None
    if found.aggregation == "mean":
        return float(found.numbers[:, 0].std(ddof=1) / math.sqrt(count))
    # Compiled: too slow to import for `check`, which reads the names here.
    from dataeff.keyed import generator

    random = generator(0, f"evaluate/standard error/{found.digest}")
    means = [found.numbers[random.integers(0, count, count)].mean(axis=0) for _ in range(ERROR_RESAMPLES)]
    return float(of_means(found.aggregation, np.array(means)).std(ddof=1))


def rescore(folder: Path) -> dict[str, TaskItems]:
    """Every task of a {k}shot folder, computed again from its items file alone.

    DataeffError where scores.json says another value or another number of items.
    """
    return check_scores(read_scores(Path(folder) / SCORES), Path(folder))


def check_scores(scores: Scores, folder: Path) -> dict[str, TaskItems]:
    """`rescore`, of a scores file that is read already."""
    records = read_records(folder / ITEMS)
    if set(records) != set(scores.tasks):
        raise DataeffError(
            f"{folder}: {SCORES} has the tasks {sorted(scores.tasks)}, {ITEMS} has {sorted(records)}; {_REMEDY}"
        )
    return {name: _checked(folder, name, score, records) for name, score in scores.tasks.items()}


_REMEDY = "delete the folder and evaluate again"


def _checked(folder: Path, name: str, score: TaskScore, records: Mapping[str, list[Record]]) -> TaskItems:
    try:
        found = task_items(records[name], score.metric, score.aggregation)
    except (KeyError, TypeError, ValueError) as error:
        raise DataeffError(
            f"{folder / ITEMS}: an item of '{name}' has no usable value of {score.metric} ({error}); {_REMEDY}"
        ) from None
    if len(found.numbers) != score.items:
        raise DataeffError(
            f"{folder}: {SCORES} counts {score.items} items of '{name}', {ITEMS} has {len(found.numbers)}; {_REMEDY}"
        )
    if not same(found.value, score.value):
        raise DataeffError(
            f"{folder}: {SCORES} gives '{name}' {score.metric} {score.value}, its items give {found.value}; {_REMEDY}"
        )
    return found


def same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
