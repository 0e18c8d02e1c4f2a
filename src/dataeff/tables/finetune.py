"""The finetuning table: what encoders reach on the tasks that they were trained on, by both rules of aggregation.

Two sections for each table that tasks stand in (glue, megatron, offline, one's own): a column a task's column, their
average, and its differences to the baseline. The honest rule chooses on one half of the items and scores the other; the
published rule, which is the papers', chooses on what it scores. Only `glue` stands beside published averages, and by
differences alone: those are of another text and another size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from statistics import fmean
from typing import Any

from dataeff.errors import DataeffError
from dataeff.finetune.aggregate import honest_average, published_average
from dataeff.finetune.scores import FinetuneScores, HonestColumn, PublishedColumn
from dataeff.study.specs import GridSpec
from dataeff.tables.agreement import MARKS
from dataeff.tables.quality import IDENTITY, differences, identity, mean_of, notes
from dataeff.tables.results import BASELINE, Group, RunResult, group_by_seed
from dataeff.tables.statistics import claim
from dataeff.tables.table import Column, Table

Row = dict[str, Any]
TITLES = {"glue": "GLUE", "megatron": "Tasks of the Megatron-LM paper", "offline": "Offline sets (stand-ins, not GLUE)"}
RULES = {"honest": "chosen on one half, scored on the other", "published": "published rule"}
DELTAS = {"delta": "Δ same data", "delta_full": "Δ 100% data"}
GLUE, GLUE_FIELD = "glue", "glue_avg"
_RULE_NOTES = [
    "Chosen on one half, scored on the other: the epoch of each finetuning seed, and one learning rate for all, that "
    "are best on a fixed half of the items; the score is the mean over finetuning seeds on the other half. "
    "± finetuning seeds: half of its 95% t interval for one pretrained model.",
    "Published rule: the best epoch of each finetuning seed, the upper median over seeds, the best learning rate, all "
    "on the items that are scored, so that it is too high; ± is the mean of the tasks' standard deviations over seeds, "
    "which is not the deviation of the average.",
]
_ABOUT_PUBLISHED = (
    "Published differences are of the papers' GLUE averages (BERT-large on the Pile); †: recalled, not read at its "
    "source, *: derived."
)


def finetune_table(spec: GridSpec, runs: Sequence[RunResult]) -> Table:
    """A row per run group that was finetuned; a table without rows where none was."""
    tuned = [result for result in runs if result.finetuned]
    tables = tables_of(tuned)
    groups = group_by_seed(tuned)
    published = _published(spec)
    return Table(
        name="finetune",
        title="Finetuning",
        sections={
            f"{table}_{rule}": f"{TITLES.get(table, table)}: {words}"
            for table in tables
            for rule, words in RULES.items()
        },
        columns=[
            *IDENTITY,
            *(column for table in tables for column in _columns(table, tuned, bool(published))),
            Column(key="claim", heading="what it supports", section="csv only"),
        ],
        rows=[_row(group, tuned, tables, published) for group in groups],
        notes=_notes(tuned, groups, GLUE in tables and bool(published)),
    )


def tables_of(runs: Sequence[RunResult]) -> list[str]:
    """The tables that the finetuning tasks stand in, in the tasks' order, each once."""
    return list(dict.fromkeys(scores.table for result in runs for scores in result.finetuned.values()))


def key_of(table: str, rule: str, column: str) -> str:
    """A key of the table's rows; `average` is the average's."""
    return f"{table}_{rule}_{column}"


def honest_of(table: str, result: RunResult) -> Mapping[str, HonestColumn]:
    return _gathered(table, result, lambda scores: scores.honest_rule.columns)


def published_of(table: str, result: RunResult) -> Mapping[str, PublishedColumn]:
    return _gathered(table, result, lambda scores: scores.published_rule.best.columns)


