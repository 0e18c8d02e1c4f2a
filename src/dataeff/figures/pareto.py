"""The figure of quality kept against tokens spent: which runs no other beats at both, and what the data saving is.

Every point is the end of fully decayed runs of their own. Quality kept, the 95% point and the saving are those of the
table `saving`; a variant on fewer amounts of data than these need has no curve here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

from dataeff.figures.part import Part, seeds_text
from dataeff.figures.style import WIDTH_INCHES, Figure, Style
from dataeff.tables.results import BASELINE, Group, RunResult
from dataeff.tables.saving import (
    COSTS,
    QUALITY_KEPT,
    Series,
    Share,
    full_baseline,
    lacking,
    quality_kept,
    quality_point,
    saving,
    series_of,
)
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, Estimate, estimate

EQUAL_TOKENS = 1.02
"""Runs whose tokens differ by less are of equal cost: one ends with the step that reaches its budget."""
APART = 0.012
"""By how much of its place a variant's points stand beside another's, so that their bars can be told apart."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TICKS_OF_A_SHORT_RANGE = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
RING = "#8C8C8C"


@dataclass(frozen=True)
class Point:
    """The end of one group's runs: its effective tokens as a share of the full baseline's, and the quality kept."""

    tokens: float
    kept: Estimate
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """A variant's points from least to most tokens; `point` keeps 95% of the quality, `whole` all of it."""

    variant: str
    points: list[Point]
    point: Share
    whole: Share | None

    @property
    def label(self) -> str:
        text = f"{self.variant}; tokens for {QUALITY_KEPT:.0%} of the quality: {_in_words(self.point)}"
        return text if self.whole is None else f"{text}; for all of it: {_in_words(self.whole)}"


def _in_words(share: Share) -> str:
    if share.value is None:
        return {"above": "not reached", "below": "below the least", "mixed": "not within reach of all seeds"}[
            share.where
        ]
    interval = "" if share.low is None or share.high is None else f" ({100 * share.low:.0f}–{100 * share.high:.0f}%)"
    return f"{share.value:.1%}{interval}"


def pareto_lines(part: Part) -> list[Line]:
    """Of every variant with enough amounts of data; empty unless the baseline itself was run on all data."""
    full = full_baseline(part.runs, part.family)
    return [_line(series, full) for series in series_of(part.runs) if not lacking(series, full)]


def _line(series: Series, full: Mapping[int, RunResult]) -> Line:
    points = [_point(group, full) for group in series.groups]
    return Line(
        series.variant,
        sorted((point for point in points if point is not None), key=lambda point: point.tokens),
        quality_point(series, full),
        None if series.variant == BASELINE else saving(series, full, COSTS["effective_tokens"]),
    )


def _point(group: Group, full: Mapping[int, RunResult]) -> Point | None:
    paired = [result for result in group.results if result.run.seed in full]
    kept = [value for result in paired if (value := quality_kept(result, full)) is not None]
    if not kept:
        return None
    cost = COSTS["effective_tokens"]
    shares = [cost(result) / cost(full[result.run.seed]) for result in paired]
    return Point(float(np.mean(shares)), estimate(kept), tuple(kept))


def front_of(lines: Sequence[Line]) -> list[Point]:
    """The points that no other one beats in quality with as many tokens or fewer, by their tokens."""
    points = [point for line in lines for point in line.points]
    return sorted((point for point in points if not any(_beats(other, point) for other in points)), key=_tokens)


def _tokens(point: Point) -> float:
    return point.tokens


def _beats(other: Point, point: Point) -> bool:
    return other.kept.mean > point.kept.mean and other.tokens <= EQUAL_TOKENS * point.tokens


