"""A plan as a picture: lengths, windows and kept tokens or rows, percentiles, learning rate and the states that are
averaged, over the effective tokens of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.bucket_plan import bucket_lengths
from dataeff.figures.style import COLOURS, PNG_DOTS_PER_INCH, SETTINGS, WIDTH_INCHES, token_unit
from dataeff.files import atomic_path
from dataeff.inquiry.plan_view import PlanView, paced
from dataeff.inquiry.shown import KEPT_ROWS
from dataeff.inquiry.words import averaged
from dataeff.pretrain.average import averaged_steps
from dataeff.study.types import LENGTH_METRIC

_DRAWN_STEPS = 2000
"""A line is drawn through at most this many steps."""


@dataclass(frozen=True)
class Drawn:
    """The steps that are drawn: their numbers, rows of the table, and tokens (with the start ahead of them)."""

    view: PlanView
    steps: NDArray[np.int64]
    table: Any
    tokens: NDArray[Any]
    unit: float

    def column(self, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self.table[name].to_numpy()
        return values


Panel = Callable[[Any, Drawn], None]


def draw(view: PlanView, path: Path) -> None:
    """Writes the PNG `path`: one panel per quantity, one horizontal axis."""
    with plt.rc_context(SETTINGS):
        drawing = _picture(view)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
        plt.close(drawing)


def _picture(view: PlanView) -> Any:
    count = len(view.table)
    steps = np.unique(np.linspace(0, count - 1, min(count, _DRAWN_STEPS)).round().astype(np.int64))
    table = view.table.iloc[steps]
    unit, word = token_unit(float(table["cumulative_effective_tokens"].iloc[-1]))
    drawn = Drawn(view, steps, table, _from_start(table["cumulative_effective_tokens"].to_numpy() / unit, 0), unit)
    panels = _panels(view)
    drawing, axes = plt.subplots(
        len(panels), 1, figsize=(WIDTH_INCHES, 0.6 + 1.55 * len(panels)), sharex=True, layout="constrained"
    )
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, drawn)
        if axis.get_yscale() == "linear":
            axis.set_ylim(bottom=0)
            axis.locator_params(axis="y", nbins=4)
    axes[-1].set_xlabel(f"effective tokens ({word})")
    axes[-1].set_xlim(0, drawn.tokens[-1])
    drawing.suptitle(f"{view.spec.run.name} at scale {view.asked.study.scale_name}: {count:,} steps", fontsize=9)
    return drawing


def _panels(view: PlanView) -> list[Panel]:
    rows: list[Panel] = [_rows] if KEPT_ROWS in view.table else []
    lengths = _lengths if view.spec.variant.length_buckets is None else _bucket_lengths
    selections: list[Panel] = [
        _selection(metric, f"{metric}_{part.by}") for metric, part in view.spec.variant.selections.items()
    ]
    return [lengths, *rows, *selections, _learning_rate]


def _lengths(axis: Any, drawn: Drawn) -> None:
    _stairs(axis, drawn, drawn.column("sequence_length"), COLOURS[0], label="length of a row")
    variant = drawn.view.spec.variant
    title = "tokens of a row"
    if variant.window is not None:
        _stairs(axis, drawn, drawn.column("window"), COLOURS[3], label="attention window")
        title += ", and of the window that attention sees"
    if variant.token_drop is not None and KEPT_ROWS not in drawn.table:
        kept = _from_start(drawn.column("kept_tokens"))
        look = {"color": COLOURS[0], "alpha": 0.25, "linewidth": 0, "step": "pre"}
        axis.fill_between(drawn.tokens, 0, kept, label="kept in layers that drop", **look)
        title += ", in all layers and in those that drop some"
    axis.set_title(title)
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(loc="lower right")


def _bucket_lengths(axis: Any, drawn: Drawn) -> None:
    """A dot a step, since each has a length of its own, and the longest that the pacing lets it have."""
    lengths = bucket_lengths(drawn.view.spec.sequence_length)
    axis.set_yscale("log", base=2)
    axis.set_yticks(lengths, labels=[str(length) for length in lengths])
    look = {"color": COLOURS[0], "markersize": 1.5, "marker": "o", "linestyle": "none"}
    axis.plot(drawn.tokens[1:], drawn.column("sequence_length"), **look)
    _stairs(axis, drawn, paced(drawn.view.spec, LENGTH_METRIC, len(drawn.view.table))[drawn.steps], COLOURS[3])
    axis.set_title("length buckets: each step's tokens of a row (dots), and the most that are allowed (line)")


def _rows(axis: Any, drawn: Drawn) -> None:
    _stairs(axis, drawn, drawn.column("rows"), COLOURS[0], label="rows of a step")
    kept = _from_start(drawn.column(KEPT_ROWS))
    look = {"color": COLOURS[0], "alpha": 0.25, "linewidth": 0, "step": "pre"}
    axis.fill_between(drawn.tokens, 0, kept, label="kept in layers that drop", **look)
    axis.set_title("rows, in all layers and in those that drop some")
    axis.legend(loc="lower right")


def _selection(metric: str, column: str) -> Panel:
    def panel(axis: Any, drawn: Drawn) -> None:
        _stairs(axis, drawn, drawn.column(column), COLOURS[2])
        axis.set_title(f"{metric.replace('_', ' ')}: samples up to this {column.removeprefix(metric + '_')}")

    return panel


def _learning_rate(axis: Any, drawn: Drawn) -> None:
    """With the states that a plain mean is of; an exponential average is of all, and named alone."""
    variant, view = drawn.view.spec.variant, drawn.view
    axis.plot(drawn.tokens[1:], drawn.column("learning_rate") * 1e3, color=COLOURS[1])
    clock = "" if variant.lr_clock == "effective_tokens" else f", following {variant.lr_clock.replace('_', ' ')}"
    title = f"learning rate (10⁻³){clock}"
    if variant.averaging is not None:
        title += f"; weights: {averaged(variant.averaging)}"
        if variant.averaging.count is not None:
            states = np.array(averaged_steps(len(view.table), variant.averaging, view.spec.run.name)) - 1
            consumed = view.table["cumulative_effective_tokens"].to_numpy()[states] / drawn.unit
            rates = view.table["learning_rate"].to_numpy()[states] * 1e3
            axis.plot(consumed, rates, "o", color=COLOURS[2], markersize=3, clip_on=False)
    axis.set_title(title)


def _stairs(axis: Any, drawn: Drawn, values: NDArray[Any], colour: str, label: str | None = None) -> None:
    axis.plot(drawn.tokens, _from_start(values), color=colour, label=label, drawstyle="steps-pre")


def _from_start(column: NDArray[Any], first: float | None = None) -> NDArray[Any]:
    """The column with a point ahead of it: a step's values hold from the end of the step before it to its own."""
    return np.concatenate([[column[0] if first is None else first], column])