def _gathered(table: str, result: RunResult, columns: Callable[[FinetuneScores], Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of all tasks of a table."""
    found: dict[str, Any] = {}
    for task, scores in result.finetuned.items():
        if scores.table != table:
            continue
        for column, value in columns(scores).items():
            if column in found:
                raise DataeffError(
                    f"finetuning.{task}.evaluation: column '{column}' stands twice in table '{table}'; rename one"
                )
            found[column] = value
    return found


def average_of(table: str, rule: str, result: RunResult) -> float | None:
    """The average of a table's columns by a rule; None of a run without them."""
    if rule == "honest":
        honest = honest_of(table, result)
        return honest_average(honest).value if honest else None
    published = published_of(table, result)
    return published_average(published)[0] if published else None


def _value_of(table: str, rule: str, column: str, result: RunResult) -> float | None:
    found = honest_of(table, result) if rule == "honest" else published_of(table, result)
    return found[column].value if column in found else None


def _spread_of(table: str, rule: str, result: RunResult) -> float | None:
    """What stands beside an average: its interval over finetuning seeds, or the mean of the tasks' deviations."""
    if rule == "honest":
        honest = honest_of(table, result)
        return honest_average(honest).half_width if honest else None
    published = published_of(table, result)
    return published_average(published)[1] if published else None


def _columns(table: str, runs: Sequence[RunResult], published: bool) -> list[Column]:
    names = list(dict.fromkeys(name for result in runs for name in honest_of(table, result)))
    columns = []
    for rule in RULES:
        shown = Column(key="", heading="", section=f"{table}_{rule}", digits=2, scale=100.0)
        spread = "± finetuning seeds" if rule == "honest" else "± mean of deviations"
        columns += [
            shown.model_copy(update={"key": key_of(table, rule, "average"), "heading": "average", "interval": True}),
            shown.model_copy(update={"key": key_of(table, rule, "spread"), "heading": spread}),
        ]
        for delta, heading in DELTAS.items():
            key = key_of(table, rule, f"average_{delta}")
            columns.append(shown.model_copy(update={"key": key, "heading": heading, "signed": True, "interval": True}))
            if published and (table, rule) == (GLUE, "published"):
                update = {"key": f"published_{delta}", "heading": f"{heading}, published", "signed": True}
                columns += [shown.model_copy(update=update)]
                columns += [Column(key=f"published_{delta}_verified", heading="verified", section="csv only")]
        columns += [
            shown.model_copy(update={"key": key_of(table, rule, name), "heading": name, "interval": True})
            for name in names
        ]
    return columns


def _row(
    group: Group, runs: list[RunResult], tables: Sequence[str], published: Mapping[tuple[str, int], tuple[float, str]]
) -> Row:
    row = identity(group)
    for table in tables:
        for rule in RULES:
            row |= mean_of(
                key_of(table, rule, "average"), (average_of(table, rule, result) for result in group.results)
            )
            spreads = [_spread_of(table, rule, result) for result in group.results]
            known = [spread for spread in spreads if spread is not None]
            row |= {key_of(table, rule, "spread"): fmean(known) if len(known) == len(spreads) else None}
            for delta, data in (("delta", group.data), ("delta_full", Fraction(1))):
                found = differences(group, runs, data, partial(average_of, table, rule))
                row |= mean_of(key_of(table, rule, f"average_{delta}"), found)
            for name in honest_of(table, group.results[0]):
                values = (_value_of(table, rule, name, result) for result in group.results)
                row |= mean_of(key_of(table, rule, name), values)
    if GLUE in tables:
        row |= _published_differences(group, published)
    return row | {"claim": claim(len(group.results))}


def _published(spec: GridSpec) -> dict[tuple[str, int], tuple[float, str]]:
    """The papers' GLUE averages with how they were checked, by variant and percent of the data."""
    return {
        (result.variant, result.percent): (result.value, result.verified)
        for result in spec.published.results
        if result.field == GLUE_FIELD
    }


def _published_differences(group: Group, published: Mapping[tuple[str, int], tuple[float, str]]) -> Row:
    percent = round(group.data * 100)
    row: Row = {}
    for delta, whole in (("delta", percent), ("delta_full", 100)):
        place, base = (group.variant, percent), (BASELINE, whole)
        if place == base or place not in published or base not in published:
            row |= {f"published_{delta}": None}
            continue
        worse = max(published[place][1], published[base][1], key=list(MARKS).index)
        # Six digits hold the difference of two published numbers exactly.
        value = round((published[place][0] - published[base][0]) / 100, 6)
        row |= {
            f"published_{delta}": value,
            f"published_{delta}_verified": worse,
            f"published_{delta}_mark": MARKS[worse],
        }
    return row


def _notes(runs: Sequence[RunResult], groups: Sequence[Group], published: bool) -> list[str]:
    if not runs:
        return [
            "No run of this grid was finetuned: models that continue text are prompted, and a scale can leave it out."
        ]
    lines = [_about(task, scores) for task, scores in runs[0].finetuned.items()]
    lines += _RULE_NOTES
    lines += [_ABOUT_PUBLISHED] if published else []
    return [*lines, *notes([len(group.results) for group in groups])]


def _about(task: str, scores: FinetuneScores) -> str:
    measured = "; ".join(
        f"{name}: {column.items:,} items of {column.split}, {column.selection_items:,} of them chosen by"
        + (f", {column.cut_items:,} cut to the length" if column.cut_items else "")
        for name, column in scores.columns.items()
    )
    stands_in = f" Stands in for {scores.stands_in_for}." if scores.stands_in_for else ""
    return (
        f"{task}: {scores.about.strip().rstrip('.')}.{stands_in} {scores.metric}; trained on {scores.train_items:,} "
        f"items, {len(scores.trials)} trainings; {measured}."
    )
