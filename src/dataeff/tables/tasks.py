"""Scores by task: what every variant reaches on each, and whether its difference to the baseline could be the items'.

The CSV is long, one row a task, number of shots and run group, one more for the average of the tasks, and another for
that of the probes where these are no part of it; LaTeX and JSON are wide, a section for each group of tasks and number
of shots. Two intervals answer two questions: `_interval`
(from three seeds on) whether another seed could give another difference, `_low` and `_high` (paired bootstrap) whether
other items of the same task could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dataeff.errors import DataeffError
from dataeff.evaluate.bootstrap import interval, resampled
from dataeff.evaluate.rescore import Floats
from dataeff.evaluate.scores import TaskScore
from dataeff.study.specs import GridSpec
from dataeff.tables.prompted import averaged_probes, averaged_tasks
from dataeff.tables.quality import IDENTITY, average, differences, identity, mean_of, notes, probe_average
from dataeff.tables.results import Group, RunResult, group_by_seed, references
from dataeff.tables.table import Column, Table, csv_text

Row = dict[str, Any]
Cell = tuple[str, int]
"""A task at a number of shots."""

AVERAGE, PROBES = "average", "average of probes"
FACTS = ("group", "metric", "scoring", "published_as", "higher_is_better", "items", "truncated_prompts", "chance")
SHARES = ("mean", "f1", "matthews_corrcoef")
"""Aggregations whose values are shown in percent."""

Resamples = Mapping[Cell, Mapping[str, Floats]]
"""Of each cell, by run: the value in every resample of the items."""


def task_table(spec: GridSpec, runs: list[RunResult]) -> tuple[Table, str]:
    """Scores by task and shots (mean over seeds), with each task's chance level; and the long CSV."""
    asked = [result for result in runs if result.tasks]
    cells = _cells(spec, asked)
    long_rows = task_rows(spec, runs)
    wide_rows: dict[tuple[Any, ...], Row] = {}
    for row in long_rows:
        names = {column.key: row[column.key] for column in IDENTITY}
        wide = wide_rows.setdefault(tuple(names.values()), names)
        if row["task"] != AVERAGE:
            key = _key((row["task"], row["shots"]))
            wide |= {key: row["value"], f"{key}_interval": row.get("value_interval")}
    scores = {(task, shots): asked[0].tasks[shots][task] for task, shots in cells}
    table = Table(
        name="tasks",
        title="Scores by task",
        sections={_section(score, shots): _title(score, shots) for (_, shots), score in scores.items()},
        columns=[*IDENTITY, *(_column(cell, score) for cell, score in scores.items())],
        rows=list(wide_rows.values()),
        notes=_notes(asked, scores),
    )
    return table, csv_text(_csv_columns(), long_rows)


def task_rows(spec: GridSpec, runs: list[RunResult]) -> list[Row]:
    """One a run group, task and number of shots, and one more for the average: scores and differences to the baseline
    of the same data, with both intervals.
    """
    asked = [result for result in runs if result.tasks]
    cells = _cells(spec, asked)
    resamples = _resamples(cells, asked)
    rows: list[Row] = []
    for group in group_by_seed(asked):
        rows += [_row(group, runs, cell, resamples) for cell in cells]
        rows += _averages(group, runs, resamples)
    return rows


def _csv_columns() -> list[Column]:
    keys = ["task", "shots", *FACTS, "item_standard_error"]
    columns = [*IDENTITY, *(Column(key=key, heading=key) for key in keys)]
    columns += [Column(key=key, heading=key, interval=True) for key in ("value", "value_delta")]
    return columns + [Column(key=key, heading=key) for key in ("value_delta_low", "value_delta_high")]


# --- rows ----------------------------------------------------------------------------------------------------


def _cells(spec: GridSpec, asked: list[RunResult]) -> list[Cell]:
    """The tasks of each number of shots, the same of all runs that were asked."""
    if not asked:
        return []
    first = asked[0]
    return [(task, shots) for task in spec.tasks for shots in sorted(first.tasks) if task in first.tasks[shots]]


def _resamples(cells: Sequence[Cell], asked: Sequence[RunResult]) -> Resamples:
    found: dict[Cell, dict[str, Floats]] = {}
    for task, shots in cells:
        try:
            values = resampled(f"{task} {shots}", [result.items[shots][task] for result in asked])
        except DataeffError as error:
            raise DataeffError(f"{shots}-shot of {', '.join(result.run.name for result in asked)}: {error}") from None
        found[task, shots] = {result.run.name: row for result, row in zip(asked, values, strict=True)}
    return found


