"""One score of many trainings, by two rules.

`published_rule` is what stands behind the papers' GLUE averages (Megatron-DeepSpeed's
examples_deepspeed/data_efficiency/bert/finetune_glue/ds_finetune_gather_result.py): of each seed the best epoch, of the
seeds the (upper) median one, of the learning rates the best one; and as its deviation the standard deviation over seeds
at their best epochs. All three choices are made on the items that are scored, so that it is too high, and the more so
the more epochs, seeds and rates are tried; and the mean of per-task deviations that is given beside an average is not
the deviation of that average.

`honest_rule` chooses epoch and learning rate on one part of the items and scores the others, as a mean over seeds
with an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median_high, stdev

from dataeff.finetune.scores import (
    EpochValues,
    HonestColumn,
    HonestRule,
    PublishedColumn,
    PublishedRate,
    PublishedRule,
    Trial,
)


def best_epoch(values: Sequence[float]) -> int:
    """The epoch, counted from 1, of the highest value; of equal ones the first."""
    return values.index(max(values)) + 1


def published_rule(trials: Sequence[Trial]) -> PublishedRule:
    """Of equal learning rates the first, in the recipe's order."""
    rates = [_published_rate(rate, of_rate) for rate, of_rate in _by_rate(trials).items()]
    return PublishedRule(learning_rate=max(rates, key=lambda rate: rate.decides).learning_rate, rates=rates)


def _published_rate(learning_rate: float, trials: Sequence[Trial]) -> PublishedRate:
    chosen = [trial.epochs[trial.published_epoch - 1] for trial in trials]
    deciding = [epoch.decides for epoch in chosen]
    median = deciding.index(median_high(deciding))
    return PublishedRate(
        learning_rate=learning_rate,
        seed=trials[median].seed,
        decides=deciding[median],
        columns={
            column: PublishedColumn(value=value, deviation=_deviation([epoch.values[column] for epoch in chosen]))
            for column, value in chosen[median].values.items()
        },
    )


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def published_average(columns: Mapping[str, PublishedColumn]) -> tuple[float, float | None]:
    """The columns' average and the mean of their deviations, rounded where the papers' numbers are.

    Each is cut to two digits of a percent before it is averaged, and the average again.
    """
    values = [round(100 * column.value, 2) for column in columns.values()]
    deviations = [round(100 * column.deviation, 2) for column in columns.values() if column.deviation is not None]
    average = round(sum(values) / len(values), 2) / 100
    if len(deviations) < len(values):
        return average, None
    return average, round(sum(deviations) / len(deviations), 2) / 100


def honest_rule(trials: Sequence[Trial]) -> HonestRule:
    """The rate with the highest mean over seeds on the selection part, each seed at the epoch that is best there."""
    means = {
        rate: fmean(_honest_epoch(trial).selection for trial in of_rate) for rate, of_rate in _by_rate(trials).items()
    }
    rate = max(means, key=lambda rate: means[rate])
    chosen = {trial.seed: _honest_epoch(trial) for trial in trials if trial.learning_rate == rate}
    columns = next(iter(chosen.values())).scored
    return HonestRule(
        learning_rate=rate,
        selection=means[rate],
        columns={
            column: honest_column({seed: epoch.scored[column] for seed, epoch in chosen.items()}) for column in columns
        },
    )


def honest_column(by_seed: Mapping[int, float]) -> HonestColumn:
    """Mean and interval of one value a seed."""
    # Tables read these scores, so that the module cannot be imported before them.
    from dataeff.tables.statistics import estimate

    found = estimate(list(by_seed.values()))
    return HonestColumn(value=found.mean, half_width=found.half_width, by_seed=dict(by_seed))


def honest_average(columns: Mapping[str, HonestColumn]) -> HonestColumn:
    """The columns' average as one column: averaged seed by seed where all columns have the same seeds, so that the
    interval is that of the average; otherwise without one.
    """
    seeds = [set(column.by_seed) for column in columns.values()]
    if any(other != seeds[0] for other in seeds):
        return HonestColumn(value=fmean(column.value for column in columns.values()), half_width=None, by_seed={})
    return honest_column(
        {
            seed: fmean(column.by_seed[seed] for column in columns.values())
            for seed in next(iter(columns.values())).by_seed
        }
    )


def _honest_epoch(trial: Trial) -> EpochValues:
    return trial.epochs[trial.honest_epoch - 1]


def _by_rate(trials: Sequence[Trial]) -> dict[float, list[Trial]]:
    found: dict[float, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.learning_rate, []).append(trial)
    return found
