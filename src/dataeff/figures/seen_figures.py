"""Figures of what a curriculum has shown to a model: difficulty over training and the corpus's, samples as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib import pyplot as plt

from dataeff.figures.part import Part
from dataeff.figures.seen import FEWEST_SAMPLES, MOST_SAMPLES, MetricFacts, Seen, SeenCourse
from dataeff.figures.style import SMALL, WIDTH_INCHES, Figure, Style, token_unit

COLUMNS = 3
MOST_PANELS = 12
CORPUS = "#8C8C8C"
SEVERAL = "#444444"
"""Of the legend, where panels differ in colour."""
MONOSPACE = "DejaVu Sans Mono"
CHARACTERS_A_LINE = 98
LINE_INCHES = 0.135
TEXT_FROM = 0.135
"""Of the figure's width: the column of ranks and values is left of it."""


def seen_figure(part: Part, seen: Seen, styles: Mapping[str, Style]) -> Figure | None:
    """One panel a plan and metric; None of a family without a curriculum that chooses samples."""
    courses = [course for course in seen.courses if course.family == part.family]
    if not courses:
        return None
    shown = courses[:MOST_PANELS]
    facts = {metric.metric: metric for metric in seen.metrics if metric.family == part.family}
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    height = (2.0 if columns > 1 else 2.8) * rows + 0.5
    drawing, axes = plt.subplots(rows, columns, figsize=(WIDTH_INCHES, height), squeeze=False, layout="constrained")
    for axis, course in zip(axes.flat, shown, strict=False):
        alike = [other for other in shown if other.metric == course.metric]
        _draw(axis, course, facts[course.metric], styles[course.variants[0]], alike)
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    _legend(drawing, styles[shown[0].variants[0]].colour if len(shown) == 1 else SEVERAL)
    left_out = f" {len(courses) - len(shown)} further curricula are not drawn." if len(courses) > len(shown) else ""
    return Figure(
        part.name("seen"),
        part.title("What the curriculum saw"),
        "Difficulty of the samples that training drew, by the metric that they are chosen by: the line is the median, "
        f"the band runs from the 10th to the 90th percentile, over {FEWEST_SAMPLES} to {MOST_SAMPLES} samples at each "
        "place. Grey: the same of all training samples, which a run without a curriculum draws from. Read from the "
        "sample order of one run a variant, at its largest data fraction; variants that saw the same share a panel."
        + left_out,
        drawing,
    )


def _draw(axis: Any, course: SeenCourse, facts: MetricFacts, look: Style, alike: Sequence[SeenCourse]) -> None:
    unit, word = token_unit(course.points[-1].effective_tokens)
    tokens = np.array([point.effective_tokens for point in course.points]) / unit
    low, median, high = (
        np.array([getattr(point, name) for point in course.points]) for name in ("low", "median", "high")
    )
    axis.axhspan(facts.corpus.low, facts.corpus.high, color=CORPUS, alpha=0.25, linewidth=0, zorder=0)
    axis.axhline(facts.corpus.median, color=CORPUS, linewidth=1.1, linestyle=(0, (4, 2)), zorder=1)
    for edge in (facts.corpus.low, facts.corpus.high):  # beside a variant whose colour is grey, too
        axis.axhline(edge, color=CORPUS, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
    axis.fill_between(tokens, low, high, color=look.colour, alpha=0.3, linewidth=0)
    axis.plot(tokens, median, color=look.colour, linewidth=1.6)
    values = [value for other in alike for point in other.points for value in (point.low, point.high)]
    values += [facts.corpus.low, facts.corpus.high]
    margin = 0.06 * max(max(values) - min(values), 1e-9)
    axis.set_ylim(min(values) - margin, max(values) + margin)
    axis.set_xlim(left=0)
    names = (
        course.variants[0] if len(course.variants) == 1 else f"{course.variants[0]} and {len(course.variants) - 1} more"
    )
    axis.set_title(names)
    axis.set_ylabel(course.metric)
    axis.set_xlabel(f"effective tokens ({word})")
    axis.locator_params(axis="x", nbins=4)
    axis.locator_params(axis="y", nbins=5)


def _legend(drawing: Any, colour: str) -> None:
    handles = [
        plt.Line2D([], [], color=colour, linewidth=1.6, label="seen: median"),
        plt.Rectangle((0, 0), 1, 1, color=colour, alpha=0.3, linewidth=0, label="seen: 10th to 90th percentile"),
        plt.Line2D([], [], color=CORPUS, linewidth=1.1, linestyle=(0, (4, 2)), label="corpus: median"),
        plt.Rectangle((0, 0), 1, 1, color=CORPUS, alpha=0.25, linewidth=0, label="corpus: 10th to 90th percentile"),
    ]
    drawing.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.4)


def samples_figure(part: Part, seen: Seen) -> Figure | None:
    """The easiest, a middling and the hardest sample by each metric as text; None without texts."""
    metrics = [metric for metric in seen.metrics if metric.family == part.family and metric.shown]
    if not metrics:
        return None
    lines = [line for metric in metrics for line in _lines(metric)][:-1]
    height = LINE_INCHES * (len(lines) + 1)
    drawing = plt.figure(figsize=(WIDTH_INCHES, height))
    for number, (left, text, bold) in enumerate(lines):
        place = 1 - LINE_INCHES * (number + 1) / height
        weight = "bold" if bold else "normal"
        drawing.text(0.01, place, left, fontsize=SMALL, fontweight=weight, va="baseline", parse_math=False)
        drawing.text(TEXT_FROM, place, text, fontsize=SMALL, family=MONOSPACE, va="baseline", parse_math=False)
    return Figure(
        part.name("samples"),
        part.title("Easy and hard samples"),
        "Training samples from the corpus by difficulty: the easiest one, the one that 1% are not harder than, the "
        "median, the one that 99% are not harder than and the hardest one, with their values. The beginning of each is "
        "shown; ⏎ is the end of a line, · a character that the font of this figure lacks.",
        drawing,
    )


def _lines(metric: MetricFacts) -> list[tuple[str, str, bool]]:
    """Left column, text, and whether it is a heading; a metric's ends with an empty line."""
    found = [(metric.metric, "", True)]
    for sample in metric.shown:
        wrapped = textwrap.wrap(_drawable(sample.text), CHARACTERS_A_LINE) or ["(no text)"]
        found.append((f"{sample.rank}: {sample.value:,}", wrapped[0], False))
        found += [("", line, False) for line in wrapped[1:]]
    return [*found, ("", "", False)]


def _drawable(text: str) -> str:
    """Runs of spaces as one, and a point for what the font has no glyph for."""
    font = font_manager.get_font(font_manager.findfont(MONOSPACE))
    shown = "".join(character if font.get_char_index(ord(character)) else "·" for character in text)
    return " ".join(shown.split())
