"""Figures of the course of training: the held-out probe's losses, by effective tokens and by training time.

A grid may hold many data fractions and many variants. A panel shows one fraction and at most six variants, the
baseline in each; up to three panels stand side by side, each whole and enlarged, and more are wrapped into rows, one
small panel each, by the rule of `shown_fractions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.transforms import ScaledTranslation

from dataeff.figures.part import Part, by_data, variants_of
from dataeff.figures.probes import Clock, Course, Probes, course_of
from dataeff.figures.style import SMALL, WIDTH_INCHES, Figure, Style, legend_below, time_unit, token_unit
from dataeff.tables.results import BASELINE, Group, percent

SIDE_BY_SIDE = 3
MOST_PANELS = 12
MOST_VARIANTS = 6
"""On one axis, the baseline among them: more lines are not told apart."""
MARKED_POINTS = 6
BELOW_AXIS_INCHES = 0.42
"""Where a panel's own legend begins: below the numbers and the name of the axis."""
IN_TWO_COLUMNS = 12
"""Characters of the longest name in a legend of two columns under one small panel."""
ABOUT_AVERAGES = (
    " A large mark apart from its line: the average of weights that the variant exports, on the same probe; the line "
    "is of the weights in training."
)
_WORDS: dict[Clock, str] = {"effective_tokens": "effective tokens", "training_seconds": "training time"}


@dataclass(frozen=True)
class Panel:
    """What one axis shows; `place` tells it apart from others of the same data fraction."""

    data: Fraction
    courses: list[Course]
    place: str = ""

    @property
    def title(self) -> str:
        return f"{percent(self.data)} data{self.place}"

    @property
    def end(self) -> float:
        return max(float(course.place[-1]) for course in self.courses)


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


def panels_of(groups: Sequence[Group], probes: Mapping[str, Probes], clock: Clock) -> list[Panel]:
    """Of the fractions that fit: their variants in the grid's order, those of one fraction spread over panels."""
    known = [(group, course) for group in groups if (course := course_of(group, probes, clock)) is not None]
    fractions = shown_fractions([group for group, _ in known], MOST_PANELS - 1)
    panels: list[Panel] = []
    for data in fractions:
        parts = _spread([course for group, course in known if group.data == data])
        if panels and len(panels) + len(parts) > MOST_PANELS - 1:
            continue
        places = [f" ({number} of {len(parts)})" for number in range(1, len(parts) + 1)] if len(parts) > 1 else [""]
        panels += [Panel(data, part, place) for part, place in zip(parts, places, strict=True)]
    return panels


def _spread(courses: Sequence[Course]) -> list[list[Course]]:
    """About equally many on each panel, and the baseline on all."""
    if len(courses) <= MOST_VARIANTS:
        return [list(courses)]
    baseline = [course for course in courses if course.variant == BASELINE]
    others = [course for course in courses if course.variant != BASELINE]
    count = -(-len(others) // (MOST_VARIANTS - len(baseline)))
    ends = [round(number * len(others) / count) for number in range(count + 1)]
    return [baseline + others[first:last] for first, last in pairwise(ends)]


def loss_figure(part: Part, probes: Mapping[str, Probes], styles: Mapping[str, Style]) -> Figure:
    """By effective tokens, which every run knows."""
    figure = course_figure(part, probes, styles, "effective_tokens")
    assert figure is not None
    return figure


def course_figure(part: Part, probes: Mapping[str, Probes], styles: Mapping[str, Style], clock: Clock) -> Figure | None:
    """Up to three panels: above the whole course, below its second half, where variants part. None without any."""
    groups = part.groups
    panels = panels_of(groups, probes, clock)
    if not panels:
        return None
    draw = _side_by_side if len(panels) <= SIDE_BY_SIDE else _wrapped
    drawing = draw(panels, styles, clock)
    drawing.supylabel(f"held-out loss ({part.words.loss_unit})", fontsize=8)
    if not any(panel.place for panel in panels):
        shown = {course.variant for panel in panels for course in panel.courses}
        legend_below(drawing, [name for name in variants_of(groups, groups) if name in shown], styles)
    return Figure(
        part.name(f"loss_vs_{clock}" if clock == "effective_tokens" else "loss_vs_training_time"),
        part.title(f"Held-out loss by {_WORDS[clock]}"),
        f"{part.words.probe} ({part.words.loss_unit}), {_about(clock)} {_about_lines(groups)} A curriculum or token "
        "dropping trains on an easier task early on, so that only the end of a run compares models."
        + _about_panels(panels)
        + _what_is_left_out(groups, probes, panels, clock)
        + (
            ABOUT_AVERAGES
            if any(course.averaged_loss is not None for panel in panels for course in panel.courses)
            else ""
        ),
        drawing,
    )


def _about(clock: Clock) -> str:
    if clock == "effective_tokens":
        return (
            "against the effective (layer-averaged) tokens trained on: variants at one place on the axis have cost "
            "about the same compute."
        )
    return (
        "against the time spent in training steps, probes and checkpoints not counted. It is of one machine with "
        "whatever ran beside the run; runs of one figure compare only where nothing did."
    )


def _about_lines(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.results) for group in groups})
    if counts == [1]:
        return "One run a line: one seed."
    return (
        f"A line is the mean over {' or '.join(map(str, counts))} seeds, the band around it runs from their lowest to "
        "their highest."
    )


