"""The figure of quality against the amount of data: what a variant reaches at the end of runs on ever less of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from matplotlib import pyplot as plt

from dataeff.figures.part import Part, overall, seeds_text
from dataeff.figures.style import SMALL, WIDTH_INCHES, Figure, Style, legend_below
from dataeff.tables.results import BASELINE, Group, percent
from dataeff.tables.statistics import estimate

FEWEST_FRACTIONS = 3
"""A series shorter than this shows nothing that the differences to the baseline do not."""


def series(part: Part) -> dict[str, list[Group]]:
    """By variant, its groups from most to least data; empty unless some variant was run on three fractions."""
    found: dict[str, list[Group]] = {}
    for group in part.groups:
        found.setdefault(group.variant, []).append(group)
    if max(map(len, found.values())) < FEWEST_FRACTIONS:
        return {}
    return {variant: groups for variant, groups in found.items() if len(groups) > 1}


def data_figure(part: Part, lines: Mapping[str, list[Group]], styles: Mapping[str, Style]) -> Figure:
    drawing, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
    for variant, groups in lines.items():
        _draw_line(axis, groups, styles[variant])
    shown = [group for groups in lines.values() for group in groups]
    marked = _told_apart(sorted({group.data for group in shown}, reverse=True))
    axis.set_xscale("log")
    axis.set_xticks([float(data) for data in marked], [percent(data) for data in marked])
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.minorticks_off()
    axis.set_xlabel("data, and with it the effective tokens of a run")
    axis.set_ylabel(f"held-out loss ({part.words.loss_unit})")
    text = "One point a data fraction"
    if BASELINE in lines:
        best = estimate([overall(result) for result in lines[BASELINE][0].results]).mean
        axis.axhline(best, color="black", linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
        text += (
            f"; the dashed line is the baseline on {percent(lines[BASELINE][0].data)}, which a variant that crosses it "
            "reaches with less"
        )
    legend_below(drawing, list(lines), styles)
    return Figure(
        part.name("loss_vs_data"),
        part.title("Held-out loss by amount of data"),
        f"Loss over all held-out text at the end of training ({part.words.loss_unit}), of the variants that were run "
        f"on several data fractions. {text}. {seeds_text(shown, 'point')}",
        drawing,
    )


def _told_apart(fractions: list[Fraction]) -> list[Fraction]:
    """Those whose labels do not run into the next larger one's on a logarithmic axis."""
    nearest = 0.055 * math.log(fractions[0] / fractions[-1])
    kept = fractions[:1]
    for data in fractions[1:]:
        if math.log(kept[-1] / data) > nearest:
            kept.append(data)
    return kept


def _draw_line(axis: Any, groups: list[Group], look: Style) -> None:
    found = [estimate([overall(result) for result in group.results]) for group in groups]
    data = [float(group.data) for group in groups]
    axis.plot(data, [value.mean for value in found], **look.course)
    for place, value in zip(data, found, strict=True):
        if value.half_width is not None:
            axis.errorbar(place, value.mean, yerr=value.half_width, color=look.colour, capsize=2, linewidth=0.9)
