"""The papers' numbers beside ours: published differences to the baseline, and the same differences here.

Published levels belong to the Pile and to models of 1.3 billion (GPT) and 336 million (BERT) parameters; they stand
in a section of their own, with no level of ours. What can be compared is the sign of a difference, and
agreement.py counts in how many of them the two agree. A published number that was not read at its source is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from dataeff.study.base import FamilyName
from dataeff.study.published import Place, PublishedResult
from dataeff.study.specs import GridSpec
from dataeff.tables.agreement import DELTAS, FEW_SEEDS, MARKS, QUALITIES, Quality, Row, headline, notes
from dataeff.tables.quality import IDENTITY, Measure, differences, heldout_loss, identity, mean_of
from dataeff.tables.results import BASELINE, Group, RunResult, group_by_seed
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, claim
from dataeff.tables.table import Column, Table

HOURS = "hours_64xV100"
SECTIONS = {
    "same": "Differences to the baseline of the same data fraction",
    "full": "Differences to the baseline on 100% of the data",
    "levels": "Published levels (the Pile, the papers' model sizes: not comparable with ours)",
}
_CSV_ONLY = [
    Column(key="source", heading="sources of the published numbers", section="csv only"),
    Column(key="claim", heading="what our differences support", section="csv only"),
]
Numbers = Mapping[tuple[Place, str], PublishedResult]


def published_table(spec: GridSpec, runs: list[RunResult]) -> Table:
    """A row per run group that the papers have a number for; a table without rows where they have none."""
    numbers = {(result.place, result.field): result for result in spec.published.results}
    places = {place for place, _ in numbers}
    families = list(dict.fromkeys(run.family for run in spec.runs))
    rows = [_row(group, runs, numbers) for group in group_by_seed(runs) if _place(group) in places]
    return Table(
        name="published",
        title="Beside the papers' numbers",
        sections={
            f"{section}_{family}": f"{family.upper()}: {title[0].lower()}{title[1:]}" if len(families) > 1 else title
            for family in families
            for section, title in SECTIONS.items()
        },
        families={f"{section}_{family}": family for family in families for section in SECTIONS},
        columns=[*IDENTITY, *(column for family in families for column in _columns(family, runs)), *_CSV_ONLY],
        rows=rows,
        notes=notes(spec, rows),
        headline=headline(rows),
    )


def _place(group: Group) -> Place:
    return group.family, group.variant, round(group.data * 100)


def _columns(family: FamilyName, runs: list[RunResult]) -> list[Column]:
    """An average of ours has a column where some run has it."""
    qualities = [quality for quality in QUALITIES if quality.family == family]
    columns: list[Column] = []
    for section, delta in DELTAS.items():
        shown = Column(key="", heading="", section=f"{section}_{family}", scale=100.0, signed=True)
        for quality in qualities:
            key, digits = f"{quality.key}_{delta}", quality.digits
            published = {"key": f"published_{key}", "heading": f"{quality.heading}, published", "digits": digits}
            ours = {"key": f"our_{key}", "heading": f"{quality.heading}, ours", "digits": digits, "interval": True}
            columns += [shown.model_copy(update=published), _verified(f"published_{key}")]
            columns += [shown.model_copy(update=ours)] if _is_measured(quality, runs) else []
        loss = {"heading": "held-out loss, ours", "digits": 4, "scale": 1.0, "interval": True}
        columns.append(shown.model_copy(update={"key": f"our_heldout_loss_{delta}", **loss}))
    level = Column(key="", heading="", section=f"levels_{family}")
    for quality in qualities:
        update = {"heading": f"{quality.heading} average (%)", "digits": quality.digits, "scale": 100.0}
        columns += [level.model_copy(update={"key": f"published_{quality.key}", **update})]
        columns += [_verified(f"published_{quality.key}")]
    hours = {"key": f"published_{HOURS}", "heading": "hours on 64 V100", "digits": 0}
    return [*columns, level.model_copy(update=hours), _verified(f"published_{HOURS}")]


def _is_measured(quality: Quality, runs: list[RunResult]) -> bool:
    own = [result for result in runs if result.run.family == quality.family]
    return any(quality.ours(result) is not None for result in own)


def _verified(key: str) -> Column:
    return Column(key=f"{key}_verified", heading="verified", section="csv only")


def _row(group: Group, runs: list[RunResult], numbers: Numbers) -> Row:
    place, row = _place(group), identity(group)
    baselines = {"same": (place[2], group.data), "full": (100, Fraction(1))}
    for quality in (quality for quality in QUALITIES if quality.family == group.family):
        level = numbers.get((place, quality.field))
        row |= _published(f"published_{quality.key}", level, unit=100)
        for section, (whole, data) in baselines.items():
            key = f"{quality.key}_{DELTAS[section]}"
            base = numbers.get(((group.family, BASELINE, whole), quality.field))
            row |= _published_difference(f"published_{key}", level, base)
            row |= _ours(f"our_{key}", group, runs, data, quality.ours)
    for section, (_, data) in baselines.items():
        row |= _ours(f"our_heldout_loss_{DELTAS[section]}", group, runs, data, heldout_loss)
    row |= _published(f"published_{HOURS}", numbers.get((place, HOURS)), unit=1)
    sources = dict.fromkeys(result.source for result in numbers.values() if result.place == place)
    return row | {"source": "; ".join(sources), "claim": claim(len(group.results))}


def _published(key: str, number: PublishedResult | None, unit: int) -> Row:
    return {key: None} if number is None else _checked(key, number.value / unit, number.verified)


def _published_difference(key: str, number: PublishedResult | None, base: PublishedResult | None) -> Row:
    """As fractions, as ours are; checked as the worse of the two."""
    if number is None or base is None or number.place == base.place:
        return {key: None}
    worse = max(number.verified, base.verified, key=list(MARKS).index)
    return _checked(key, (number.value - base.value) / 100, worse)


def _checked(key: str, value: float, verified: str) -> Row:
    # Six digits hold every published number exactly; their difference would otherwise be 0.008999999999999986.
    return {key: round(value, 6), f"{key}_verified": verified, f"{key}_mark": MARKS[verified]}


def _ours(key: str, group: Group, runs: list[RunResult], data: Fraction, measure: Measure) -> Row:
    mark = FEW_SEEDS if len(group.results) < SEEDS_FOR_A_CLAIM else ""
    return mean_of(key, differences(group, runs, data, measure)) | {f"{key}_mark": mark}
