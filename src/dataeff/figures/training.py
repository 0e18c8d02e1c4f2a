"""Figures of the course of training: held-out loss by effective tokens, and what each variant's pacing asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.style import WIDTH_INCHES, Figure, Style, legend_below, token_unit
from dataeff.tables.results import Group, percent

PLOTTED_STEPS = 800
"""A line is drawn through at most this many steps; a run of the papers' size has 400,000."""


@dataclass(frozen=True)
class Probes:
    """The held-out probes of one run: effective tokens so far, and loss in nats a token."""

    effective_tokens: NDArray[np.float64]
    loss: NDArray[np.float64]


def read_probes(path: Path) -> Probes:
    """The rows of a metrics.jsonl that hold a held-out loss; the last row always does."""
    try:
        with path.open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream if '"heldout_loss"' in line]
        return Probes(
            np.array([row["effective_tokens"] for row in rows], dtype=np.float64),
            np.array([row["heldout_loss"] for row in rows], dtype=np.float64),
        )
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; run `pretrain` of this run again") from None
    except (json.JSONDecodeError, KeyError) as error:
        raise DataeffError(f"{path}: a row cannot be read ({error!r}); run `pretrain` of this run again") from None


def loss_figure(groups: Sequence[Group], results: Path, styles: Mapping[str, Style]) -> Figure:
    """One column a data fraction: above the whole course, below its second half, where variants part."""
    panels = list(dict.fromkeys((group.family, group.data) for group in groups))
    probes = {
        result.run.name: read_probes(results / "pretrain" / result.run.name / "metrics.jsonl")
        for group in groups
        for result in group.results
    }
    unit, word = token_unit(max(probe.effective_tokens[-1] for probe in probes.values()))
    drawing, axes = plt.subplots(2, len(panels), figsize=(WIDTH_INCHES, 5.2), squeeze=False, layout="constrained")
    for column, (family, data) in enumerate(panels):
        members = [group for group in groups if (group.family, group.data) == (family, data)]
        _loss_panel(axes[0, column], members, probes, styles, unit)
        _loss_panel(axes[1, column], members, probes, styles, unit)
        _show_second_half(axes[1, column], members, probes, unit)
        axes[0, column].set_title(f"{family}, {percent(data)} data: whole run")
        axes[1, column].set_title("second half, enlarged")
        axes[1, column].set_xlabel(f"effective tokens ({word})")
        for axis in axes[:, column]:
            axis.locator_params(axis="x", nbins=6)
    for row in range(2):
        axes[row, 0].set_ylabel("held-out loss (nats/token)")
    legend_below(drawing, list(dict.fromkeys(group.variant for group in groups)), dict(styles))
    return Figure(
        "loss_vs_effective_tokens",
        "Held-out loss by effective tokens",
        "Loss on a fixed probe of held-out text at full length, against the effective (layer-averaged) tokens trained "
        "on: variants at one place on the axis have cost about the same compute. One line a run. A curriculum or "
        "token dropping trains on an easier task early on, so that only the end of a run compares models.",
        drawing,
    )


def _loss_panel(
    axes: Any, groups: Sequence[Group], probes: Mapping[str, Probes], styles: Mapping[str, Style], unit: float
) -> None:
    for group in groups:
        look = styles[group.variant]
        for result in group.results:
            probe = probes[result.run.name]
            axes.plot(
                probe.effective_tokens / unit,
                probe.loss,
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                markersize=3.5,
                zorder=3 if group.variant != groups[0].variant else 4,
            )


def _show_second_half(axes: Any, groups: Sequence[Group], probes: Mapping[str, Probes], unit: float) -> None:
    found = [probes[result.run.name] for group in groups for result in group.results]
    end = max(probe.effective_tokens[-1] for probe in found)
    late = np.concatenate([probe.loss[probe.effective_tokens >= end / 2] for probe in found])
    margin = 0.05 * max(float(late.max() - late.min()), 1e-3)
    axes.set_xlim(end / 2 / unit, end * 1.02 / unit)
    axes.set_ylim(late.min() - margin, late.max() + margin)


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


def pacing_figure(groups: Sequence[Group], results: Path, styles: Mapping[str, Style]) -> Figure:
    """One row a variant and data fraction; columns: tokens a sample, each metric's difficulty, learning rate."""
    tables = [read_steps(results / "plan" / group.results[0].run.name / "steps.parquet") for group in groups]
    metrics = list(
        dict.fromkeys(name for table in tables for name in table if name.endswith(("_percentile", "_value")))
    )
    unit, word = token_unit(max(int(table["cumulative_effective_tokens"][-1]) for table in tables))
    height = 0.72 * len(groups) + 0.9
    drawing, axes = plt.subplots(
        len(groups),
        2 + len(metrics),
        figsize=(WIDTH_INCHES, height),
        sharex=True,
        sharey="col",
        squeeze=False,
        layout="constrained",
    )
    for row, (group, table) in enumerate(zip(groups, tables, strict=True)):
        _pacing_row(axes[row], group, table, metrics, styles[group.variant], unit)
    headings = ["tokens of a sample", *(name.replace("_", " ") for name in metrics), "learning rate (10⁻³)"]
    for axis, heading in zip(axes[0], headings, strict=True):
        axis.annotate(heading, (0, 1), (0, 20), xycoords="axes fraction", textcoords="offset points", fontweight="bold")
    for axis in axes[-1]:
        axis.set_xlabel(f"effective tokens ({word})")
        axis.set_ylim(bottom=0)
    return Figure(
        "pacing",
        "What each variant asks for as training goes on",
        "From the plans, by effective tokens. Left: the line is the sequence length, the shaded area the tokens kept "
        "in the layers that drop some. Middle: how far into the samples, sorted by difficulty, the curriculum draws; "
        "variants without such a metric draw from all samples. Right: the learning rate, which decays over "
        "effective tokens. One seed is shown.",
        drawing,
    )


def _from_start(column: NDArray[Any], first: float | None = None) -> NDArray[Any]:
    """The column with a point ahead of it (a step's values hold from the end of the step before it to its own)."""
    return np.concatenate([[column[0] if first is None else first], column])


def _pacing_row(
    axes: Any, group: Group, table: Mapping[str, NDArray[Any]], metrics: Sequence[str], look: Style, unit: float
) -> None:
    tokens = _from_start(table["cumulative_effective_tokens"] / unit, 0)
    kept, length = _from_start(table["kept_tokens"]), _from_start(table["sequence_length"])
    axes[0].fill_between(tokens, 0, kept, color=look.colour, alpha=0.25, linewidth=0, step="pre")
    axes[0].plot(tokens, length, color=look.colour, drawstyle="steps-pre")
    axes[0].set_title(group.label, fontsize=7.5, fontweight="normal", pad=2)
    for axis, metric in zip(axes[1:-1], metrics, strict=True):
        if metric in table:
            axis.plot(tokens, _from_start(table[metric]), color=look.colour, drawstyle="steps-pre")
        else:
            axis.text(0.5, 0.5, "all samples", transform=axis.transAxes, ha="center", va="center", color="#767676")
    axes[-1].plot(tokens, _from_start(table["learning_rate"] * 1e3), color=look.colour)
    for axis in axes:
        axis.locator_params(axis="y", nbins=3)
