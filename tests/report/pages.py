"""Pages to test on: of grids made by formulas, and as a browser would see them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from dataeff import figures, report, tables
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec
from tests.result_factory import both_families, grid_spec, only, write_results

ABOUT = 'every <b>sample</b> & "all" of it'
VOID = {"meta", "link", "img", "br", "input"}


class Inputs(NamedTuple):
    spec: GridSpec
    results: Path
    corpus: Path
    tokens: list[Path]
    tables: Path
    figures: Path

    @property
    def page(self) -> Path:
        return self.results / "report" / "index.html"

    def build(self) -> str:
        report.build(*self, self.page)
        return self.page.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """A table as shown: its headings and the texts of its rows."""

    label: str
    headings: list[str]
    rows: list[list[str]]


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, tables with their texts, and open elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.visible = ""
        self._rows: list[list[list[str]]] = []
        self._labels: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            _, holder = self.elements[-2]
            self._labels.append(holder.get("aria-label") or "")
            self._rows.append([])
        elif tag == "tr":
            self._rows[-1].append([])
        elif tag in ("th", "td"):
            self._rows[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self._rows[-1][-1][-1] += (
                data.strip() if not self._rows[-1][-1][-1] else " " * data[:1].isspace() + data.strip()
            )
        if not {"script", "style"} & set(self.open):
            self.visible += data

    def values(self, attribute: str) -> list[str]:
        return [found for _, attributes in self.elements if (found := attributes.get(attribute)) is not None]

    @property
    def tables(self) -> list[Shown]:
        """With the label of the region that holds each."""
        texts = [[[" ".join(cell.split()) for cell in row] for row in rows] for rows in self._rows]
        return [Shown(label, rows[0], rows[1:]) for label, rows in zip(self._labels, texts, strict=True)]

    def table(self, label: str) -> Shown:
        (found,) = [table for table in self.tables if table.label == label]
        return found


def small_grid(root: Path, seeds: tuple[int, ...], drawn: Path | None = None) -> Inputs:
    """Three variants at 100% data and two at 25%; with `drawn`, figures that another build has made."""
    every = grid_spec().variants["gpt"]
    variants = {name: every[name] for name in ("baseline", "cl_voc", "ltd")}
    variants["ltd"] = variants["ltd"].model_copy(update={"about": ABOUT})
    spec = grid_spec(seeds, variants)
    part = [run.model_copy(update={"data": Fraction(1, 4)}) for run in spec.runs if run.variant != "cl_voc"]
    spec = spec.model_copy(update={"runs": [*spec.runs, *part], "scale_about": "a <small> & quick one"})
    return inputs_of(root, spec, drawn)


def grid_of_both(root: Path, drawn: Path | None, family: FamilyName | None = None) -> Inputs:
    """A grid of both families, or its part of one."""
    return inputs_of(root, both_families() if family is None else only(both_families(), family), drawn)


def inputs_of(root: Path, spec: GridSpec, drawn: Path | None = None) -> Inputs:
    results, data, corpus = write_results(root, spec, timed_probes=True)
    folders = (results / "tables" / spec.grid, results / "figures" / spec.grid)
    tables.build(spec, results, folders[0], data)
    if drawn is None:
        figures.build(spec, results, data, folders[1])
    else:
        shutil.copytree(drawn, folders[1])
    return Inputs(spec, results, corpus, sorted(data.glob("bpe4k/tokens/*.json")), *folders)
