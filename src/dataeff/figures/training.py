"""Figures of the course of training: the held-out probe's losses by effective tokens.

A grid may hold many data fractions. Up to three stand side by side, each whole and enlarged; more are wrapped into
rows, one small panel each, by the rule of `shown_fractions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.part import Part, by_data, variants_of
from dataeff.figures.style import WIDTH_INCHES, Figure, Style, legend_below, token_unit
from dataeff.files import read_json
from dataeff.tables.results import Group, percent

SIDE_BY_SIDE = 3
MOST_PANELS = 12
ORDER_ACCURACY = "heldout_sentence_order_accuracy"
ABOUT_AVERAGES = (
    " A large mark apart from its line: the average of weights that the variant exports, on the same probe; the line "
    "is of the weights in training."
)


@dataclass(frozen=True)
class Probes:
    """The held-out probes of one run: effective tokens so far, the loss in the family's unit, and of a masked model
    the share of segment pairs whose order is told right. `averaged_loss` is that of the weights' average, if the run
    exports one.
    """

    effective_tokens: NDArray[np.float64]
    loss: NDArray[np.float64]
    order_accuracy: NDArray[np.float64] | None = None
    averaged_loss: float | None = None


def read_probes(path: Path) -> Probes:
    """The rows of a metrics.jsonl that hold a held-out loss; the last row always does."""
    try:
        with path.open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream if '"heldout_loss"' in line]
        columns = {
            name: np.array([row[name] for row in rows], dtype=np.float64)
            for name in ("effective_tokens", "heldout_loss", ORDER_ACCURACY)
            if name != ORDER_ACCURACY or any(name in row for row in rows)
        }
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; run `pretrain` of this run again") from None
    except (json.JSONDecodeError, KeyError) as error:
        raise DataeffError(f"{path}: a row cannot be read ({error!r}); run `pretrain` of this run again") from None
    if not rows:
        raise DataeffError(f"{path}: no row has a held-out loss; run `pretrain` of this run again")
    return Probes(columns["effective_tokens"], columns["heldout_loss"], columns.get(ORDER_ACCURACY))


def probes_of(part: Part, results: Path) -> dict[str, Probes]:
    """By the run's name."""
    found = {}
    for result in part.runs:
        folder = results / "pretrain" / result.run.name
        averaging = read_json(folder / "run.json").get("averaging") or {}
        found[result.run.name] = replace(
            read_probes(folder / "metrics.jsonl"), averaged_loss=averaging.get("heldout_loss")
        )
    return found


def shown_fractions(groups: Sequence[Group], most: int) -> list[Fraction]:
    """The data fractions that have panels, most data first.

    All, up to three; of more, those with two variants to compare, and if they are still more than `most`, those with
    the most variants.
    """
    members = by_data(groups)
    if len(members) <= SIDE_BY_SIDE:
        return list(members)
    several = [data for data in members if len(members[data]) > 1] or list(members)
    kept = sorted(several, key=lambda data: (-len(members[data]), -data))[:most]
    return sorted(kept, reverse=True)


def loss_figure(part: Part, probes: Mapping[str, Probes], styles: Mapping[str, Style]) -> Figure:
    """Up to three data fractions: above the whole course, below its second half, where variants part."""
    groups = part.groups
    fractions = shown_fractions(groups, MOST_PANELS - 1)
    shown = [group for group in groups if group.data in fractions]
    averaged = any(probes[result.run.name].averaged_loss is not None for group in shown for result in group.results)
    draw = _side_by_side if len(fractions) <= SIDE_BY_SIDE else _wrapped
    drawing = draw(part, by_data(shown), probes, styles)
    legend_below(drawing, variants_of(shown, groups), styles)
    return Figure(
        part.name("loss_vs_effective_tokens"),
        part.title("Held-out loss by effective tokens"),
        f"{part.words.probe} ({part.words.loss_unit}), against the effective (layer-averaged) tokens trained "
        "on: variants at one place on the axis have cost about the same compute. One line a run. A curriculum or "
        "token dropping trains on an easier task early on, so that only the end of a run compares models."
        + _what_is_left_out(groups, fractions)
        + (ABOUT_AVERAGES if averaged else ""),
        drawing,
    )


def _what_is_left_out(groups: Sequence[Group], fractions: Sequence[Fraction]) -> str:
    left_out = [percent(data) for data in by_data(groups) if data not in fractions]
    text = " Each panel has its own scales." if len(fractions) > SIDE_BY_SIDE else ""
    if left_out:
        text += f" Data fractions with the fewest variants are not drawn: {', '.join(left_out)}."
    return text


