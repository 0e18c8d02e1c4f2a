"""The tables behind the headline: held-out text by domain, scores by task, and where the time goes.

The CSV of the first two is long (one row per run group and domain or task, for plotting); their LaTeX and
JSON are wide (one row per run group, one column per domain or task, for reading).
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.study.specs import GridSpec
from dataeff.tables.quality import IDENTITY, differences, identity, mean_of, notes
from dataeff.tables.results import BASELINE, RunResult, domains_of, group_by_seed, references
from dataeff.tables.table import Column, Table, csv_text

Row = dict[str, Any]

AFTER_THE_TABLES = ("tables", "figures", "report")
"""Stages whose benchmark files are not whole when the tables are made."""


def _domain_score(domain: str, key: str, result: RunResult) -> float:
    return float(getattr(result.domains[domain], key))


def _task_score(task: str, shots: int, result: RunResult) -> float:
    return result.tasks[shots][task].value


def domain_table(runs: list[RunResult]) -> tuple[Table, str]:
    """Bits per byte by held-out domain: the baseline in full, the others as differences; and the long CSV."""
    domains, groups = domains_of(runs), group_by_seed(runs)
    long_rows: list[Row] = []
    wide_rows: list[Row] = []
    for group in groups:
        is_difference = references(group, runs, group.data) is not None
        wide: Row = identity(group) | {"difference": is_difference}
        for domain in domains:
            row = identity(group) | {"domain": domain, "tokens": group.results[0].domains[domain].tokens}
            for key in ("loss", "bits_per_byte"):
                row |= mean_of(key, (_domain_score(domain, key, result) for result in group.results))
                deltas = differences(group, runs, group.data, partial(_domain_score, domain, key))
                row |= mean_of(f"{key}_delta", deltas) if deltas is not None else {f"{key}_delta": None}
            long_rows.append(row)
            source = "bits_per_byte_delta" if is_difference else "bits_per_byte"
            wide |= {
                f"domain {domain}": row[source],
                f"domain {domain}_interval": row.get(f"{source}_interval"),
            }
        wide_rows.append(wide)
    shown = [
        Column(key=f"domain {domain}", heading=domain, section="bits", digits=3, signed_by="difference")
        for domain in domains
    ]
    table = Table(
        name="heldout_by_domain",
        title="Held-out text by domain",
        sections={"bits": "Bits per byte"},
        columns=[*IDENTITY, *shown],
        rows=wide_rows,
        notes=[
            f"Bits per byte: rows of '{BASELINE}' in full; cells with a sign are differences to it at the "
            "same data fraction and seed, lower is better.",
            *notes([len(group.results) for group in groups])[1:],
        ],
    )
    columns = [
        *IDENTITY,
        Column(key="domain", heading="domain"),
        Column(key="tokens", heading="tokens"),
        *(
            Column(key=key, heading=key, interval=True)
            for key in ("loss", "loss_delta", "bits_per_byte", "bits_per_byte_delta")
        ),
    ]
    return table, csv_text(columns, long_rows)


def task_table(spec: GridSpec, runs: list[RunResult]) -> tuple[Table, str]:
    """Scores by task and shots (mean over seeds), with each task's chance level; and the long CSV."""
    groups = group_by_seed(runs)
    first = runs[0].tasks
    for result in runs:
        for shots in spec.shots:
            if set(result.tasks[shots]) != set(first[shots]):
                raise DataeffError(
                    f"{shots}shot/scores.json of {result.run.name} has the tasks "
                    f"{sorted(result.tasks[shots])}, "
                    f"that of {runs[0].run.name} has {sorted(first[shots])}; evaluate both again"
                )
    cells = [(task, shots) for task in first[spec.shots[0]] for shots in spec.shots]
    long_rows: list[Row] = []
    wide_rows: list[Row] = []
    for group in groups:
        wide = identity(group)
        for task, shots in cells:
            scores = [result.tasks[shots][task] for result in group.results]
            row = identity(group) | {
                "task": task,
                "shots": shots,
                "metric": scores[0].metric,
                "items": scores[0].items,
                "chance": scores[0].chance,
                "item_standard_error": sum(score.standard_error for score in scores) / len(scores),
            }
            row |= mean_of("value", (score.value for score in scores))
            deltas = differences(group, runs, group.data, partial(_task_score, task, shots))
            row |= mean_of("value_delta", deltas) if deltas is not None else {"value_delta": None}
            long_rows.append(row)
            wide |= {f"{task} {shots}": row["value"], f"{task} {shots}_interval": row.get("value_interval")}
        wide_rows.append(wide)
    table = Table(
        name="tasks",
        title="Scores by task",
        sections={"scores": "Scores in percent"},
        columns=[
            *IDENTITY,
            *(
                Column(
                    key=f"{task} {shots}",
                    heading=f"{task}, {shots}-shot",
                    section="scores",
                    digits=1,
                    scale=100.0,
                )
                for task, shots in cells
            ),
        ],
        rows=wide_rows,
        notes=[*_about_tasks(runs[0], cells), *notes([len(group.results) for group in groups])[1:]],
    )
    keys = ["task", "shots", "metric", "items", "chance", "item_standard_error"]
    columns = [*IDENTITY, *(Column(key=key, heading=key) for key in keys)]
    columns += [Column(key=key, heading=key, interval=True) for key in ("value", "value_delta")]
    return table, csv_text(columns, long_rows)