def _about_panels(panels: Sequence[Panel]) -> str:
    text = ""
    if len(panels) > SIDE_BY_SIDE:
        text += " The first panel is of a whole run, the others are of the second half, each with scales of its own."
    if any(panel.place for panel in panels):
        text += f" More than {MOST_VARIANTS} variants are spread over panels; the {BASELINE} is in each."
    return text


def _what_is_left_out(
    groups: Sequence[Group], probes: Mapping[str, Probes], panels: Sequence[Panel], clock: Clock
) -> str:
    without = [group.label for group in groups if course_of(group, probes, clock) is None]
    shown = {panel.data for panel in panels}
    timeless = {group.data for group in groups if group.label in without}
    left_out = [percent(data) for data in by_data(groups) if data not in shown | timeless]
    text = f" Data fractions with the fewest variants are not drawn: {', '.join(left_out)}." if left_out else ""
    if without:
        text += f" Not drawn, since their runs did not note the time of each probe: {', '.join(without)}."
    return text


# --- drawing -------------------------------------------------------------------------------------------------


def _side_by_side(panels: Sequence[Panel], styles: Mapping[str, Style], clock: Clock) -> Any:
    drawing, axes = plt.subplots(
        2,
        len(panels),
        figsize=(WIDTH_INCHES, 5.6 + _legend_inches(panels)),
        height_ratios=(1, 1.5),
        squeeze=False,
        layout="constrained",
    )
    for column, panel in enumerate(panels):
        _whole_run(axes[0, column], panel, styles, clock)
        _second_half(axes[1, column], panel, panels, styles, clock)
        axes[0, column].set_title(f"{panel.title}: whole run")
        axes[1, column].set_title("second half, enlarged")
        axes[0, column].set_xlabel("")
        _own_legend(axes[1, column], panel, panels, styles)
    return drawing


