"""The result table that ends a study in the terminal: ASCII, at most 100 columns wide."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataeff.claims import FILE, read_claims
from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM
from dataeff.tables.table import Column, Row, Table, format_cell, read_table

WIDTH = 100
_VARIANT_WIDTH = 22
CLAIMS_SHOWN = 2
FINETUNED = "finetuned"
WITHOUT_INTERVAL = ("heldout_loss_interval", "time_ratio_interval", "finetuned_interval")
"""An interval belongs to the difference that is read; of absolute values and of the time there is no room for it."""


def summary(results: Path, grid: str) -> str:
    """The result table for the terminal, at most 100 columns wide, and where the report is."""
    results = Path(results)
    table = read_table(results / "tables" / grid, "quality")
    if not table.rows:
        raise DataeffError(f"{results}/tables/{grid}/quality.json has no rows; delete the folder and run again")
    table = _with_finetuning(table, results / "tables" / grid)
    shown, lines = _columns(table), [""]
    for key in [None, *_spare(table)]:
        shown = [column for column in shown if column.key != key]
        lines = _lines(shown, table)
        if len(lines[0]) <= WIDTH:
            break
    report = results / "report" / f"{grid}.html"
    report = report if report.exists() else results / "report" / "index.html"
    return "\n".join(
        [
            *(lines[0], "-" * len(lines[0]), *lines[1:], ""),
            *_legend(table),
            *_claims(results / "tables" / grid),
            *_published(results / "tables" / grid),
            f"report: {os.fspath(report)}",
        ]
    )


def _with_finetuning(table: Table, folder: Path) -> Table:
    """The table with the average after finetuning (of the first table of tasks), where something was finetuned."""
    tuned = read_table(folder, "finetune") if (folder / "finetune.json").is_file() else None
    averages = [column for column in tuned.columns if column.key.endswith("_honest_average")] if tuned else []
    if tuned is None or not tuned.rows or not averages:
        return table
    source = averages[0]
    values = {_place(row): row for row in tuned.rows}
    rows = []
    for row in table.rows:
        found = values.get(_place(row), {})
        keys = {FINETUNED: source.key, f"{FINETUNED}_delta": f"{source.key}_delta"}
        ends = ("", "_interval")
        rows.append(
            row | {f"{ours}{end}": found.get(f"{theirs}{end}") for ours, theirs in keys.items() for end in ends}
        )
    plain = source.model_copy(update={"key": FINETUNED, "section": "", "digits": 1})
    delta = plain.model_copy(update={"key": f"{FINETUNED}_delta", "signed": True})
    return table.model_copy(update={"columns": [*table.columns, plain, delta], "rows": rows})


def _place(row: Row) -> tuple[str, str, str]:
    return row["family"], row["variant"], row["data"]


def _published(folder: Path) -> list[str]:
    """How our differences compare with the papers'; nothing where the tables were made before they held that."""
    headline = read_table(folder, "published").headline if (folder / "published.json").is_file() else ""
    return [*textwrap.wrap(_plain(headline), WIDTH), ""] if headline else []


def _claims(folder: Path) -> list[str]:
    """The first claims with their verdicts; nothing where the tables were made before they were judged."""
    if not (folder / FILE).is_file():
        return []
    shown = [claim for claim in read_claims(folder).claims if claim.headline][:CLAIMS_SHOWN]
    lines = [line for claim in shown for line in textwrap.wrap(_plain(f"{claim.verdict}: {claim.text}"), WIDTH)]
    return [*lines, ""]


def _averages(table: Table) -> list[str]:
    """The keys of the task averages, fewest shots first."""
    return [column.key for column in table.columns if column.key.startswith("average_") and not column.signed]


def _columns(table: Table) -> list[Column]:
    """What a terminal shows: loss and averages with their differences, and the cost."""
    billions = max(row["effective_tokens"] for row in table.rows) >= 1e9
    tokens = {"heading": "eff.tok", "digits": 2, "scale": 1e-9 if billions else 1e-6, "unit": "B" if billions else "M"}
    wanted: dict[str, dict[str, Any]] = {"variant": {}, "data": {}, "seeds": {"heading": "n"}}
    wanted |= {
        "heldout_loss": {"heading": "loss", "digits": 3},
        "heldout_loss_delta": {"heading": "loss diff", "digits": 3},
    }
    for key in _averages(table):
        shots = key.removeprefix("average_").removesuffix("shot")
        wanted |= {key: {"heading": f"{shots}-shot"}, f"{key}_delta": {"heading": f"{shots}-shot diff"}}
    if any(column.key == FINETUNED for column in table.columns):
        wanted |= {FINETUNED: {"heading": "tuned"}, f"{FINETUNED}_delta": {"heading": "tuned diff"}}
    wanted |= {"effective_tokens": tokens, "steps": {}, "training_seconds": {"heading": "time", "unit": "s"}}
    wanted |= {"time_ratio": {"heading": "ratio", "unit": ""}}
    by_key = {column.key: column for column in table.columns}
    return [by_key[key].model_copy(update=update) for key, update in wanted.items()]


def _spare(table: Table) -> list[str]:
    """The columns that give way, first to last, where intervals or large numbers need the room."""
    return ["steps", *reversed(_averages(table)), "training_seconds", "effective_tokens", "time_ratio"]


def _lines(shown: Sequence[Column], table: Table) -> list[str]:
    keys = {column.key for column in shown}
    cells = [
        ["diff" if column.key.removesuffix("_delta") in keys - {column.key} else column.heading for column in shown]
    ]
    cells += [[_plain(format_cell(column, row)) for column in shown] for row in map(_shortened(table), table.rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(shown))]
    return [_aligned(line, widths) for line in cells]


def _shortened(table: Table) -> Callable[[Row], Row]:
    """Rows whose variant carries the family where there are several, cut to the column's width."""
    families = {row["family"] for row in table.rows}

    def shorten(row: Row) -> Row:
        name = row["variant"] if len(families) == 1 else f"{row['family']} {row['variant']}"
        name = name if len(name) <= _VARIANT_WIDTH else name[: _VARIANT_WIDTH - 2] + ".."
        return {key: value for key, value in row.items() if key not in WITHOUT_INTERVAL} | {"variant": name}

    return shorten


def _plain(text: str) -> str:
    """ASCII, which every terminal shows."""
    return text.replace("−", "-").replace(" ± ", "+-").replace("–", "-")


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = line[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])


def _legend(table: Table) -> list[str]:
    counts = {row["seeds"] for row in table.rows}
    traits = [TRAITS[family] for family in dict.fromkeys(row["family"] for row in table.rows)]
    units = ", ".join(f"nats/{found.predicts} ({found.title})" for found in traits)
    tuned = "tuned: average after finetuning, %; " if any(c.key == FINETUNED for c in table.columns) else ""
    text = (
        f"loss: held-out, {units}; N-shot: average score, %; {tuned}diff, ratio: to the baseline of the same data and "
        "seed; time: of training, on one machine with whatever ran beside it."
    )
    lines = textwrap.wrap(text, WIDTH)
    if max(counts) >= SEEDS_FOR_A_CLAIM:
        lines.append("+-: half of the 95% t interval over seeds.")
    if min(counts) < SEEDS_FOR_A_CLAIM:
        lines.append(f"n < {SEEDS_FOR_A_CLAIM} seeds: no interval, no claim; list more under `seeds` to get one.")
    return [*lines, ""]