def _about_tasks(result: RunResult, cells: list[tuple[str, int]]) -> list[str]:
    """One line a task: metric, items, chance and the error that the number of items alone brings."""
    lines: list[str] = []
    for task, shots in dict(reversed(cells)).items():
        score = result.tasks[shots][task]
        lines.insert(
            0,
            f"{task}: {score.metric} over {score.items:,} items, chance {score.chance:.0%}, standard error of one "
            f"score from its items {score.standard_error:.1%}{'. ' + score.about.rstrip('.') if score.about else ''}.",
        )
    return lines


def time_table(results: Path, data: Path | None) -> Table:
    """Where the time goes, by stage, from the benchmark files that Snakemake leaves in `benchmarks` folders.

    Those of results/{scale} and, if `data` (results/data/{corpus}) is given, of what all scales share.
    """
    stages: dict[tuple[str, str], list[tuple[str, dict[str, str]]]] = {}
    for path in sorted(results.glob("benchmarks/*/*.tsv")):
        if path.parent.name not in AFTER_THE_TABLES:
            stages.setdefault((path.parent.name, "this scale"), []).append((path.stem, _benchmark(path)))
    if data is not None:
        for path in sorted((data.parent / "sources" / "benchmarks").glob("*.tsv")):
            stages.setdefault(("fetch", "all scales"), []).append((path.stem, _benchmark(path)))
        for path in sorted(data.glob("**/benchmarks/*.tsv")):
            stage, _, item = path.stem.partition("-")
            stages.setdefault((stage, "all scales"), []).append((item or stage, _benchmark(path)))
    rows = [_stage_row(stage, level, jobs) for (stage, level), jobs in stages.items()]
    rows.sort(key=lambda row: (-row["seconds"], row["stage"]))
    total = sum(row["seconds"] for row in rows)
    for row in rows:
        row["share"] = row["seconds"] / total if total else None
    return Table(
        name="time",
        title="Where the time goes",
        sections={"time": "Job time by stage"},
        columns=[
            Column(key="stage", heading="stage"),
            Column(key="level", heading="made for"),
            Column(key="jobs", heading="jobs", digits=0, section="time"),
            Column(key="seconds", heading="total (s)", digits=1, section="time"),
            Column(key="share", heading="share", digits=0, scale=100.0, unit="%", section="time"),
            Column(key="longest_seconds", heading="longest (s)", digits=1, section="time"),
            Column(key="longest_job", heading="longest job", section="time"),
            Column(key="peak_memory_mb", heading="peak memory (MB)", digits=0, section="time"),
        ],
        rows=rows,
        notes=[
            f"{total:,.0f} s of jobs in all, from Snakemake's benchmark files: all grids of this scale up to the "
            "tables, and the texts, tokens and indexes that all scales share. Each job counts once, by its last run. "
            "Jobs run side by side where cores allow: the study took less, and each of them longer than alone."
            if rows
            else "No benchmark files were found: Snakemake writes them, a stage run by hand does not."
        ],
    )


def _benchmark(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream, delimiter="\t"))
    if not lines or "s" not in lines[0] or "max_rss" not in lines[0]:
        raise DataeffError(
            f"{path}: not a benchmark file of Snakemake (columns s and max_rss); delete it and run again"
        )
    return lines[-1]


def _stage_row(stage: str, level: str, jobs: list[tuple[str, dict[str, str]]]) -> Row:
    seconds = {name: float(line["s"]) for name, line in jobs}
    # Snakemake samples the memory; a job that ends before the first sample has a dash there.
    peaks = [float(line["max_rss"]) for _, line in jobs if line["max_rss"] not in ("-", "NA", "")]
    longest = max(seconds, key=lambda name: seconds[name])
    return {
        "stage": stage,
        "level": level,
        "jobs": len(jobs),
        "seconds": sum(seconds.values()),
        "longest_seconds": seconds[longest],
        "longest_job": longest,
        "peak_memory_mb": max(peaks, default=None),
    }
