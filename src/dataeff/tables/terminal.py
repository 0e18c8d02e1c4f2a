"""The result table that ends a study in the terminal: ASCII, at most 100 columns wide."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM
from dataeff.tables.table import Column, Row, Table, format_cell, read_table

_VARIANT_WIDTH = 22


def summary(results: Path, grid: str) -> str:
    """The result table for the terminal, at most 100 columns wide, and where the report is."""
    results = Path(results)
    table = read_table(results / "tables" / grid, "quality")
    if not table.rows:
        raise DataeffError(f"{results}/tables/{grid}/quality.json has no rows; delete the folder and run again")
    shown = _summary_columns(table)
    cells = [[heading for heading, _ in shown]]
    cells += [[_plain(format_cell(column, row)) for _, column in shown] for row in map(_shortened(table), table.rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(shown))]
    texts = [_aligned(line, widths) for line in cells]
    report = results / "report" / f"{grid}.html"
    report = report if report.exists() else results / "report" / "index.html"
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:], "", *_legend(table), f"report: {os.fspath(report)}"])


def _summary_columns(table: Table) -> list[tuple[str, Column]]:
    """Heading and column of what fits a terminal: loss and averages with their differences, and the cost."""
    by_key = {column.key: column for column in table.columns}
    averages = [key for key in by_key if key.startswith("average_") and key.endswith("shot")]
    wanted = {
        "variant": "variant",
        "data": "data",
        "seeds": "n",
        "heldout_loss": "loss",
        "heldout_loss_delta": "diff",
    }
    for key in averages[:2]:
        wanted |= {key: f"{key.removeprefix('average_').removesuffix('shot')}-shot", f"{key}_delta": "diff"}
    wanted |= {
        "effective_tokens": "eff.tok",
        "steps": "steps",
        "training_seconds": "time",
        "time_ratio": "ratio",
    }
    units = {"effective_tokens": "M", "training_seconds": "s"}
    digits = {"effective_tokens": 2, "heldout_loss": 3, "heldout_loss_delta": 3}
    several_seeds = any(row["seeds"] >= SEEDS_FOR_A_CLAIM for row in table.rows)
    if several_seeds:
        # An interval takes the room of the columns that say least: the absolute averages and the steps.
        wanted = {key: text for key, text in wanted.items() if key not in averages and key != "steps"}
        wanted |= {f"{key}_delta": f"{key.removeprefix('average_')[:-4]}-shot diff" for key in averages[:2]}
    return [
        (
            heading,
            by_key[key].model_copy(
                update={"unit": units.get(key, "").strip(), "digits": digits.get(key, by_key[key].digits)}
            ),
        )
        for key, heading in wanted.items()
    ]


def _shortened(table: Table) -> Callable[[Row], Row]:
    """Rows whose variant carries the family where there are several, cut to the column's width."""
    families = {row["family"] for row in table.rows}

    def shorten(row: Row) -> Row:
        name = row["variant"] if len(families) == 1 else f"{row['family']} {row['variant']}"
        name = name if len(name) <= _VARIANT_WIDTH else name[: _VARIANT_WIDTH - 2] + ".."
        return {key: value for key, value in row.items() if key != "heldout_loss_interval"} | {"variant": name}

    return shorten


def _plain(text: str) -> str:
    """ASCII, which every terminal shows."""
    return text.replace("−", "-").replace(" ± ", "+-").replace("–", "-")


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])


def _legend(table: Table) -> list[str]:
    few = min(row["seeds"] for row in table.rows) < SEEDS_FOR_A_CLAIM
    lines = [
        "loss: held-out, nats/token; shots: average score, %; diff and ratio: to the baseline of the same",
        "data share and seed; time: of training. " + ("+-: 95% t interval over seeds." if not few else ""),
    ]
    if few:
        lines.append(f"n < {SEEDS_FOR_A_CLAIM} seeds: no interval, no claim; list more under `seeds` to get one.")
    return [line.rstrip() for line in lines] + [""]
