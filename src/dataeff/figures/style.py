"""How every figure looks, and how it is written so that equal results give equal bytes.

A variant has one colour, marker and line style in all figures of a grid, by its place in the grid: colours are
Okabe and Ito's (told apart with any colour vision), markers and line patterns tell them apart in grey. The baseline
is black and stands out; each further round through the colours has another line pattern and fills or empties the
markers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
# Nine: with the seven colours, 63 variants pass before a pair of colour and marker comes again.
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
WIDTH_INCHES = 7.0
PNG_DOTS_PER_INCH = 200
SMALL = 7.0
"""The smallest text, in points; figures are drawn at the width at which they are printed."""

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
    """A variant's look; `filled` is whether its markers are."""

    colour: str
    marker: str
    line: Any
    filled: bool = True
    width: float = 1.3
    layer: int = 3

    @property
    def marks(self) -> dict[str, Any]:
        """What to give to `plot` for markers alone."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markerfacecolor": self.colour if self.filled else "white",
            "linestyle": "",
        }

    @property
    def course(self) -> dict[str, Any]:
        """What to give to `plot` for a line with markers."""
        return self.marks | {"linestyle": self.line, "linewidth": self.width, "zorder": self.layer}


@dataclass(frozen=True)
class Figure:
    """A drawn figure and what the report says about it."""

    name: str
    title: str
    caption: str
    drawing: Any


def variant_styles(spec: GridSpec) -> dict[str, Style]:
    """Each variant's style, by the order in which the grid first names it; of one name, the same in both families."""
    styles = {BASELINE: Style("#000000", "o", "-", width=2.0, layer=5)}
    others = [name for name in dict.fromkeys(run.variant for run in spec.runs) if name != BASELINE]
    for index, name in enumerate(others):
        round_number, place = divmod(index, len(COLOURS))
        line = LINES[round_number % len(LINES)]
        styles[name] = Style(COLOURS[place], MARKERS[index % len(MARKERS)], line, filled=round_number % 2 == 0)
    return styles


def token_unit(largest: float) -> tuple[float, str]:
    """What to divide token counts by, and the axis label's word for it."""
    return next(unit for unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")) if largest >= unit[0] / 10)


def time_unit(longest_seconds: float) -> tuple[float, str]:
    """What to divide seconds by, and the axis label's word for it."""
    longer = ((3600.0, "hours"), (60.0, "minutes"))
    return next((unit for unit in longer if longest_seconds >= 2 * unit[0]), (1.0, "seconds"))


def legend_below(drawing: Any, variants: Sequence[str], styles: Mapping[str, Style]) -> None:
    """One legend for all panels, under them, in the grid's order, with as many columns as the longest name leaves."""
    handles = [plt.Line2D([], [], label=name, **styles[name].course) for name in variants]
    name_inches = max(len(name) for name in variants) * 0.065
    width = float(drawing.get_size_inches()[0])
    columns = max(1, min(len(handles), 5, int((width - 0.2) / (name_inches + 0.62))))
    drawing.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=3.2, columnspacing=1.4)


def save(figure: Figure, folder: Path) -> None:
    """{name}.pdf and {name}.png without dates and versions, then frees the figure's memory."""
    figure.drawing.draw_without_rendering()
    figure.drawing.set_layout_engine("none")  # what the one drawing has found holds for both files
    dateless = {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
    figure.drawing.savefig(folder / f"{figure.name}.pdf", metadata=dateless)
    figure.drawing.savefig(folder / f"{figure.name}.png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
    plt.close(figure.drawing)
