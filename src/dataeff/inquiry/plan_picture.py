"""A plan as a picture: lengths and kept tokens, percentiles, learning rate, over the effective tokens of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.figures.style import COLOURS, PNG_DOTS_PER_INCH, SETTINGS, WIDTH_INCHES, token_unit
from dataeff.files import atomic_path
from dataeff.inquiry.plan_view import PlanView

_DRAWN_STEPS = 2000
"""A line is drawn through at most this many steps."""


def draw(view: PlanView, path: Path) -> None:
    """Writes the PNG `path`: one panel per quantity, one horizontal axis."""
    with plt.rc_context(SETTINGS):
        drawing = _picture(view)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="png", dpi=PNG_DOTS_PER_INCH, metadata={"Software": None})
        plt.close(drawing)


def _picture(view: PlanView) -> Any:
    steps = len(view.table)
    thin = np.unique(np.linspace(0, steps - 1, min(steps, _DRAWN_STEPS)).round().astype(np.int64))
    table = view.table.iloc[thin]
    selections = {metric: f"{metric}_{part.by}" for metric, part in view.spec.variant.selections.items()}
    unit, word = token_unit(float(table["cumulative_effective_tokens"].iloc[-1]))
    tokens = _from_start(table["cumulative_effective_tokens"].to_numpy() / unit, 0)
    count = 2 + len(selections)
    drawing, axes = plt.subplots(
        count, 1, figsize=(WIDTH_INCHES, 0.6 + 1.55 * count), sharex=True, layout="constrained"
    )
    _lengths(axes[0], tokens, table, view)
    for axis, (metric, column) in zip(axes[1:-1], selections.items(), strict=True):
        _stairs(axis, tokens, table[column].to_numpy(), COLOURS[2])
        axis.set_title(f"{metric.replace('_', ' ')}: samples up to this {column.removeprefix(metric + '_')}")
    axes[-1].plot(tokens[1:], table["learning_rate"].to_numpy() * 1e3, color=COLOURS[1])
    axes[-1].set_title("learning rate (10⁻³)")
    axes[-1].set_xlabel(f"effective tokens ({word})")
    axes[-1].set_xlim(0, tokens[-1])
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.locator_params(axis="y", nbins=4)
    drawing.suptitle(f"{view.spec.run.name} at scale {view.asked.study.scale_name}: {steps:,} steps", fontsize=9)
    return drawing


def _lengths(axis: Any, tokens: NDArray[Any], table: Any, view: PlanView) -> None:
    _stairs(axis, tokens, table["sequence_length"].to_numpy(), COLOURS[0], label="length of a row")
    if view.spec.variant.token_drop is None:
        axis.set_title("tokens of a row")
        return
    kept = _from_start(table["kept_tokens"].to_numpy())
    look = {"color": COLOURS[0], "alpha": 0.25, "linewidth": 0, "step": "pre"}
    axis.fill_between(tokens, 0, kept, label="kept in layers that drop", **look)
    axis.set_title("tokens of a row, in all layers and in those that drop some")
    axis.legend(loc="lower right")


def _stairs(axis: Any, tokens: NDArray[Any], values: NDArray[Any], colour: str, label: str | None = None) -> None:
    axis.plot(tokens, _from_start(values), color=colour, label=label, drawstyle="steps-pre")


def _from_start(column: NDArray[Any], first: float | None = None) -> NDArray[Any]:
    """The column with a point ahead of it: a step's values hold from the end of the step before it to its own."""
    return np.concatenate([[column[0] if first is None else first], column])
