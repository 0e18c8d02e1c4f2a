"""The quality table: what each variant reaches and what it costs, beside the baseline's.

A difference is taken run by run against the baseline of the same seed, once at the same data fraction and
once at 100% data, and then averaged: the spread between seeds that both runs share is no part of its
interval. Published numbers are of other texts and other sizes and stand in no column here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from dataeff.study.specs import GridSpec
from dataeff.tables.prompted import as_published, counted, counted_probes
from dataeff.tables.results import (
    BASELINE,
    CPU,
    Group,
    RunResult,
    bits_per_byte,
    group_by_seed,
    percent,
    references,
    sentence_order_accuracy,
)
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, claim, estimate, paired_p
from dataeff.tables.table import Column, Table

Measure = Callable[[RunResult], float | None]

LOWER_IN = "lower_in_domains"
PUBLISHED_TASKS = 19
"""The papers' averages of GPT are over so many."""

IDENTITY = [
    Column(key="family", heading="family"),
    Column(key="variant", heading="variant"),
    Column(key="data", heading="data"),
    Column(key="seeds", heading="seeds", digits=0),
]


@dataclass(frozen=True)
class _Measured:
    """One quality of a model: how it is shown and how it is read off a run."""

    heading: str
    section: str
    digits: int
    scale: float
    measure: Measure


_COSTS: list[tuple[str, str, int, float, str]] = [
    ("raw_tokens", "raw tokens (M)", 3, 1e-6, ""),
    ("effective_tokens", "effective tokens (M)", 3, 1e-6, ""),
    ("steps", "steps", 0, 1, ""),
    ("epochs", "epochs", 3, 1, ""),
    ("training_seconds", "training time (s)", 0, 1, ""),
    ("model_flops", "FLOPs (10^15)", 3, 1e-15, ""),
]


_SECTIONS = {
    "heldout": "Held-out text",
    "order": "Order of two held-out segments",
    "averages": "Average of the tasks",
    "probes": "Average of the probes (tasks made of the corpus's own held-out text)",
    "cost": "Cost",
}
_ABOUT_TIME = (
    "Training time is wall-clock time on one machine with whatever ran beside the run; where jobs ran side by side, "
    "compare effective tokens instead. Effective tokens are averaged over layers: dropped ones do not count."
)
_ABOUT_WORK = (
    "FLOPs are the matrix products of the run's plan, forward and backward, without what is computed twice; {hours} "
    "are its training time on all of its {devices}. –: the run's timings.json is older and has neither."
)
_ABOUT_TEXT = (
    "p: paired t test over seeds, two-sided, not corrected for the number of rows (claims.json tells what stands after "
    "Holm's correction). There is no test over held-out text: heldout.json holds sums by domain, and a few domains "
    "that were picked are no sample to generalise from; in how many of them the loss is lower is told as a count."
)


def identity(group: Group) -> dict[str, Any]:
    """The cells that name a row."""
    return {
        "family": group.family,
        "variant": group.variant,
        "data": percent(group.data),
        "seeds": len(group.results),
    }


def mean_of(key: str, values: Iterable[float | None] | None) -> dict[str, Any]:
    """`key` and, from three seeds on, `{key}_interval`; no value where the family does not measure it."""
    given = list(values or ())
    known = [value for value in given if value is not None]
    if not known or len(known) < len(given):
        return {key: None}
    found = estimate(known)
    return {key: found.mean} | ({} if found.half_width is None else {f"{key}_interval": found.half_width})


def differences(group: Group, runs: list[RunResult], data: Fraction, measure: Measure) -> list[float] | None:
    """The measure less the baseline's, one value a seed; None where there is nothing to compare with."""
    baselines = references(group, runs, data)
    if baselines is None:
        return None
    pairs = [(measure(result), measure(other)) for result, other in zip(group.results, baselines, strict=True)]
    found = [value - other for value, other in pairs if value is not None and other is not None]
    return found if len(found) == len(pairs) else None


def heldout_loss(result: RunResult) -> float:
    return result.heldout.loss


def average(shots: int, result: RunResult) -> float | None:
    """The mean of the tasks' scores; None of a model that cannot be prompted."""
    return result.averages.get(shots)


def probe_average(shots: int, result: RunResult) -> float | None:
    """The mean of the probes' scores, where they are no part of the average."""
    return result.probe_averages.get(shots)


