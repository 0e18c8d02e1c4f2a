"""The tables behind the headline: held-out text by domain, and where the time goes.

The CSV of the first is long (one row per run group and domain, for plotting); its LaTeX and JSON are wide (one row per
run group, one column per domain, for reading).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.evaluate.scores import Loss, MaskedLoss
from dataeff.tables.quality import IDENTITY, differences, identity, mean_of, notes
from dataeff.tables.results import (
    BASELINE,
    RunResult,
    bits_per_byte,
    domains_of,
    group_by_seed,
    references,
    sentence_order_accuracy,
)
from dataeff.tables.table import Column, Table, csv_text

Row = dict[str, Any]
Score = Callable[[Loss | MaskedLoss], float | None]

_SCORES: dict[str, Score] = {
    "loss": lambda loss: loss.loss,
    "bits_per_byte": bits_per_byte,
    "sentence_order_accuracy": sentence_order_accuracy,
}
_DOMAIN_SECTIONS = {"bits_per_byte": ("domain", "Bits per byte"), "loss": ("masked", "Nats per masked token")}
"""What is shown of a domain: of a family that predicts every byte the first, of others the second."""

AFTER_THE_TABLES = ("tables", "figures", "report")
"""Stages whose benchmark files are not whole when the tables are made."""


def _domain_score(domain: str, key: str, result: RunResult) -> float | None:
    loss = result.domains.get(domain)
    return None if loss is None else _SCORES[key](loss)


def domain_table(runs: list[RunResult]) -> tuple[Table, str]:
    """The loss by held-out domain: the baseline in full, the others as differences; and the long CSV."""
    domains, groups = domains_of(runs), group_by_seed(runs)
    keys = [key for key in _SCORES if any(_SCORES[key](result.heldout) is not None for result in runs)]
    long_rows: list[Row] = []
    wide_rows: list[Row] = []
    for group in groups:
        is_difference = references(group, runs, group.data) is not None
        wide: Row = identity(group) | {"difference": is_difference}
        shown = "loss" if bits_per_byte(group.results[0].heldout) is None else "bits_per_byte"
        for domain in group.results[0].domains:
            row = identity(group) | {"domain": domain, "tokens": group.results[0].domains[domain].tokens}
            for key in keys:
                row |= mean_of(key, (_domain_score(domain, key, result) for result in group.results))
                row |= mean_of(
                    f"{key}_delta", differences(group, runs, group.data, partial(_domain_score, domain, key))
                )
            long_rows.append(row)
            source, cell = f"{shown}_delta" if is_difference else shown, f"{_DOMAIN_SECTIONS[shown][0]} {domain}"
            wide |= {cell: row[source], f"{cell}_interval": row.get(f"{source}_interval")}
        wide_rows.append(wide)
    columns = [
        Column(key=f"{section} {domain}", heading=domain, section=section, digits=3, signed_by="difference")
        for section, _ in _DOMAIN_SECTIONS.values()
        for domain in domains
    ]
    table = Table(
        name="heldout_by_domain",
        title="Held-out text by domain",
        sections=dict(_DOMAIN_SECTIONS.values()),
        columns=[*IDENTITY, *columns],
        rows=wide_rows,
        notes=[
            f"Rows of '{BASELINE}' in full; cells with a sign are differences to it at the same data fraction and "
            "seed, lower is better.",
            *notes([len(group.results) for group in groups])[1:],
        ],
    )
    csv_columns = [*IDENTITY, Column(key="domain", heading="domain"), Column(key="tokens", heading="tokens")]
    csv_columns += [Column(key=key, heading=key, interval=True) for name in keys for key in (name, f"{name}_delta")]
    return table, csv_text(csv_columns, long_rows)


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