def _side_by_side(
    part: Part, panels: Mapping[Fraction, list[Group]], probes: Mapping[str, Probes], styles: Mapping[str, Style]
) -> Any:
    drawing, axes = plt.subplots(
        2, len(panels), figsize=(WIDTH_INCHES, 5.6), height_ratios=(1, 1.5), squeeze=False, layout="constrained"
    )
    for column, (data, members) in enumerate(panels.items()):
        _whole_run(axes[0, column], members, probes, styles)
        _second_half(axes[1, column], members, probes, styles)
        axes[0, column].set_title(f"{percent(data)} data: whole run")
        axes[1, column].set_title("second half, enlarged")
        axes[0, column].set_xlabel("")
    drawing.supylabel(f"held-out loss ({part.words.loss_unit})", fontsize=8)
    return drawing


def _wrapped(
    part: Part, panels: Mapping[Fraction, list[Group]], probes: Mapping[str, Probes], styles: Mapping[str, Style]
) -> Any:
    """The first fraction whole, then the second half of each."""
    rows = -(-(1 + len(panels)) // SIDE_BY_SIDE)
    drawing, axes = plt.subplots(
        rows, SIDE_BY_SIDE, figsize=(WIDTH_INCHES, 1.85 * rows + 0.4), squeeze=False, layout="constrained"
    )
    first, *others = axes.flat
    largest = next(iter(panels))
    _whole_run(first, panels[largest], probes, styles)
    first.set_title(f"{percent(largest)} data: whole run")
    for axis, (data, members) in zip(others, panels.items(), strict=False):
        _second_half(axis, members, probes, styles)
        axis.set_title(f"{percent(data)} data: second half")
    for axis in others[len(panels) :]:
        axis.remove()
    drawing.supylabel(f"held-out loss ({part.words.loss_unit})", fontsize=8)
    return drawing


def _whole_run(
    axis: Any, groups: Sequence[Group], probes: Mapping[str, Probes], styles: Mapping[str, Style]
) -> tuple[float, list[Probes]]:
    """The scale of the tokens on the axis, and what was drawn."""
    found = [probes[result.run.name] for group in groups for result in group.results]
    unit, word = token_unit(max(probe.effective_tokens[-1] for probe in found))
    for group in groups:
        for result in group.results:
            probe = probes[result.run.name]
            axis.plot(probe.effective_tokens / unit, probe.loss, **styles[group.variant].course, markersize=3.5)
            if probe.averaged_loss is not None:
                marks = styles[group.variant].marks
                axis.plot(probe.effective_tokens[-1] / unit, probe.averaged_loss, **marks, markersize=7, zorder=6)
    axis.set_xlabel(f"effective tokens ({word})")
    axis.locator_params(axis="x", nbins=5)
    axis.locator_params(axis="y", nbins=6)
    return unit, found


def _second_half(axis: Any, groups: Sequence[Group], probes: Mapping[str, Probes], styles: Mapping[str, Style]) -> None:
    unit, found = _whole_run(axis, groups, probes, styles)
    end = max(probe.effective_tokens[-1] for probe in found)
    late = np.concatenate([probe.loss[probe.effective_tokens >= end / 2] for probe in found])
    late = np.append(late, [probe.averaged_loss for probe in found if probe.averaged_loss is not None])
    margin = 0.05 * max(float(late.max() - late.min()), 1e-3)
    axis.set_xlim(end / 2 / unit, end * 1.02 / unit)
    axis.set_ylim(late.min() - margin, late.max() + margin)


def objectives_figure(part: Part, probes: Mapping[str, Probes], styles: Mapping[str, Style]) -> Figure:
    """The two things that a masked model learns, of the fraction with the most data: masked tokens, and the order of
    two segments.
    """
    data, groups = next(iter(by_data(part.groups).items()))
    drawing, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    unit, _ = _whole_run(left, groups, probes, styles)
    for group in groups:
        for result in group.results:
            probe = probes[result.run.name]
            if probe.order_accuracy is not None:
                tokens, right_percent = probe.effective_tokens / unit, 100 * probe.order_accuracy
                right.plot(tokens, right_percent, **styles[group.variant].course, markersize=3.5)
    right.axhline(50, color="#767676", linewidth=1, linestyle=(0, (3, 2)), zorder=1)
    right.annotate("chance", (1.01, 50), xycoords=("axes fraction", "data"), va="center", color="#767676")
    left.set_title("masked tokens")
    left.set_ylabel(f"held-out loss ({part.words.loss_unit})")
    right.set_title("order of two segments")
    right.set_ylabel("held-out pairs told right (%)")
    right.set_xlabel(left.get_xlabel())
    right.locator_params(axis="x", nbins=5)
    legend_below(drawing, variants_of(groups, part.groups), styles)
    return Figure(
        part.name("objectives"),
        part.title("Masked tokens and sentence order"),
        f"The two parts of what is learned, on the held-out probe during training, at {percent(data)} data. Left: "
        f"loss of the masked tokens ({part.words.loss_unit}). Right: the share of segment pairs of which the model "
        "knows whether they were swapped; half is chance. The probe has few pairs, so the right side moves in steps.",
        drawing,
    )
