"""The figure of the plans: what each variant asks for as training goes on.

A variant's pacings are fractions of its run, so that it has the same shape at every data fraction: it is drawn once,
at the largest, and variants whose plans are equal share a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.part import Part
from dataeff.figures.style import LINES, SMALL, WIDTH_INCHES, Figure, Style, token_unit
from dataeff.tables.results import percent

PLOTTED_STEPS = 800
"""A line is drawn through at most this many steps; a run of the papers' size has 400,000."""
ROWS_ON_A_PAGE = 12
LABEL_LENGTH = 90
JUMPING = 0.02
"""A length that falls at more than this share of the steps is no growing one: it is drawn as dots."""
SHAPE = ("sequence_length", "kept_tokens", "rows", "window", "learning_rate", "cumulative_effective_tokens")

Table = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class PlanShape:
    """The plan of one variant, or of several that are equal."""

    variants: list[str]
    data: str
    table: Table

    @property
    def label(self) -> str:
        """The variants' names, as many as one line has room for."""
        names = ", ".join(self.variants)
        if len(names) > LABEL_LENGTH:
            first = names[: names.rindex(", ", 0, LABEL_LENGTH)]
            names = f"{first} and {len(self.variants) - first.count(', ') - 1} more"
        return f"{names}, {self.data} data"

    @property
    def percentiles(self) -> list[str]:
        return [name for name in self.table if name.endswith("_percentile")]

    @property
    def values(self) -> list[str]:
        return [name for name in self.table if name.endswith("_value")]


