"""Both rules against values worked out by hand, and the published one against what upstream's script printed."""

from __future__ import annotations

import math
from statistics import stdev

import pytest

from dataeff.finetune.aggregate import (
    best_epoch,
    honest_average,
    honest_column,
    honest_rule,
    published_average,
    published_rule,
)
from dataeff.finetune.scores import EpochValues, PublishedColumn, PublishedRate, Trial
from tests.finetune.upstream_glue import COLUMNS, RATES, TASKS, trials_of

# Printed by ds_finetune_gather_result.py of Megatron-DeepSpeed f4157be over the logs of upstream_glue.py: the average,
# MNLI-m, MNLI-mm, then the tasks in TASKS' order.
PRINTED = {
    "2e-5": "79.22±2.01 &75.81±2.51 & 80.14±3.0 &80.87±1.29 &80.14±1.8 &79.42±1.65 &79.78±1.99 &77.62±2.14 &80.14±1.45 "
    "&79.06±2.23",
    "3e-5": "79.82±1.65 &77.62±2.69 & 78.7±0.57 &79.78±1.1 &80.51±2.13 &80.87±0.94 &79.42±2.13 &80.87±0.93 &79.78±1.43 "
    "&80.87±2.89",
    "4e-5": "78.94±1.97 &80.87±3.6 & 76.17±1.66 &79.06±2.0 &76.17±2.32 &79.78±1.01 &79.42±1.02 &79.06±1.72 &80.14±3.17 "
    "&79.78±1.21",
    "5e-5": "79.5±1.54 &80.87±1.32 & 76.9±2.07 &79.06±1.61 &79.78±2.06 &79.06±2.02 &80.14±0.87 &80.14±1.06 &79.78±1.0 "
    "&79.78±1.87",
}


def trial(rate: float, seed: int, decides: list[float], selection: list[float], scored: list[float]) -> Trial:
    epochs = [
        EpochValues(training_loss=0.1, values={"X": one}, decides=one, selection=two, scored={"X": three})
        for one, two, three in zip(decides, selection, scored, strict=True)
    ]
    facts = {"published_epoch": best_epoch(decides), "honest_epoch": best_epoch(selection), "steps": 3, "seconds": 1.0}
    return Trial(learning_rate=rate, seed=seed, epochs=epochs, **facts)


SMALL = [
    trial(2e-5, 1, [0.50, 0.60, 0.55], [0.5, 0.6, 0.7], [0.40, 0.41, 0.42]),
    trial(2e-5, 2, [0.80, 0.80, 0.10], [0.6, 0.6, 0.1], [0.30, 0.90, 0.90]),
    trial(2e-5, 3, [0.10, 0.20, 0.70], [0.1, 0.2, 0.8], [0.10, 0.20, 0.60]),
    trial(5e-5, 1, [0.72, 0.10, 0.10], [0.9, 0.1, 0.1], [0.50, 0.99, 0.99]),
    trial(5e-5, 2, [0.10, 0.71, 0.10], [0.1, 0.2, 0.1], [0.99, 0.20, 0.99]),
    trial(5e-5, 3, [0.10, 0.10, 0.90], [0.1, 0.1, 0.3], [0.99, 0.99, 0.30]),
]


def test_of_equal_epochs_the_first() -> None:
    assert best_epoch([0.1, 0.3, 0.3]) == 2


def test_published_rule_by_hand() -> None:
    """Best epochs 0.6, 0.8, 0.7 (median 0.7 of seed 3) and 0.72, 0.71, 0.9 (0.72 of seed 1, the better rate)."""
    found = published_rule(SMALL)
    first, second = found.rates
    assert (first.learning_rate, first.seed, first.decides) == (2e-5, 3, 0.70)
    assert (second.learning_rate, second.seed, second.decides) == (5e-5, 1, 0.72)
    assert found.best is second
    assert first.columns["X"].deviation == pytest.approx(0.1)
    assert second.columns["X"].deviation == stdev([0.72, 0.71, 0.9])


def test_of_an_even_number_of_seeds_the_upper_median() -> None:
    found = published_rule(SMALL[:2])
    assert found.best.columns["X"].value == 0.80
    assert published_rule(SMALL[:1]).best.columns["X"].deviation is None


def test_honest_rule_by_hand() -> None:
    """Chosen on the selection part: 0.7, 0.6, 0.8 (mean 0.7) against 0.9, 0.2, 0.3 (0.467). Scored: 0.42, 0.3, 0.6."""
    found = honest_rule(SMALL)
    assert found.learning_rate == 2e-5
    assert found.selection == pytest.approx(0.7)
    assert found.columns["X"].by_seed == {1: 0.42, 2: 0.30, 3: 0.60}
    assert found.columns["X"].value == pytest.approx(0.44)
    deviation = math.sqrt((0.02**2 + 0.14**2 + 0.16**2) / 2)
    # The 97.5% point of Student's t with 2 degrees of freedom.
    assert found.columns["X"].half_width == pytest.approx(4.302652729911275 * deviation / math.sqrt(3))


def test_an_average_is_taken_seed_by_seed() -> None:
    one, two = honest_column({1: 0.2, 2: 0.4, 3: 0.6}), honest_column({1: 0.6, 2: 0.4, 3: 0.2})
    average = honest_average({"A": one, "B": two})
    assert average.by_seed == {1: 0.4, 2: 0.4, 3: 0.4}
    # Each task varies, their average does not: the mean of the tasks' intervals would say otherwise.
    assert average.half_width == pytest.approx(0.0, abs=1e-12)
    assert one.half_width is not None
    assert one.half_width > 0.4
    other = honest_average({"A": one, "B": honest_column({4: 0.5, 5: 0.5, 6: 0.5})})
    assert (other.value, other.half_width) == (pytest.approx(0.45), None)


def test_the_published_average_rounds_before_and_after() -> None:
    """0.123451, 0.5 and 0.5 in percent: 12.35, 50 and 50, whose mean is 37.45 (unrounded 37.4484)."""
    columns = {
        name: PublishedColumn(value=value, deviation=0.01) for name, value in (("A", 0.123451), ("B", 0.5), ("C", 0.5))
    }
    assert published_average(columns) == (pytest.approx(0.3745, abs=1e-12), 0.01)
    columns["A"] = PublishedColumn(value=0.1, deviation=None)
    assert published_average(columns)[1] is None


def rate_of(task: str, rate: str) -> PublishedRate:
    return next(found for found in published_rule(trials_of(task)).rates if found.learning_rate == float(rate))


@pytest.mark.parametrize("rate", RATES)
def test_published_rule_as_upstream_prints_it(rate: str) -> None:
    found = {task: rate_of(task, rate) for task in TASKS}
    columns = {name: column for task in TASKS for name, column in found[task].columns.items()}
    assert len(columns) == 9
    average, deviation = published_average(columns)
    shown = [(average, deviation), *((column.value, column.deviation) for column in columns.values())]
    printed = [tuple(map(float, cell.split("±"))) for cell in PRINTED[rate].split("&")]
    assert [(round(100 * value, 2), round(100 * (spread or 0), 2)) for value, spread in shown] == printed


def test_the_best_rate_is_chosen_for_each_task() -> None:
    """Upstream's script prints a row for one rate at all tasks; which is best is left to its reader."""
    for task in TASKS:
        found = published_rule(trials_of(task))
        assert found.best.decides == max(rate.decides for rate in found.rates)
        assert list(found.best.columns) == COLUMNS.get(task, [task])
