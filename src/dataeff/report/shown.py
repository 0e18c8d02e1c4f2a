"""Tables and claims as the page shows them: cells as texts, the plain value beside each for sorting, and the runs
behind each row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dataeff.claims import FILE, Claim, Claims, Verdict
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, read_json
from dataeff.report.evidence import link_to, runs_behind
from dataeff.study.types import Run
from dataeff.tables.table import Column, Row, Table, mark_of, read_table, value_text

SIGNS: dict[Verdict, tuple[str, str]] = {
    "holds": ("yes", "✓"),
    "does not hold": ("no", "✗"),
    "cannot be told": ("open", "?"),
}
"""Of a verdict: the name of its look, and a sign that needs no colour."""


def tables_of(folder: Path, runs: Sequence[Run], page_folder: Path) -> dict[str, dict[str, Any]]:
    """Every table of the folder, by name, as its manifest lists them."""
    listed = read_json(folder / MANIFEST)["files"]
    names = [Path(name).stem for name in listed if name.endswith(".json") and name != FILE]
    return {name: _shown(read_table(folder, name), folder, runs, page_folder) for name in names}


def _shown(table: Table, folder: Path, runs: Sequence[Run], page_folder: Path) -> dict[str, Any]:
    sections = []
    of_one_family = len({row.get("family") for row in table.rows}) == 1
    for name, title in table.filled_sections().items():
        one_family = of_one_family or name in table.families
        columns = [column for column in table.shown_in(name) if not (one_family and column.key == "family")]
        rows = table.rows_in(name)
        behind = [runs_behind(row, runs) for row in rows]
        sections.append(
            {
                "title": title,
                "headings": [{"text": column.heading, "number": column.digits is not None} for column in columns],
                "rows": [
                    {"cells": [_cell(column, row) for column in columns], "runs": found}
                    for row, found in zip(rows, behind, strict=True)
                ],
                "with_runs": any(behind),
            }
        )
    files = {kind: link_to(folder / f"{table.name}.{end}", page_folder) for kind, end in _FORMS.items()}
    return {
        "title": table.title,
        "headline": table.headline,
        "sections": sections,
        "notes": table.notes,
        "files": {kind: found for kind, found in files.items() if found},
    }


_FORMS = {"CSV": "csv", "LaTeX": "tex", "JSON": "json"}


def _cell(column: Column, row: Row) -> dict[str, Any]:
    return {
        "text": value_text(column, row),
        "mark": mark_of(column, row),
        "value": row.get(column.key),
        "number": column.digits is not None,
    }


def claims_shown(claims: Claims, runs: Sequence[Run], several_families: bool) -> list[dict[str, Any]]:
    """The claims in their order; an error if one names a run that is none of the grid's."""
    by_name = {run.name: run for run in runs}
    return [_claim(claim, by_name, several_families) for claim in claims.claims]


def _claim(claim: Claim, runs: dict[str, Run], several_families: bool) -> dict[str, Any]:
    unknown = [name for name in claim.runs if name not in runs]
    if unknown:
        raise DataeffError(
            f"{FILE}: claim '{claim.key}' names the run '{unknown[0]}', which the grid does not have; run "
            "`dataeff tables` again"
        )
    look, sign = SIGNS[claim.verdict]
    behind = [found for name in claim.runs for found in runs_behind(_row_of(runs[name]), [runs[name]])]
    return {
        **claim.model_dump(exclude={"runs", "published"}),
        "published": claim.published.rstrip("."),
        "look": look,
        "sign": sign,
        "runs": behind,
        "of_family": claim.family if several_families else "",
    }


def verdicts(claims: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How many claims have each verdict."""
    counts = Counter(claim["verdict"] for claim in claims)
    return {name: {"look": look, "sign": sign, "claims": counts[name]} for name, (look, sign) in SIGNS.items()}


def _row_of(run: Run) -> dict[str, Any]:
    return {"family": run.family, "variant": run.variant}
