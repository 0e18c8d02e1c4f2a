"""What the runs of a grid say to a claim: a value with its interval, and what is tested of it; all paired by seed.

`tested` is on a scale on which 0 is the claim's limit and what lies below it speaks for the claim: a difference of
losses as it is, a ratio as the logarithm of its share of the limit, a score turned round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean

from dataeff.study.base import FamilyName
from dataeff.tables.quality import Measure, heldout_loss
from dataeff.tables.results import BASELINE, RunResult, percent
from dataeff.tables.saving import (
    COSTS,
    QUALITY_KEPT,
    WORDS,
    Series,
    Share,
    full_baseline,
    lacking,
    outside,
    quality_point,
    saving,
    series_of,
)
from dataeff.tables.statistics import Estimate, estimate

SHARE = "% of the baseline's"


@dataclass(frozen=True)
class Evidence:
    """`text`: what was measured, as a sentence without its interval; `missing`: why nothing was.

    An empty end of the interval is not known, or outside of what was run.
    """

    measure: str
    unit: str
    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    runs: tuple[str, ...] = ()
    tested: tuple[Estimate, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Place:
    """A variant on a percentage of the data; 67 is both 2/3 and 0.67."""

    variant: str
    percent: int = 100


@dataclass(frozen=True)
class Pairs:
    """Runs of two places with the same seeds."""

    ours: tuple[RunResult, ...]
    theirs: tuple[RunResult, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(result.run.name for result in (*self.ours, *self.theirs))

    def differences(self, measure: Measure) -> list[float] | None:
        """Ours less theirs, one a seed; None where some run is not measured by this."""
        pairs = [(measure(ours), measure(theirs)) for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        found = [value - other for value, other in pairs if value is not None and other is not None]
        return found if len(found) == len(pairs) else None


def pairs_of(runs: Sequence[RunResult], family: FamilyName, ours: Place, theirs: Place) -> Pairs | str:
    """The pairs of the seeds that both places have; in words, what is missing where there is none."""
    members = {place: _by_seed(runs, family, place) for place in (ours, theirs)}
    for place, found in members.items():
        if not found:
            return f"the grid has no run of '{place.variant}' on {place.percent}% of the data"
    seeds = [seed for seed in members[ours] if seed in members[theirs]]
    if not seeds:
        return f"'{ours.variant}' and '{theirs.variant}' have no seed in common"
    first, second = (tuple(members[place][seed] for seed in seeds) for place in (ours, theirs))
    return Pairs(first, second)


def _by_seed(runs: Sequence[RunResult], family: FamilyName, place: Place) -> dict[int, RunResult]:
    return {
        result.run.seed: result
        for result in runs
        if (result.run.family, result.run.variant) == (family, place.variant)
        and round(result.run.data * 100) == place.percent
    }


# --- differences ---------------------------------------------------------------------------------------------


def loss_difference(runs: Sequence[RunResult], family: FamilyName, ours: Place, theirs: Place) -> Evidence:
    """Held-out loss of ours less that of theirs."""
    empty = Evidence("difference of the held-out losses", "nats")
    pairs = pairs_of(runs, family, ours, theirs)
    if isinstance(pairs, str):
        return replace(empty, missing=pairs)
    values = pairs.differences(heldout_loss) or []
    found = estimate(values)
    words = f"{abs(found.mean):.4f} nats {'lower' if found.mean < 0 else 'higher'} than that of {_named(theirs, pairs)}"
    text = f"the held-out loss of {_named(ours, pairs, first=True)} is {words}"
    return _measured(empty, text, found, pairs, (found,))


def lower_everywhere(
    runs: Sequence[RunResult], family: FamilyName, places: Sequence[tuple[Place, Place]], text: str
) -> Evidence:
    """Held-out losses of several pairs of places, each of which must be lower; the value is their mean difference."""
    empty = Evidence("mean difference of the held-out losses", "nats")
    parts = [loss_difference(runs, family, ours, theirs) for ours, theirs in places]
    for part in parts:
        if part.missing:
            return replace(empty, missing=part.missing)
    if not parts:
        return replace(empty, missing="no amount of data has runs of both")
    names = tuple(dict.fromkeys(name for part in parts for name in part.runs))
    lower = sum(part.value is not None and part.value < 0 for part in parts)
    return replace(
        empty,
        text=f"{text}: its held-out loss is lower in {lower} of {len(parts)} comparisons",
        value=fmean(part.value for part in parts if part.value is not None),
        seeds=min(part.seeds for part in parts),
        runs=names,
        tested=tuple(estimated for part in parts for estimated in part.tested),
    )


def score_difference(
    runs: Sequence[RunResult],
    family: FamilyName,
    ours: Place,
    theirs: Place,
    measure: Measure,
    chance: Callable[[RunResult], float | None],
    words: str,
) -> Evidence:
    """A score in percent, higher being better. Where the baseline's own cannot be told from chance, nothing can."""
    empty = Evidence(f"difference of the {words}", "points")
    pairs = pairs_of(runs, family, ours, theirs)
    if isinstance(pairs, str):
        return replace(empty, missing=pairs)
    values = pairs.differences(measure)
    if values is None:
        return replace(empty, missing=f"these runs have no {words}")
    found = estimate([100 * value for value in values])
    above = f"{abs(found.mean):.2f} points {'above' if found.mean > 0 else 'below'} that of {_named(theirs, pairs)}"
    text = f"the {words} of {_named(ours, pairs, first=True)} is {above}"
    tested = Estimate(-found.mean, found.half_width, found.seeds)
    return replace(
        _measured(empty, text, found, pairs, (tested,)), missing=_at_chance(pairs.theirs, measure, chance, words)
    )


