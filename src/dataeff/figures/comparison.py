"""Figures of differences to the baseline of the same data fraction: over all held-out text, and domain by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

from dataeff.figures.part import Part, by_data, in_domain, overall, seeds_text
from dataeff.figures.style import COLOURS, SMALL, WIDTH_INCHES, Figure, Style
from dataeff.tables.quality import differences
from dataeff.tables.results import Group, domains_of, percent
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, estimate

ROW_INCHES = 0.21
DOMAINS_WITH_NUMBERS = 8
"""Cells of more domains than this are too narrow for a number at the smallest size of text."""
BETTER_TO_WORSE = LinearSegmentedColormap.from_list("better_to_worse", [COLOURS[0], "#FFFFFF", COLOURS[1]])


def compared(part: Part) -> list[Group]:
    """The groups that have a baseline to differ from."""
    return [group for group in part.groups if differences(group, part.runs, group.data, overall) is not None]


def _signed(value: float) -> str:
    text = f"{value:+.3f}".replace("-", "−")
    return "0.000" if float(text[1:]) == 0 else text


@dataclass(frozen=True)
class _Line:
    """One line of a figure: a group, or the heading of those below it (group None)."""

    text: str
    group: Group | None
    ruled: bool = False


def _lines(groups: Sequence[Group]) -> list[_Line]:
    """From top to bottom, a heading for each data fraction and its variants; a fraction with one variant is one line.

    A rule stands above a heading and below the last of its variants.
    """
    lines: list[_Line] = []
    headed = False
    for data, members in by_data(groups).items():
        if len(members) == 1:
            lines.append(_Line(f"{members[0].variant}, {percent(data)} data", members[0], ruled=headed))
        else:
            lines.append(_Line(f"{percent(data)} data", None, ruled=bool(lines)))
            lines += [_Line(group.variant, group) for group in members]
        headed = len(members) > 1
    return lines


def _name_lines(axis: Any, lines: Sequence[_Line]) -> None:
    axis.set_yticks(range(len(lines)), [line.text for line in lines])
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    for label, line in zip(axis.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.group is None else "normal")


def quality_figure(part: Part, groups: Sequence[Group], styles: Mapping[str, Style]) -> Figure:
    """Dots left of the line: better than the baseline of the same data and seed."""
    lines = _lines(groups)
    drawing, axis = plt.subplots(figsize=(WIDTH_INCHES, ROW_INCHES * len(lines) + 0.7), layout="constrained")
    for row, line in enumerate(lines):
        if line.group is not None:
            values = differences(line.group, part.runs, line.group.data, overall) or []
            _quality_dot(axis, row, values, styles[line.group.variant])
        if line.ruled:
            axis.axhline(row - 0.5, color="#BBBBBB", linewidth=0.6)
    _name_lines(axis, lines)
    axis.axvline(0, color="black", linewidth=1)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.08)
    axis.set_xlabel(f"held-out loss less the baseline's ({part.words.loss_unit}); left is better")
    text = seeds_text(groups, "dot")
    if min(len(group.results) for group in groups) >= SEEDS_FOR_A_CLAIM:
        text += " Bars are 95% t intervals of the paired differences, small dots single seeds."
    return Figure(
        part.name("quality_delta"),
        part.title("Held-out loss against the baseline"),
        "Difference in loss over all held-out text, at the end of training, to the baseline of the same data fraction "
        f"and seed, in {part.words.loss_unit}. {text}",
        drawing,
    )


def _quality_dot(axis: Any, row: int, values: Sequence[float], look: Style) -> None:
    found = estimate(values)
    if len(values) > 1:
        axis.plot(values, [row] * len(values), **look.marks | {"alpha": 0.4, "markersize": 3})
    if found.half_width is not None:
        axis.errorbar(found.mean, row, xerr=found.half_width, color=look.colour, capsize=2.5, linewidth=1.2)
    axis.plot(found.mean, row, **look.marks, markersize=6)
    axis.annotate(
        _signed(found.mean),
        (1.01, row),
        xycoords=("axes fraction", "data"),
        va="center",
        annotation_clip=False,
        fontsize=7.5,
    )


def domain_figure(part: Part, groups: Sequence[Group]) -> Figure:
    """One row a variant and data fraction, one column a domain, as shades; numbers in them where they fit."""
    lines, domains = _lines(groups), domains_of(part.runs)
    means = np.full((len(lines), len(domains)), np.nan)
    sure = np.zeros(means.shape, dtype=bool)
    for row, group in ((row, line.group) for row, line in enumerate(lines) if line.group is not None):
        for column, domain in enumerate(domains):
            found = estimate(differences(group, part.runs, group.data, partial(in_domain, domain)) or [])
            means[row, column] = found.mean
            sure[row, column] = found.half_width is not None and abs(found.mean) > found.half_width
    drawing, axis = plt.subplots(figsize=(WIDTH_INCHES, ROW_INCHES * len(lines) + 1.6), layout="constrained")
    limit = max(float(np.nanmax(np.abs(means))), 1e-6)
    image = axis.imshow(means, cmap=BETTER_TO_WORSE, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    if len(domains) <= DOMAINS_WITH_NUMBERS:
        _write_numbers(axis, means, sure, limit)
    _name_lines(axis, lines)
    axis.xaxis.tick_top()
    axis.set_xticks(range(len(domains)), domains, rotation=30, ha="left", rotation_mode="anchor")
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    bar = drawing.colorbar(image, ax=axis, orientation="horizontal", fraction=0.05, aspect=45, pad=0.02)
    bar.set_label(f"{part.words.domain_unit} less the baseline's; blue is better")
    bar.outline.set_visible(False)
    text = seeds_text(groups, "cell")
    if sure.any() and len(domains) <= DOMAINS_WITH_NUMBERS:
        text += " Bold: the 95% t interval leaves out zero, as that of one cell in twenty would without any difference."
    return Figure(
        part.name("heldout_by_domain"),
        part.title("Differences by domain"),
        f"Held-out {part.words.domain_measure} of each domain, less that of the baseline of the same data fraction and "
        f"seed ({part.words.domain_unit}); below zero is better. {text}",
        drawing,
    )


def _write_numbers(axis: Any, means: Any, sure: Any, limit: float) -> None:
    for (row, column), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            axis.text(
                column,
                row,
                _signed(mean),
                ha="center",
                va="center",
                fontsize=SMALL,
                fontweight="bold" if sure[row, column] else "normal",
                color="white" if abs(mean) > 0.6 * limit else "black",
            )