def _measures(spec: GridSpec, runs: list[RunResult]) -> dict[str, _Measured]:
    """What at least one run of the grid is measured by."""
    masked = sentence_order_accuracy(runs[0].heldout) is not None
    unit = "" if _families_differ(runs) else "/masked token" if masked else "/token"
    found = {
        "heldout_loss": _Measured(f"loss (nats{unit})", "heldout", 4, 1.0, heldout_loss),
        "bits_per_byte": _Measured("bits per byte", "heldout", 4, 1.0, lambda run: bits_per_byte(run.heldout)),
        "sentence_order_accuracy": _Measured(
            "right (%)", "order", 1, 100.0, lambda run: sentence_order_accuracy(run.heldout)
        ),
    }
    for shots in spec.shots:
        heading = f"{shots}-shot average (%)"
        found[f"average_{shots}shot"] = _Measured(heading, "averages", 1, 100.0, partial(average, shots))
    for shots in spec.shots:
        heading = f"{shots}-shot probes (%)"
        found[f"probes_{shots}shot"] = _Measured(heading, "probes", 1, 100.0, partial(probe_average, shots))
    return {key: measured for key, measured in found.items() if any(measured.measure(run) is not None for run in runs)}


def _families_differ(runs: list[RunResult]) -> bool:
    return len({result.run.family for result in runs}) > 1


def quality_table(spec: GridSpec, runs: list[RunResult]) -> Table:
    measures = _measures(spec, runs)
    groups = group_by_seed(runs)
    rows = [_row(spec, group, runs, measures) for group in groups]
    columns = [*IDENTITY]
    for key, measured in measures.items():
        plain = Column(
            key=key,
            heading=measured.heading,
            section=measured.section,
            digits=measured.digits,
            scale=measured.scale,
            interval=True,
        )
        delta = {"key": f"{key}_delta", "heading": "Δ same data", "signed": True}
        full = {"key": f"{key}_delta_full", "heading": "Δ 100% data", "signed": True}
        columns += [plain, plain.model_copy(update=delta), _p_column(f"{key}_delta", measured)]
        columns += [plain.model_copy(update=full), _p_column(f"{key}_delta_full", measured)]
        if key == "heldout_loss":
            columns.append(Column(key=LOWER_IN, heading="lower in domains", section=measured.section))
    for key, heading, digits, scale, unit in [*_COSTS, ("device_hours", _hours(runs), 4, 1.0, "")]:
        columns.append(Column(key=key, heading=heading, section="cost", digits=digits, scale=scale, unit=unit))
    for key, heading in (("time_ratio", "time / baseline"), ("time_ratio_full", "time / 100% baseline")):
        columns.append(Column(key=key, heading=heading, section="cost", digits=2, unit=" ×", interval=True))
    columns.append(Column(key="claim", heading="what it supports", section="csv only"))
    return Table(
        name="quality",
        title="Model quality and cost",
        sections={name: title for name, title in _SECTIONS.items() if any(name == part.section for part in columns)},
        columns=columns,
        rows=rows,
        notes=[
            *_about_families(runs),
            *_about_averages(spec, runs),
            *notes([len(group.results) for group in groups]),
            _ABOUT_TEXT,
            _ABOUT_TIME,
            _ABOUT_WORK.format(hours=_hours(runs).capitalize(), devices=_devices(runs)),
        ],
    )


def _p_column(key: str, measured: _Measured) -> Column:
    return Column(key=f"p_{key}", heading="p", section=measured.section, digits=3)


def _on_cards(runs: list[RunResult]) -> set[bool]:
    """Of the runs that tell, whether they were on graphics cards."""
    return {result.timings.utilisation.device != CPU for result in runs if result.timings.utilisation}


def _hours(runs: list[RunResult]) -> str:
    """What device_hours is called: hours of cards and of cores are not one unit."""
    found = _on_cards(runs)
    return "device-hours" if len(found) != 1 else "GPU-hours" if found == {True} else "core-hours"


def _devices(runs: list[RunResult]) -> str:
    found = _on_cards(runs)
    return "cards or, without one, threads" if len(found) != 1 else "cards" if found == {True} else "threads"


def _about_families(runs: list[RunResult]) -> list[str]:
    if not _families_differ(runs):
        return []
    return [
        "Loss is in nats: of GPT per predicted token, of BERT per masked token, which it sees from both sides. "
        "Compare within a family only. –: the family is not measured by this."
    ]