def _at_chance(
    runs: Sequence[RunResult], measure: Measure, chance: Callable[[RunResult], float | None], words: str
) -> str:
    """In words, that these runs do not answer better than blindly; empty where they do or no one can tell."""
    values, blind = [measure(result) for result in runs], [chance(result) for result in runs]
    over = [
        value - level for value, level in zip(values, blind, strict=True) if value is not None and level is not None
    ]
    ends = estimate(over).ends if len(over) == len(runs) else None
    if ends is None or ends[0] > 0:
        return ""
    return f"the {words} of '{runs[0].run.variant}' itself is not above chance ({blind[0]:.1%} by blind answers)"


def time_ratio(
    runs: Sequence[RunResult], family: FamilyName, ours: Place, theirs: Place, limit: float = 1.0
) -> Evidence:
    """Training time of ours as a share of theirs: the geometric mean over seeds."""
    empty = Evidence("training time", SHARE)
    pairs = pairs_of(runs, family, ours, theirs)
    if isinstance(pairs, str):
        return replace(empty, missing=pairs)
    logs = pairs.differences(lambda result: math.log(result.timings.training_seconds)) or []
    found = estimate(logs)
    share = f"{math.exp(found.mean):.1%} of the training time of {_named(theirs, pairs)}"
    text = f"{_named(ours, pairs, first=True)} takes {share}"
    low, high = (None, None) if found.ends is None else (math.exp(end) for end in found.ends)
    return replace(
        empty,
        text=text,
        value=100 * math.exp(found.mean),
        low=_times_100(low),
        high=_times_100(high),
        seeds=found.seeds,
        runs=pairs.names,
        tested=(_shifted(found, math.log(limit)),),
    )


def _measured(empty: Evidence, text: str, found: Estimate, pairs: Pairs, tested: tuple[Estimate, ...]) -> Evidence:
    low, high = found.ends or (None, None)
    return replace(
        empty, text=text, value=found.mean, low=low, high=high, seeds=found.seeds, runs=pairs.names, tested=tested
    )


def _named(place: Place, pairs: Pairs, first: bool = False) -> str:
    results = pairs.ours if first else pairs.theirs
    return f"'{place.variant}' on {percent(results[0].run.data)} of the data"


# --- what is needed ------------------------------------------------------------------------------------------


def data_saving(
    runs: Sequence[RunResult], family: FamilyName, variant: str, cost: str = "effective_tokens"
) -> Evidence:
    """What of the full baseline's cost a variant needs for its final loss; the limit is all of it."""
    empty = Evidence(f"{WORDS[cost]} needed for the baseline's final loss", SHARE)
    series, full = _series(runs, family, variant), full_baseline(runs, family)
    if series is None:
        return replace(empty, missing=f"the grid has no run of '{variant}'")
    if reason := lacking(series, full):
        return replace(empty, missing=reason)
    share = saving(series, full, COSTS[cost])
    what = f"of its {WORDS[cost]}"
    return _needed(empty, series, full, share, 0.0, 1.0, f"'{variant}' reaches the baseline's final loss", what)