def _task_score(task: str, shots: int, result: RunResult) -> float | None:
    return result.tasks[shots][task].value if shots in result.tasks else None


def _row(group: Group, runs: list[RunResult], cell: Cell, resamples: Resamples) -> Row:
    task, shots = cell
    scores = [result.tasks[shots][task] for result in group.results]
    errors = [score.standard_error for score in scores if score.standard_error is not None]
    row = identity(group) | {"task": task, "shots": shots, **{key: getattr(scores[0], key) for key in FACTS}}
    row["item_standard_error"] = sum(errors) / len(errors) if len(errors) == len(scores) else None
    row |= mean_of("value", (score.value for score in scores))
    row |= mean_of("value_delta", differences(group, runs, group.data, partial(_task_score, task, shots)))
    return row | _paired(group, runs, [resamples[cell]])


def _averages(group: Group, runs: list[RunResult], resamples: Resamples) -> list[Row]:
    """A row for the average of the tasks, and one for that of the probes, at each number of shots that has one."""
    asked = group.results[0].tasks
    rows = []
    for shots, tasks in asked.items():
        for title, names, mean in (
            (AVERAGE, averaged_tasks(asked, shots), partial(average, shots)),
            (PROBES, averaged_probes(asked, shots), partial(probe_average, shots)),
        ):
            if not names:
                continue
            facts = {"items": sum(tasks[name].items for name in names), "metric": f"mean of {', '.join(names)}"}
            row = identity(group) | {"task": title, "shots": shots, "higher_is_better": True, **facts}
            row |= mean_of("value", (mean(result) for result in group.results))
            row |= mean_of("value_delta", differences(group, runs, group.data, mean))
            rows.append(row | _paired(group, runs, [resamples[name, shots] for name in names]))
    return rows


def _paired(group: Group, runs: list[RunResult], tasks: Sequence[Mapping[str, Floats]]) -> Row:
    """The interval over items of the group's difference to the baseline: seeds and tasks averaged in each resample."""
    baselines = references(group, runs, group.data)
    if baselines is None:
        return {}

    def mean(results: Sequence[RunResult]) -> Floats:
        spread: Floats = np.mean([values[result.run.name] for values in tasks for result in results], axis=0)
        return spread

    found = interval(0.0, mean(group.results) - mean(baselines))
    return {"value_delta_low": found.low, "value_delta_high": found.high}


# --- what is shown -------------------------------------------------------------------------------------------


def _key(cell: Cell) -> str:
    return f"{cell[0]} {cell[1]}"


def _section(score: TaskScore, shots: int) -> str:
    return f"{score.group} {shots}shot"


def _title(score: TaskScore, shots: int) -> str:
    return f"{score.group}, {shots}-shot: shares in percent"


def _column(cell: Cell, score: TaskScore) -> Column:
    share = score.aggregation in SHARES
    return Column(
        key=_key(cell),
        heading=cell[0] if share else f"{cell[0]} ({score.metric})",
        section=_section(score, cell[1]),
        digits=1 if share else 2,
        scale=100.0 if share else 1.0,
    )


def _notes(asked: list[RunResult], scores: Mapping[Cell, TaskScore]) -> list[str]:
    if not asked:
        return ["No run of this grid answers tasks by prompt: a masked model continues no text."]
    first: dict[str, TaskScore] = {}
    for (task, _), score in scores.items():
        first.setdefault(task, score)
    return [
        *(_about(task, score) for task, score in first.items()),
        *notes([len(group.results) for group in group_by_seed(asked)])[1:],
        "tasks.csv has each difference to the baseline at the same data with its 95% interval over items (paired "
        "bootstrap: both were asked the same ones), also of the average.",
    ]


def _about(task: str, score: TaskScore) -> str:
    """One line: metric, items, chance, the error that the number of items alone brings, and how it is scored."""
    share = score.aggregation in SHARES
    parts = [f"{score.metric} over {score.items:,} items"]
    if score.chance is not None:
        parts.append(f"chance {score.chance:.0%}")
    if score.standard_error is not None:
        error = f"{score.standard_error:.1%}" if share else f"{score.standard_error:.3g}"
        parts.append(f"standard error of one score from its items {error}")
    if score.scoring == "papers":
        parts.append("scored as the papers' harness (0.2.0) did")
    if not score.averaged or not score.higher_is_better:
        parts.append("not in the average")
    if score.own_split_items:
        parts.append("examples of the scored split, never the item itself")
    if score.truncated_prompts:
        parts.append(f"{score.truncated_prompts:,} prompts longer than the context")
    about = score.about.rstrip(".")
    return f"{task}: {', '.join(parts)}{'. ' + about if about else ''}."
