"""A table as data (columns with units, rows of plain values) and its three forms: CSV, LaTeX and JSON.

CSV and JSON hold every column at full precision; LaTeX, the terminal and the HTML report show the same cells
through `format_cell`, the one place where digits, signs and intervals are decided.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dataeff.files import read_json, write_json, write_text
from dataeff.study.load import validate

Row = Mapping[str, Any]

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "–": "--",
    "†": r"$\dagger$",
    "°": r"$^\circ$",
}


class Column(BaseModel):
    """One column: `digits` after the point (None: text), `scale` from stored to shown, its `section`.

    `signed_by` names a row's key that tells whether this cell is a difference; `interval` says that rows may
    hold `{key}_interval`, half the width of a 95% interval. A row's `{key}_mark` is shown after the value and is
    explained in the table's notes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    heading: str
    section: str = ""
    digits: int | None = None
    scale: float = 1.0
    unit: str = ""
    signed: bool = False
    signed_by: str | None = None
    interval: bool = False


class Table(BaseModel):
    """`sections` are shown one under the other, each led by the columns without one (the row's name).

    `headline` is what the table says, in a line; most say it with their cells alone. `families`: the family that a
    section is for, where it is for one; a column that several sections show has an entry for each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    sections: dict[str, str]
    columns: list[Column]
    rows: list[dict[str, Any]]
    notes: list[str]
    headline: str = ""
    families: dict[str, str] = {}

    def shown_in(self, section: str) -> list[Column]:
        return [column for column in self.columns if column.section in ("", section)]

    def rows_in(self, section: str) -> list[dict[str, Any]]:
        """Those of its family with a value in it: what a family does not measure is no row of dashes."""
        keys = [column.key for column in self.columns if column.section == section]
        filled = [row for row in self.rows if any(row.get(key) is not None for key in keys)]
        return [row for row in filled if row.get("family") == self.families.get(section, row.get("family"))]

    def filled_sections(self) -> dict[str, str]:
        return {name: title for name, title in self.sections.items() if self.rows_in(name)}


def format_cell(column: Column, row: Row) -> str:
    """The cell for people: a true minus sign, thousands apart, ± if there is an interval, – for no value, its mark."""
    return value_text(column, row) + mark_of(column, row)


def mark_of(column: Column, row: Row) -> str:
    return "" if row.get(column.key) is None else str(row.get(f"{column.key}_mark") or "")


def value_text(column: Column, row: Row) -> str:
    """The cell without its mark."""
    value = row.get(column.key)
    if value is None:
        return "–"
    if column.digits is None:
        return str(value)
    signed = column.signed or bool(column.signed_by and row.get(column.signed_by))
    text = f"{value * column.scale:{'+' if signed else ''},.{column.digits}f}"
    half_width = row.get(f"{column.key}_interval")
    if half_width is not None:
        text += f" ± {half_width * column.scale:,.{column.digits}f}"
    return text.replace("-", "−") + column.unit


def csv_text(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Every column at full precision, an interval beside its mean; an absent value is an empty field."""
    keys = [key for column in columns for key in [column.key, *([f"{column.key}_interval"] if column.interval else [])]]
    keys = list(dict.fromkeys(keys))
    stream = StringIO()
    writer = csv.DictWriter(stream, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def latex_text(table: Table) -> str:
    r"""One booktabs tabular a section, to be read in with \input; the notes stand below the last one."""
    parts = [f"% {table.title}. Needs \\usepackage{{booktabs}}."]
    for section in table.filled_sections():
        columns = table.shown_in(section)
        parts += ["\\begin{tabular}{" + "".join("l" if column.digits is None else "r" for column in columns) + "}"]
        parts += [
            "\\toprule",
            " & ".join(escape_latex(column.heading) for column in columns) + r" \\",
            "\\midrule",
        ]
        for row in table.rows_in(section):
            parts.append(" & ".join(escape_latex(format_cell(column, row)) for column in columns) + r" \\")
        parts += ["\\bottomrule", "\\end{tabular}", "", "\\medskip", ""]
    lines = [table.headline, *table.notes] if table.headline else table.notes
    parts += [f"{{\\footnotesize {escape_latex(line)}\\par}}" for line in lines]
    return "\n".join(parts) + "\n"


def write_table(table: Table, folder: Path) -> None:
    """{name}.csv, {name}.tex and {name}.json (what the report and the summary read)."""
    write_text(folder / f"{table.name}.csv", csv_text(table.columns, table.rows))
    write_text(folder / f"{table.name}.tex", latex_text(table))
    write_json(folder / f"{table.name}.json", table.model_dump(mode="json"))


def read_table(folder: Path, name: str) -> Table:
    """The table as `write_table` left it in a folder."""
    path = Path(folder) / f"{name}.json"
    return validate(Table, read_json(path), str(path))
