"""Data saving: what of the baseline's tokens and time a variant needs to reach the baseline's final loss.

Only fully decayed runs count: a variant's final losses on four or more amounts of data are one curve a seed, made
monotone (isotonic regression: more data cannot make a model worse, so that a rise is noise) and read between points,
linear in the logarithm of the cost. The target is the loss that the baseline of the same seed ends with on 100% of the
data. Nothing is extrapolated: a variant that needs more than its largest run, or less than its smallest, is said to.

Quality kept is exp(baseline's loss on 100% - loss): the geometric mean of the probability that a model gives the
held-out tokens, against the full baseline's. It is 1 for the baseline on all data, and has no free reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from dataeff import keyed
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec
from dataeff.tables.results import BASELINE, Group, RunResult, group_by_seed, percent
from dataeff.tables.statistics import CONFIDENCE, SEEDS_FOR_A_CLAIM, estimate
from dataeff.tables.table import Column, Table

FEWEST_BUDGETS = 4
QUALITY_KEPT = 0.95
BOOTSTRAP_SAMPLES = 10_000

Cost = Callable[[RunResult], float]
COSTS: Mapping[str, Cost] = {
    "effective_tokens": lambda result: float(result.training.effective_tokens),
    "raw_tokens": lambda result: float(result.training.raw_tokens),
    "training_seconds": lambda result: result.timings.training_seconds,
}
WORDS = {"effective_tokens": "effective tokens", "raw_tokens": "raw tokens", "training_seconds": "training time"}


@dataclass(frozen=True)
class Reached:
    """The cost at which a curve reaches a loss; `where` tells whether that lies within the curve's costs."""

    where: Literal["within", "below", "above"]
    cost: float


@dataclass(frozen=True)
class Curve:
    """Final losses of fully decayed runs, by what each cost; costs ascend and losses never rise."""

    costs: tuple[float, ...]
    losses: tuple[float, ...]

    @staticmethod
    def of(points: Sequence[tuple[float, float]]) -> Curve:
        """Of (cost, loss) in any order."""
        from scipy.optimize import isotonic_regression

        ordered = sorted(points)
        fitted = isotonic_regression([loss for _, loss in ordered], increasing=False).x
        return Curve(tuple(cost for cost, _ in ordered), tuple(float(loss) for loss in fitted))

    def reach(self, loss: float) -> Reached:
        """The least cost of a loss as low as this one."""
        if self.losses[0] <= loss:
            return Reached("within" if self.losses[0] == loss else "below", self.costs[0])
        for (cost, high), (next_cost, low) in pairwise(zip(self.costs, self.losses, strict=True)):
            if low <= loss:
                part = (high - loss) / (high - low)
                return Reached("within", math.exp((1 - part) * math.log(cost) + part * math.log(next_cost)))
        return Reached("above", self.costs[-1])


