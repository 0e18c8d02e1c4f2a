"""report: claims, tables, figures and facts of a grid's runs -> one HTML page that needs nothing beside it.

A person opens it, or sends it on: styles, scripts, pictures and the plotting library are inside, and no address outside
is loaded. Links to the runs' own files are relative and work where the results folder is. Numbers come from the tables
and figures stages; the page formats and never computes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dataeff.files import read_json, write_json, write_text
from dataeff.study.specs import GridSpec

GRID_NAME = "dataeff-grid"
"""The page's meta element that names its grid."""


def build(
    spec: GridSpec, results: Path, corpus: Path, tokens: Sequence[Path], tables: Path, figures: Path, out: Path
) -> None:
    """Writes the page `out` and its claims beside it, from results/{scale}, the corpus's data card, the facts of its
    token files ({tokenizer}/tokens/{shard}.json) and the grid's tables and figures.
    """
    from dataeff.claims import FILE, read_claims
    from dataeff.report.context import context

    claims = read_claims(tables)
    values = context(spec, results, corpus, tokens, tables, figures, out, claims)
    text = render(values)
    write_json(claims_beside(out), read_json(tables / FILE))
    write_text(out, text)


def claims_beside(page: Path) -> Path:
    """Where the claims of a page lie."""
    return page.with_suffix(".claims.json")


def render(values: dict[str, Any]) -> str:
    """The page's text, with styles, scripts and the plotting library inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dataeff"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    inside = {name: _template(f"report.{name}") for name in ("css", "js")}
    return environment.get_template("report.html.j2").render(
        **values,
        grid_name=GRID_NAME,
        style=inside["css"],
        script=inside["js"],
        curve_script=_template("curves.js"),
        library=_library(),
    )


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or opens a comment."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _template(name: str) -> str:
    return (files("dataeff") / "templates" / name).read_text(encoding="utf-8")


def _library() -> str:
    """Chart.js as published, with its licence's notice on top; less the last line, which points to a file of symbols
    that is not beside the page.
    """
    licence, code = _template("chartjs/LICENSE.md"), _template("chartjs/chart.umd.min.js")
    return f"/*\n{licence.strip()}\n*/\n{code.partition('//# sourceMappingURL')[0].strip()}"


__all__ = ["GRID_NAME", "build", "claims_beside", "render", "script_json"]
