"""How every figure looks, and how it is written so that equal results give equal bytes.

A variant has one colour, marker and line style in all figures of a grid, by its place in the grid: colours are
Okabe and Ito's (told apart with any colour vision), the baseline is black, and markers tell lines apart in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from dataeff.study.specs import GridSpec
from dataeff.tables.results import BASELINE

# Okabe and Ito's palette without black (the baseline's) and without its yellow, too pale for lines on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6E6E6E")
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
WIDTH_INCHES = 7.0
PNG_DOTS_PER_INCH = 200

SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "dataeff",
}


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str
    line: Any


@dataclass(frozen=True)
class Figure:
    """A drawn figure and what the report says about it."""

    name: str
    title: str
    caption: str
    drawing: Any


def variant_styles(spec: GridSpec) -> dict[str, Style]:
    """Each variant's style, by the order in which the grid first names it."""
    styles = {BASELINE: Style("#000000", "o", "-")}
    others = [name for name in dict.fromkeys(run.variant for run in spec.runs) if name != BASELINE]
    for index, name in enumerate(others):
        line = LINES[index // len(COLOURS) % len(LINES)]
        styles[name] = Style(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], line)
    return styles


def token_unit(largest: float) -> tuple[float, str]:
    """What to divide token counts by, and the axis label's word for it."""
    return next(unit for unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")) if largest >= unit[0] / 10)


def legend_below(drawing: Any, variants: Sequence[str], styles: dict[str, Style]) -> None:
    """One legend for all panels, under them, in the grid's order."""
    handles = [
        plt.Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.line, label=name)
        for name, look in ((name, styles[name]) for name in variants)
    ]
    drawing.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))


def save(figure: Figure, folder: Path) -> None:
    """{name}.pdf and {name}.png without dates and versions, then frees the figure's memory."""
    dateless = {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
    figure.drawing.savefig(folder / f"{figure.name}.pdf", metadata=dateless)
    figure.drawing.savefig(folder / f"{figure.name}.png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure.drawing)