def pareto_figure(part: Part, lines: Sequence[Line], styles: Mapping[str, Style]) -> Figure:
    drawing, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.7 + 0.16 * len(lines)), layout="constrained")
    for kept in (QUALITY_KEPT, 1.0):
        axis.axhline(100 * kept, color="#767676", linewidth=0.8, linestyle=(0, (3, 2)), zorder=1)
    front = front_of(lines)
    for number, line in enumerate(lines):
        beside = math.exp(APART * (number - (len(lines) - 1) / 2))
        _draw_line(axis, line, styles[line.variant], beside, front)
    _scale(axis, [point.tokens for line in lines for point in line.points])
    axis.set_ylabel(f"quality kept (% of the full {BASELINE}'s)")
    axis.secondary_yaxis("right", functions=(_to_loss, _to_quality)).set_ylabel(
        f"held-out loss less the full {BASELINE}'s ({part.words.loss_unit})"
    )
    handles = [plt.Line2D([], [], label=line.label, **styles[line.variant].course) for line in lines]
    drawing.legend(handles=handles, loc="outside lower center", ncols=1, handlelength=3.2)
    shown = [line.variant for line in lines]
    return Figure(
        part.name("pareto"),
        part.title("Quality kept against tokens spent"),
        "Each point is the end of runs whose learning rate decayed over that amount of data. Quality kept is exp(loss "
        f"of the {BASELINE} on 100% of the data less the loss) on held-out text, of the same seed; tokens are "
        "effective (layer-averaged) ones, as a share of that run's. Ringed: the Pareto front, no other point has more "
        "quality with as many tokens. Vertical marks: where a curve, read between its points, reaches "
        f"{QUALITY_KEPT:.0%} of the quality (short) and all of it (long); what is left to 100% of the tokens is the "
        "saving. Where several variants have as many tokens, they stand a little apart. "
        + _about_seeds([group for group in part.groups if group.variant in shown]),
        drawing,
    )


def _about_seeds(groups: Sequence[Group]) -> str:
    text = seeds_text(groups, "point")
    if all(len(group.results) >= SEEDS_FOR_A_CLAIM for group in groups):
        text += " Bars and numbers in brackets are 95% t intervals over seeds, small dots single seeds."
    return text


def _to_loss(percent_kept: Any) -> Any:
    return -np.log(np.maximum(np.asarray(percent_kept, dtype=np.float64), 1e-3) / 100)


def _to_quality(loss: Any) -> Any:
    return 100 * np.exp(-np.asarray(loss, dtype=np.float64))


def _draw_line(axis: Any, line: Line, look: Style, beside: float, front: Sequence[Point]) -> None:
    places = [100 * point.tokens * beside for point in line.points]
    axis.plot(places, [100 * point.kept.mean for point in line.points], **look.course)
    for place, point in zip(places, line.points, strict=True):
        if point in front:
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": RING}
            axis.plot(place, 100 * point.kept.mean, linestyle="", zorder=2, **ring)
        if len(point.seeds) > 1:
            small = look.marks | {"marker": ".", "markersize": 2.5, "alpha": 0.6}
            axis.plot([place] * len(point.seeds), [100 * kept for kept in point.seeds], **small)
        if point.kept.half_width:
            height = 100 * point.kept.half_width
            axis.errorbar(place, 100 * point.kept.mean, yerr=height, color=look.colour, capsize=2, linewidth=0.9)
    for share, kept, length in ((line.point, QUALITY_KEPT, 9), (line.whole, 1.0, 15)):
        if share is not None and share.value is not None:
            mark = {"marker": "|", "markersize": length, "markeredgewidth": 1.8}
            axis.plot(100 * share.value, 100 * kept, color=look.colour, linestyle="", zorder=6, **mark)


def _scale(axis: Any, tokens: Sequence[float]) -> None:
    """Logarithmic, with round shares, more of them where the range is short."""
    low, high = min(tokens), max(tokens)
    round_shares = TICKS if low < TICKS_OF_A_SHORT_RANGE[0] * 0.8 else TICKS_OF_A_SHORT_RANGE
    shown = [100 * tick for tick in round_shares if low * 0.95 <= tick <= high * 1.05]
    axis.set_xscale("log")
    axis.set_xticks(shown, [f"{tick:.3g}%" for tick in shown])
    axis.minorticks_off()
    axis.set_xlabel(f"effective tokens (share of the full {BASELINE}'s)")