def data_for_quality(
    runs: Sequence[RunResult], family: FamilyName, variant: str, limit: float, kept: float = QUALITY_KEPT
) -> Evidence:
    """What of the full baseline's effective tokens keeps so much of its quality; the limit is as published."""
    empty = Evidence(f"effective tokens needed for {kept:.0%} of the baseline's quality", SHARE)
    series, full = _series(runs, family, variant), full_baseline(runs, family)
    if series is None:
        return replace(empty, missing=f"the grid has no run of '{variant}'")
    if reason := lacking(series, full):
        return replace(empty, missing=reason)
    share = quality_point(series, full, kept)
    text = f"'{variant}' keeps {kept:.0%} of the full baseline's quality"
    return _needed(empty, series, full, share, -math.log(kept), limit, text, "of its effective tokens")


def _series(runs: Sequence[RunResult], family: FamilyName, variant: str) -> Series | None:
    return next((part for part in series_of(runs) if (part.family, part.variant) == (family, variant)), None)


def _needed(
    empty: Evidence,
    series: Series,
    full: dict[int, RunResult],
    share: Share,
    allowed: float,
    limit: float,
    text: str,
    what: str,
) -> Evidence:
    seeds = [seed for seed in series.seeds if seed in full]
    found = replace(
        empty,
        seeds=len(seeds),
        runs=tuple(dict.fromkeys([*series.runs, *(full[seed].run.name for seed in seeds)])),
    )
    if share.value is None:
        tested = _tested_by_loss(series, full, allowed, limit)
        return replace(found, text=f"{text} {_outside(series, share, what)}", tested=tested)
    half = None if share.high is None else math.log(share.high / share.value)
    return replace(
        found,
        text=f"{text} with {share.value:.1%} {what}",
        value=100 * share.value,
        low=_times_100(share.low),
        high=_times_100(share.high),
        tested=(Estimate(math.log(share.value / limit), half, len(seeds)),),
    )


def _outside(series: Series, share: Share, what: str) -> str:
    fractions = sorted(group.data for group in series.groups)
    if share.where == "below":
        return f"with less than {percent(fractions[0])} {what}, the smallest amount that was run"
    if share.where == "above":
        return f"with more than {percent(fractions[-1])} {what}, if at all"
    return f"inside the amounts that were run in some seeds alone ({outside(share)})"


def _tested_by_loss(series: Series, full: dict[int, RunResult], allowed: float, limit: float) -> tuple[Estimate, ...]:
    """Where no share can be read, the losses at an end of the curve decide, if they can.

    Surely below the target on the smallest amount, and that below the limit: for the claim. Surely above it on the
    largest amount, and that above the limit: against it. On the limit itself the losses decide either way.
    """
    groups = sorted(series.groups, key=lambda group: group.data)
    first, last = (_excess(series, full, group.data, allowed) for group in (groups[0], groups[-1]))
    if groups[-1].data == limit:
        return (last,)
    if first.ends is not None and first.ends[1] < 0 and groups[0].data < limit:
        return (first,)
    if last.ends is not None and last.ends[0] > 0 and groups[-1].data > limit:
        return (last,)
    return ()


def _excess(series: Series, full: dict[int, RunResult], data: Fraction, allowed: float) -> Estimate:
    """The loss on an amount of data above the target, over seeds."""
    group = next(group for group in series.groups if group.data == data)
    seeds = [seed for seed in series.seeds if seed in full]
    return estimate([series.result(group, seed).heldout.loss - full[seed].heldout.loss - allowed for seed in seeds])


def _shifted(found: Estimate, by: float) -> Estimate:
    return Estimate(found.mean - by, found.half_width, found.seeds)


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value


def common_percents(runs: Sequence[RunResult], family: FamilyName, variant: str) -> list[int]:
    """Percentages of the data on which both the variant and the baseline were run, most data first."""
    own, base = (
        {round(result.run.data * 100) for result in runs if (result.run.family, result.run.variant) == (family, name)}
        for name in (variant, BASELINE)
    )
    return sorted(own & base, reverse=True)