@dataclass(frozen=True)
class Share:
    """What a variant needs of a cost, 1 being the baseline on all data: the geometric mean over seeds and its 95%
    intervals, by Student's t over the logarithms and by a bootstrap over seeds. None: the loss lies outside of the
    budgets in some seed, `where` tells on which side.
    """

    where: Literal["within", "below", "above", "mixed"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


def share_of(found: Sequence[Reached], full: Sequence[float]) -> Share:
    """Of what was reached and what the baseline cost on all data, a pair a seed."""
    kinds = {reached.where for reached in found}
    if kinds != {"within"}:
        return Share(kinds.pop() if len(kinds) == 1 else "mixed")
    logs = [math.log(reached.cost / cost) for reached, cost in zip(found, full, strict=True)]
    mean = estimate(logs)
    if mean.half_width is None:
        return Share("within", math.exp(mean.mean))
    low, high = bootstrap(logs)
    return Share(
        "within",
        math.exp(mean.mean),
        math.exp(mean.mean - mean.half_width),
        math.exp(mean.mean + mean.half_width),
        math.exp(low),
        math.exp(high),
    )


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The percentile interval of the mean over seeds drawn with replacement, always the same draws.

    Of few seeds it is too narrow (three have ten different samples): it stands beside the t interval, not in its place.
    """
    drawn = keyed.generator(0, "bootstrap over seeds").integers(0, len(values), (BOOTSTRAP_SAMPLES, len(values)))
    means = np.asarray(values)[drawn].mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Series:
    """All budgets of one variant of a family, each run with the same seeds."""

    family: FamilyName
    variant: str
    groups: tuple[Group, ...]

    @property
    def seeds(self) -> list[int]:
        """Those of every budget."""
        of_groups = [{result.run.seed for result in group.results} for group in self.groups]
        return sorted(set.intersection(*of_groups))

    def result(self, group: Group, seed: int) -> RunResult:
        return next(result for result in group.results if result.run.seed == seed)

    def curve(self, seed: int, cost: Cost) -> Curve:
        found = [self.result(group, seed) for group in self.groups]
        return Curve.of([(cost(result), result.heldout.loss) for result in found])

    @property
    def runs(self) -> list[str]:
        return [result.run.name for group in self.groups for result in group.results]


def series_of(runs: Sequence[RunResult]) -> list[Series]:
    """The variants of a grid with all their budgets, the baseline among them."""
    found: dict[tuple[FamilyName, str], list[Group]] = {}
    for group in group_by_seed(runs):
        found.setdefault((group.family, group.variant), []).append(group)
    return [Series(family, variant, tuple(groups)) for (family, variant), groups in found.items()]


def full_baseline(runs: Sequence[RunResult], family: FamilyName) -> dict[int, RunResult]:
    """The baseline's runs on all data, by seed."""
    return {
        result.run.seed: result
        for result in runs
        if (result.run.family, result.run.variant, result.run.data) == (family, BASELINE, Fraction(1))
    }


def lacking(series: Series, full: Mapping[int, RunResult]) -> str:
    """Why there is no curve to read from; empty if there is one."""
    if not full:
        return f"no {BASELINE} on 100% of the data"
    if len(series.groups) < FEWEST_BUDGETS:
        count = len(series.groups)
        return f"{count} amount{'s' * (count > 1)} of data, {FEWEST_BUDGETS} are needed"
    if not set(series.seeds) & set(full):
        return f"no seed in common with {BASELINE} on 100% of the data"
    return ""


def saving(series: Series, full: Mapping[int, RunResult], cost: Cost) -> Share:
    """What of the full baseline's cost the variant needs for the full baseline's loss."""
    seeds = [seed for seed in series.seeds if seed in full]
    found = [series.curve(seed, cost).reach(full[seed].heldout.loss) for seed in seeds]
    return share_of(found, [cost(full[seed]) for seed in seeds])


def quality_point(series: Series, full: Mapping[int, RunResult], kept: float = QUALITY_KEPT) -> Share:
    """What of the full baseline's effective tokens keeps this much of its quality."""
    cost = COSTS["effective_tokens"]
    seeds = [seed for seed in series.seeds if seed in full]
    found = [series.curve(seed, cost).reach(full[seed].heldout.loss - math.log(kept)) for seed in seeds]
    return share_of(found, [cost(full[seed]) for seed in seeds])


def quality_kept(result: RunResult, full: Mapping[int, RunResult]) -> float | None:
    """exp(full baseline's loss - loss), of the same seed."""
    baseline = full.get(result.run.seed)
    return None if baseline is None else math.exp(baseline.heldout.loss - result.heldout.loss)


# --- the table -----------------------------------------------------------------------------------------------

_SECTIONS = {
    "saving": "For the final loss of the baseline on 100% of the data",
    "kept": "Quality kept, in % of the baseline's on 100% of the data",
}


def saving_table(spec: GridSpec, runs: list[RunResult]) -> Table:
    """A row per variant that has more than one amount of data; without rows where none has."""
    found = [series for series in series_of(runs) if len(series.groups) > 1]
    fractions = sorted({group.data for series in found for group in series.groups}, reverse=True)
    rows = [_row(series, full_baseline(runs, series.family)) for series in found]
    part = Column(key="", heading="", section="saving", digits=1, scale=100.0, unit="%")
    columns = [
        Column(key="family", heading="family"),
        Column(key="variant", heading="variant"),
        Column(key="seeds", heading="seeds", digits=0),
        Column(key="budgets", heading="amounts of data", digits=0, section="saving"),
    ]
    for key, words in WORDS.items():
        columns += [
            part.model_copy(update={"key": f"{key}_share", "heading": words}),
            part.model_copy(update={"key": f"{key}_low", "heading": "from"}),
            part.model_copy(update={"key": f"{key}_high", "heading": "to"}),
        ]
        columns += [
            Column(key=f"{key}_bootstrap_{end}", heading=f"{words}, bootstrap {end}", section="csv only")
            for end in ("low", "high")
        ]
    columns.append(Column(key="reason", heading="remark", section="saving"))
    for data in fractions:
        kept = {
            "key": f"kept_{percent(data)}",
            "heading": percent(data),
            "section": "kept",
            "unit": "",
            "interval": True,
        }
        columns.append(part.model_copy(update=kept))
    point = {"section": "kept", "heading": f"{QUALITY_KEPT:.0%} kept with"}
    columns.append(part.model_copy(update=point | {"key": "point_share"}))
    columns += [
        part.model_copy(update={"key": f"point_{end}", "heading": word, "section": "kept"})
        for end, word in (("low", "from"), ("high", "to"))
    ]
    return Table(
        name="saving",
        title="Data saving",
        sections=_SECTIONS,
        columns=columns,
        rows=rows,
        notes=_notes() if rows else [],
    )


def _row(series: Series, full: Mapping[int, RunResult]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "family": series.family,
        "variant": series.variant,
        "seeds": len([seed for seed in series.seeds if seed in full]),
        "budgets": len(series.groups),
        "reason": lacking(series, full),
    }
    for group in series.groups:
        kept = [value for result in group.results if (value := quality_kept(result, full)) is not None]
        if kept and (group.data != Fraction(1) or series.variant != BASELINE):
            mean = estimate(kept)
            row |= {f"kept_{percent(group.data)}": mean.mean, f"kept_{percent(group.data)}_interval": mean.half_width}
    if row["reason"]:
        return row
    shares = {key: saving(series, full, cost) for key, cost in COSTS.items()} if series.variant != BASELINE else {}
    for key, share in shares.items():
        row |= _cells(key, share)
    row |= _cells("point", quality_point(series, full))
    row["reason"] = "the comparison itself" if not shares else outside(shares["effective_tokens"])
    return row


def _cells(key: str, share: Share) -> dict[str, float | None]:
    return {
        f"{key}_share": share.value,
        f"{key}_low": share.low,
        f"{key}_high": share.high,
        f"{key}_bootstrap_low": share.bootstrap_low,
        f"{key}_bootstrap_high": share.bootstrap_high,
    }


def outside(share: Share) -> str:
    """Why a share has no number; empty where it has one."""
    return {
        "within": "",
        "above": "not reached with all data",
        "below": "reached with less than the smallest amount",
        "mixed": "outside of the amounts run in some seeds",
    }[share.where]


def _notes() -> list[str]:
    return [
        f"What a variant needs, in % of what the {BASELINE} took on 100% of the data, to end with the same held-out "
        f"loss: read between the final losses of fully decayed runs on {FEWEST_BUDGETS} amounts of data or more, made "
        "monotone, linear in the logarithm. Nothing is extrapolated.",
        f"from, to: 95% t interval over the logarithms, paired by seed, from {SEEDS_FOR_A_CLAIM} seeds on. The CSV "
        "holds a percentile bootstrap over seeds beside it, which is too narrow where there are few.",
        f"Quality kept: exp(loss of the {BASELINE} on 100% less the loss), the probability given to a held-out token "
        "(geometric mean) against the full baseline's. The papers' 95% is of an average of task scores: another "
        "measure.",
        "Training time is wall-clock time on one machine with whatever ran beside the run.",
    ]
