"""The papers' numbers beside ours, as differences to the baseline of the same data fraction.

Published levels belong to the Pile and to models of 1.3 billion (GPT) and 336 million (BERT) parameters: only the
direction of a difference can be compared with a smaller study, and only with seeds enough. Which published numbers
were read at their source and which are recalled is said in the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from dataeff.study.published import PublishedResult
from dataeff.study.specs import GridSpec
from dataeff.tables.quality import IDENTITY, Measure, differences, identity, mean_of
from dataeff.tables.results import BASELINE, Group, RunResult, group_by_seed
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM
from dataeff.tables.table import Column, Table

NAME = "published"
# Field of the published tables -> heading, digits, and the shots whose average is ours to compare with.
FIELDS: dict[str, tuple[str, int, int | None]] = {
    "avg_0shot": ("0-shot", 1, 0),
    "avg_10shot": ("10-shot", 1, 10),
    "glue_avg": ("GLUE", 2, None),
}
_WORST = ("no", "derived", "yes")

Key = tuple[str, str, int, str]


def published_table(spec: GridSpec, runs: list[RunResult]) -> Table:
    """A row per run group that the papers have a number for; no rows where they have none."""
    numbers: dict[Key, PublishedResult] = {
        (row.family, row.variant, row.percent, row.field): row for row in spec.published
    }
    groups = group_by_seed(runs)
    fields = [field for field in FIELDS if any(_key(group, field) in numbers for group in groups)]
    rows = [
        _row(group, runs, numbers, fields) for group in groups if any(_key(group, field) in numbers for field in fields)
    ]
    columns = [*IDENTITY]
    for field in fields:
        heading, digits, shots = FIELDS[field]
        published = Column(
            key=f"{field}_delta",
            heading=f"{heading}, published",
            section="differences",
            digits=digits,
            signed=True,
        )
        columns.append(published)
        if shots in spec.shots:
            here = {"key": f"{field}_ours", "heading": f"{heading}, here", "scale": 100.0, "interval": True}
            columns.append(published.model_copy(update=here))
    columns.append(
        Column(
            key="loss_delta", heading="held-out loss, here", section="differences", digits=4, signed=True, interval=True
        )
    )
    columns.append(Column(key="verified", heading="verified", section="differences"))
    for field in fields:
        heading, digits, _ = FIELDS[field]
        columns.append(Column(key=field, heading=f"{heading} average", section="levels", digits=digits))
    columns.append(Column(key="hours_64xV100", heading="hours on 64 V100", section="levels", digits=0))
    return Table(
        name=NAME,
        title="The papers' numbers",
        sections={
            "differences": "Differences to the baseline of the same data fraction",
            "levels": "Published levels (the Pile; GPT-3 1.3B, BERT-large)",
        },
        columns=columns,
        rows=rows,
        notes=[*_agreement(rows, fields), *_notes(spec, rows)],
    )


def _key(group: Group, field: str, variant: str | None = None) -> Key:
    """Of the group's own number, or of another variant's at the same data fraction."""
    return (group.family, variant or group.variant, round(group.data * 100), field)


def _row(
    group: Group, runs: list[RunResult], numbers: dict[Key, PublishedResult], fields: Iterable[str]
) -> dict[str, Any]:
    row = identity(group)
    used: list[str] = []
    for field in fields:
        found, base = numbers.get(_key(group, field)), numbers.get(_key(group, field, BASELINE))
        row[field] = found.value if found else None
        row[f"{field}_delta"] = None
        if found:
            used.append(found.verified)
        if found and base and group.variant != BASELINE:
            row[f"{field}_delta"] = round(found.value - base.value, 4)
            used.append(base.verified)
        shots = FIELDS[field][2]
        if shots is not None and all(shots in result.averages for result in group.results):
            row |= _ours(f"{field}_ours", group, runs, partial(_average, shots))
    row |= _ours("loss_delta", group, runs, _loss)
    hours = numbers.get(_key(group, "hours_64xV100"))
    row["hours_64xV100"] = hours.value if hours else None
    row["verified"] = next((kind for kind in _WORST if kind in used), None)
    return row


def _ours(key: str, group: Group, runs: list[RunResult], measure: Measure) -> dict[str, Any]:
    values = differences(group, runs, group.data, measure)
    return mean_of(key, values) if values is not None else {key: None}


def _average(shots: int, result: RunResult) -> float:
    return result.averages[shots]


def _loss(result: RunResult) -> float:
    return result.heldout.loss


def _agreement(rows: list[dict[str, Any]], fields: Iterable[str]) -> list[str]:
    """How often a difference has the published direction: counted, and only where neither of the two is 0."""
    pairs = [
        (row[f"{field}_delta"], row[f"{field}_ours"])
        for row in rows
        for field in fields
        if row.get(f"{field}_delta") and row.get(f"{field}_ours")
    ]
    if not pairs:
        return []
    same = sum((published > 0) == (ours > 0) for published, ours in pairs)
    seeds = min(row["seeds"] for row in rows)
    warning = f"; with n = {seeds} that is no claim" if seeds < SEEDS_FOR_A_CLAIM else ""
    return [f"{same} of {len(pairs)} differences of task averages have the published direction{warning}."]


def _notes(spec: GridSpec, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["The papers have no number for any run of this grid."]
    lines = [
        "Published numbers belong to the Pile and to models of 1.3 billion (GPT) or 336 million (BERT) parameters; "
        f"those here to scale '{spec.scale_name}'. Compare directions, not sizes.",
        "verified: yes, read at its source; derived, calculated from such numbers; no, recalled and not checked (the "
        "least certain number of the row counts). Sources stand in config/papers/.",
    ]
    if spec.tasks:
        names = ", ".join(spec.tasks)
        lines.append(f"The papers' averages are over 19 tasks (GPT); those here are over {names}.")
    lines.append("The papers' GPT-3 MoE 6.7B and ViT results are not reproduced here.")
    return lines