def _wrapped(panels: Sequence[Panel], styles: Mapping[str, Style], clock: Clock) -> Any:
    """The first panel whole, then the second half of each."""
    rows = -(-(1 + len(panels)) // SIDE_BY_SIDE)
    height = (1.95 + _legend_inches(panels)) * rows + 0.4
    drawing, axes = plt.subplots(
        rows, SIDE_BY_SIDE, figsize=(WIDTH_INCHES, height), squeeze=False, layout="constrained"
    )
    first, *others = axes.flat
    _whole_run(first, panels[0], styles, clock)
    first.set_title(f"{panels[0].title}: whole run")
    _own_legend(first, panels[0], panels, styles)
    for axis, panel in zip(others, panels, strict=False):
        _second_half(axis, panel, panels, styles, clock)
        axis.set_title(panel.title)
        _own_legend(axis, panel, panels, styles)
    for axis in others[len(panels) :]:
        axis.remove()
    return drawing


def _legend_columns(panel: Panel) -> int:
    return 2 if max(len(course.variant) for course in panel.courses) <= IN_TWO_COLUMNS else 1


def _legend_inches(panels: Sequence[Panel]) -> float:
    """What the longest of the panels' own legends takes; they have some where they show different variants."""
    if not any(panel.place for panel in panels):
        return 0.0
    return 0.13 * max(-(-len(panel.courses) // _legend_columns(panel)) for panel in panels) + 0.14


def _own_legend(axis: Any, panel: Panel, panels: Sequence[Panel], styles: Mapping[str, Style]) -> None:
    if not any(other.place for other in panels):
        return
    handles = [
        plt.Line2D([], [], label=course.variant, **styles[course.variant].course, markersize=3.5)
        for course in panel.courses
    ]
    axis.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        bbox_transform=axis.transAxes + ScaledTranslation(0, -BELOW_AXIS_INCHES, axis.figure.dpi_scale_trans),
        borderaxespad=0,
        ncols=_legend_columns(panel),
        fontsize=SMALL,
        handlelength=2.6,
        labelspacing=0.25,
        columnspacing=1.0,
        borderpad=0,
    )


def _unit(clock: Clock, largest: float) -> tuple[float, str]:
    return token_unit(largest) if clock == "effective_tokens" else time_unit(largest)


def _whole_run(axis: Any, panel: Panel, styles: Mapping[str, Style], clock: Clock) -> float:
    """The scale of the axis."""
    unit, word = _unit(clock, panel.end)
    for course in panel.courses:
        look, place = styles[course.variant], course.place / unit
        every = max(1, -(-len(place) // MARKED_POINTS))
        # From the end backwards, so that the last point, the one that counts, has its mark.
        axis.plot(place, course.mean, **look.course, markersize=3.5, markevery=((len(place) - 1) % every, every))
        if (course.high > course.low).any():
            axis.fill_between(place, course.low, course.high, color=look.colour, alpha=0.18, linewidth=0)
        if course.averaged_loss is not None:
            axis.plot(place[-1], course.averaged_loss, **look.marks, markersize=7, zorder=6)
    axis.set_xlabel(f"{_WORDS[clock]} ({word})")
    axis.locator_params(axis="x", nbins=5)
    axis.locator_params(axis="y", nbins=6)
    return unit


def _second_half(axis: Any, panel: Panel, panels: Sequence[Panel], styles: Mapping[str, Style], clock: Clock) -> None:
    """Enlarged to what panels of its data fraction have there, so that these can be compared; by time, from the middle
    of the fastest run.
    """
    unit = _whole_run(axis, panel, styles, clock)
    alike = [other for other in panels if other.data == panel.data]
    courses = [course for other in alike for course in other.courses]
    start, end = min(float(course.place[-1]) for course in courses) / 2, max(other.end for other in alike)
    late: list[Any] = []
    for course in courses:
        late += [edge[course.place >= start] for edge in (course.low, course.high)]
        late += [np.array([course.averaged_loss])] if course.averaged_loss is not None else []
    values = np.concatenate(late)
    margin = 0.05 * max(float(values.max() - values.min()), 1e-3)
    axis.set_xlim(start / unit, end * 1.02 / unit)
    axis.set_ylim(values.min() - margin, values.max() + margin)


def objectives_figure(part: Part, probes: Mapping[str, Probes], styles: Mapping[str, Style]) -> Figure:
    """The two things that a masked model learns, of the fraction with the most data: masked tokens, and the order of
    two segments.
    """
    data, groups = next(iter(by_data(part.groups).items()))
    drawing, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    clock: Clock = "effective_tokens"
    courses = [course for group in groups if (course := course_of(group, probes, clock)) is not None]
    unit = _whole_run(left, Panel(data, courses), styles, clock)
    for group in groups:
        found = [probes[result.run.name] for result in group.results]
        known = [(probe.effective_tokens / unit, probe.order_accuracy) for probe in found]
        shares = [accuracy for _, accuracy in known if accuracy is not None]
        if len(shares) == len(known):
            count = min(map(len, shares))
            right_percent = 100 * np.mean([share[-count:] for share in shares], axis=0)
            right.plot(known[0][0][-count:], right_percent, **styles[group.variant].course, markersize=3.5)
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
        f"knows whether they were swapped; half is chance. {_about_lines(groups)} The probe has few pairs, so the "
        "right side moves in steps.",
        drawing,
    )