def read_steps(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a steps table, thinned evenly to what a line can show; first and last step stay."""
    from pyarrow import parquet

    if not path.is_file():
        raise DataeffError(f"{path}: no such file; run `plan` of this run again")
    table = parquet.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    count = len(columns["step"])
    shown = np.unique(np.linspace(0, count - 1, min(count, PLOTTED_STEPS)).round().astype(np.int64))
    return {name: column[shown] for name, column in columns.items()}


def read_column(path: Path, name: str) -> NDArray[Any]:
    """One column of a steps table, every step of it."""
    from pyarrow import parquet

    if not path.is_file():
        raise DataeffError(f"{path}: no such file; run `plan` of this run again")
    column: NDArray[Any] = parquet.read_table(path, columns=[name]).column(name).to_numpy()
    return column


def plan_shapes(part: Part, results: Path) -> list[PlanShape]:
    """In the grid's order, one of every variant at its largest data fraction; equal ones are one."""
    largest = {group.variant: group for group in reversed(part.groups)}
    order = dict.fromkeys(result.run.variant for result in part.runs)
    found: dict[tuple[Any, ...], PlanShape] = {}
    for variant in order:
        group = largest[variant]
        table = read_steps(results / "plan" / group.results[0].run.name / "steps.parquet")
        drawn = [name for name in table if name in SHAPE or name.endswith(("_percentile", "_value"))]
        identity = tuple((name, table[name].tobytes()) for name in drawn)
        shape = found.setdefault(identity, PlanShape([], percent(group.data), table))
        shape.variants.append(variant)
    return list(found.values())


def pacing_figures(part: Part, shapes: Sequence[PlanShape], styles: Mapping[str, Style]) -> list[Figure]:
    """As many pages as the shapes need, about equally full."""
    pages = -(-len(shapes) // ROWS_ON_A_PAGE)
    size = -(-len(shapes) // pages)
    return [_page(part, shapes[page * size : (page + 1) * size], page, pages, styles) for page in range(pages)]


def _page(part: Part, shapes: Sequence[PlanShape], page: int, pages: int, styles: Mapping[str, Style]) -> Figure:
    """Columns: tokens a sample, percentile of difficulty, difficulty by value (a metric each), learning rate."""
    values = list(dict.fromkeys(name for shape in shapes for name in shape.values))
    headings = ["tokens of a sample"]
    headings += ["difficulty (percentile)"] if any(shape.percentiles for shape in shapes) else []
    headings += [f"{name.removesuffix('_value').replace('_', ' ')} (value)" for name in values]
    headings += ["learning rate (10⁻³)"]
    unit, word = token_unit(max(int(shape.table["cumulative_effective_tokens"][-1]) for shape in shapes))
    drawing, axes = plt.subplots(
        len(shapes),
        len(headings),
        figsize=(WIDTH_INCHES, 0.7 * len(shapes) + 0.9),
        sharex=True,
        sharey="col",
        squeeze=False,
        layout="constrained",
    )
    for row, shape in zip(axes, shapes, strict=True):
        _row(row, shape, values, styles[shape.variants[0]], unit)
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.annotate(heading, (0, 1), (0, 22), xycoords="axes fraction", textcoords="offset points", fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel(f"effective tokens ({word})")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
    return Figure(
        part.name("pacing") + (f"_{page + 1}" if page else ""),
        part.title("What each variant asks for as training goes on")
        + (f" ({page + 1} of {pages})" if pages > 1 else ""),
        _caption(shapes, middle=len(headings) > 2),
        drawing,
    )


def _caption(shapes: Sequence[PlanShape], middle: bool) -> str:
    left = ["the line is the sequence length"]
    if any((shape.table["kept_tokens"] < shape.table["sequence_length"]).any() for shape in shapes):
        left.append("the shaded area the tokens kept, on average, in the layers that drop some")
    if any("window" in shape.table for shape in shapes):
        left.append("the dashed line the window that attention sees")
    if any(_jumps(shape.table["sequence_length"]) for shape in shapes):
        left.append("dots are lengths that change from step to step")
    text = f"From the plans, by effective tokens. Left: {', '.join(left)}. "
    if middle:
        text += (
            "Middle: how far into the samples, sorted by difficulty, the curriculum draws; variants without such a "
            "metric draw from all samples. "
        )
    return text + (
        "Right: the learning rate. Each variant is shown once, at its largest data fraction: at the others its shape "
        "is the same, over fewer tokens and with the peak that belongs to the fraction. Variants with equal plans "
        "share a row. One seed is shown."
    )


def _from_start(column: NDArray[Any], first: float | None = None) -> NDArray[Any]:
    """The column with a point ahead of it (a step's values hold from the end of the step before it to its own)."""
    return np.concatenate([[column[0] if first is None else first], column])


def _jumps(length: NDArray[Any]) -> bool:
    return bool((np.diff(length) < 0).sum() > JUMPING * len(length))


def _row(axes: Any, shape: PlanShape, values: Sequence[str], look: Style, unit: float) -> None:
    tokens = _from_start(shape.table["cumulative_effective_tokens"] / unit, 0)
    _lengths(axes[0], shape.table, tokens, look)
    axes[0].set_title(shape.label, fontsize=7.5, fontweight="normal", pad=5)
    middle = list(axes[1:-1])
    if len(middle) > len(values):
        _difficulty(middle.pop(0), shape, shape.percentiles, tokens, look)
    for axis, name in zip(middle, values, strict=True):
        _difficulty(axis, shape, [name] if name in shape.table else [], tokens, look)
    axes[-1].plot(tokens, _from_start(shape.table["learning_rate"] * 1e3), color=look.colour)
    for axis in axes:
        axis.locator_params(axis="y", nbins=3)


def _lengths(axis: Any, table: Table, tokens: NDArray[Any], look: Style) -> None:
    length = table["sequence_length"]
    if _jumps(length):
        axis.plot(tokens[1:], length, color=look.colour, marker=".", markersize=2, linestyle="", alpha=0.6)
        return
    if (table["kept_tokens"] < length).any():
        kept = _from_start(table["kept_tokens"])
        axis.fill_between(tokens, 0, kept, color=look.colour, alpha=0.25, linewidth=0, step="pre")
    axis.plot(tokens, _from_start(length), color=look.colour, drawstyle="steps-pre")
    if "window" in table:
        window = _from_start(table["window"])
        axis.plot(tokens, window, color=look.colour, drawstyle="steps-pre", linestyle=(0, (3, 1.5)))


def _difficulty(axis: Any, shape: PlanShape, names: Sequence[str], tokens: NDArray[Any], look: Style) -> None:
    if not names:
        axis.text(0.5, 0.5, "all samples", transform=axis.transAxes, ha="center", va="center", color="#767676")
    for name, line in zip(names, LINES, strict=False):
        level = _drawable(_from_start(shape.table[name]))
        axis.plot(tokens, level, color=look.colour, drawstyle="steps-pre", linestyle=line)
    metrics = ", ".join(name.rpartition("_")[0] for name in names)
    axis.text(0.98, 0.06, metrics, transform=axis.transAxes, ha="right", va="bottom", fontsize=SMALL, color="#444444")


def _drawable(level: NDArray[Any]) -> NDArray[Any]:
    """A value that admits all samples is the largest integer, which would flatten every other line."""
    return np.where(level >= np.iinfo(np.int64).max, np.nan, level.astype(np.float64))
