"""Tables, figures and the page of a collected grid, made again: no training, no corpus, seconds instead of hours."""

from __future__ import annotations

import argparse
from pathlib import Path

from dataeff import figures, report, tables
from dataeff.errors import DataeffError
from dataeff.measured.collect import FACTS
from dataeff.study.specs import GridSpec, read_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="results/measured/{scale}")


def run(args: argparse.Namespace) -> None:
    for folder in args.folders:
        build(folder)


def grids_in(folder: Path) -> list[Path]:
    """The specs of the grids that were collected there."""
    return sorted((folder / "specs" / "grid").glob("*.yaml"))


def build(folder: Path, out: Path | None = None) -> None:
    """Writes tables/{grid}, figures/{grid} and report/index.html (of several grids, report/{grid}.html) of what
    `folder` holds, there or in `out`.
    """
    found = grids_in(folder)
    if not found or not (folder / FACTS).is_file():
        raise DataeffError(
            f"{folder}: no collected grid ({FACTS} and specs/grid/); make one by `dataeff measured collect`"
        )
    out = out or folder
    for path in found:
        spec = read_spec(path, GridSpec)
        (data,) = (card.parent for card in folder.glob("data/*/corpus.json"))
        made = {stage: out / stage / spec.grid for stage in ("tables", "figures")}
        tables.build(spec, folder, made["tables"], data)
        figures.build(spec, folder, data, made["figures"])
        tokens = sorted(data.glob("*/tokens/*.json"))
        page = out / "report" / ("index.html" if len(found) == 1 else f"{spec.grid}.html")
        report.build(spec, folder, data / "corpus.json", tokens, made["tables"], made["figures"], page)
        print(f"{folder}: {len(spec.runs)} runs of grid {spec.grid}; tables, figures and {page}")