def _about_averages(spec: GridSpec, runs: list[RunResult]) -> list[str]:
    """What the averages are over, and how much of it the papers' is."""
    names, theirs, probes = counted(spec.tasks), as_published(spec.tasks), counted_probes(spec.tasks)
    if not names or not any(result.averages for result in runs):
        return []
    if len(theirs) == len(names) == PUBLISHED_TASKS:
        lines = [f"Averages are the plain mean over the papers' {PUBLISHED_TASKS} tasks, with their items and scoring."]
    else:
        share = f"{len(theirs)} of them are" if theirs else "none of them is"
        lines = [
            f"Averages are the plain mean over {len(names)} {'task' if len(names) == 1 else 'tasks'} "
            f"({', '.join(names)}); {share} among the papers' {PUBLISHED_TASKS} with their items and scoring: no "
            "average here is the papers'."
        ]
    if probes:
        lines.append(
            f"Probes ({', '.join(probes)}) have an average of their own: they are made of the corpus's held-out text, "
            "tell runs on one corpus apart and are no benchmark."
        )
    return lines


def _partly_published(spec: GridSpec, group: Group) -> str:
    """What a row says of its average where only a part of it is of the papers' tasks; otherwise empty."""
    names, theirs = counted(spec.tasks), as_published(spec.tasks)
    if not theirs or not group.results[0].averages or len(theirs) == len(names) == PUBLISHED_TASKS:
        return ""
    return f"; average of {len(names)} tasks, {len(theirs)} of the papers' {PUBLISHED_TASKS}"


def notes(seed_counts: list[int]) -> list[str]:
    """What the differences are taken to, and how many seeds stand behind a row."""
    lines = [
        f"Δ: the row less the variant '{BASELINE}' of the same seed, at the same data fraction or at 100% "
        "data. Lower is better for loss and bits per byte, higher for averages."
    ]
    few = sorted({count for count in seed_counts if count < SEEDS_FOR_A_CLAIM})
    if few:
        counts = " and ".join(f"n = {count}" for count in few)
        lines.append(
            f"{counts}: no interval is given and no claim is made; a difference may be the seed's. "
            f"{SEEDS_FOR_A_CLAIM} seeds give one."
        )
    if max(seed_counts) >= SEEDS_FOR_A_CLAIM:
        lines.append("±: half the width of the 95% Student t interval over seeds, of the paired differences for Δ.")
    return lines


def _lower_in(group: Group, runs: list[RunResult]) -> str | None:
    """In how many held-out domains the loss, averaged over seeds, is below the baseline's of the same data."""
    baselines = references(group, runs, group.data)
    if baselines is None:
        return None
    domains = list(group.results[0].domains)
    pairs = list(zip(group.results, baselines, strict=True))
    lower = [sum(result.domains[name].loss - base.domains[name].loss for result, base in pairs) < 0 for name in domains]
    return f"{sum(lower)} of {len(domains)}"


def _row(spec: GridSpec, group: Group, runs: list[RunResult], measures: dict[str, _Measured]) -> dict[str, Any]:
    row = identity(group)
    for key, measured in measures.items():
        row |= mean_of(key, (measured.measure(result) for result in group.results))
        for suffix, data in (("delta", group.data), ("delta_full", Fraction(1))):
            values = differences(group, runs, data, measured.measure)
            row |= mean_of(f"{key}_{suffix}", values) | {f"p_{key}_{suffix}": paired_p(values) if values else None}
    row |= {LOWER_IN: _lower_in(group, runs)}
    for key in ("raw_tokens", "effective_tokens", "steps", "epochs"):
        row |= {key: estimate([getattr(result.training, key) for result in group.results]).mean}
    for key in ("training_seconds", "model_flops", "device_hours"):
        row[key] = mean_of(key, (getattr(result.timings, key) for result in group.results))[key]
    for key, data in (("time_ratio", group.data), ("time_ratio_full", Fraction(1))):
        baselines = references(group, runs, data)
        pairs = zip(group.results, baselines, strict=True) if baselines is not None else ()
        ratios = [result.timings.training_seconds / base.timings.training_seconds for result, base in pairs]
        row |= mean_of(key, ratios)
    row["claim"] = claim(len(group.results)) + _partly_published(spec, group)
    return row
