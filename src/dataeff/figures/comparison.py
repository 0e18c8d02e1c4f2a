"""Figures of differences to the baseline: over all held-out text, and domain by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from matplotlib import pyplot as plt

from dataeff.figures.style import WIDTH_INCHES, Figure, Style, legend_below
from dataeff.tables.quality import differences
from dataeff.tables.results import Group, RunResult, domains_of, percent
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, estimate

Panel = tuple[str, Fraction]


def _overall(result: RunResult) -> float:
    return result.heldout.loss


def _in_domain(domain: str, result: RunResult) -> float:
    return result.domains[domain].bits_per_byte


def compared(groups: Sequence[Group], runs: list[RunResult]) -> dict[Panel, list[Group]]:
    """By family and data fraction, the groups that have a baseline to differ from."""
    panels: dict[Panel, list[Group]] = {}
    for group in groups:
        if differences(group, runs, group.data, _overall) is not None:
            panels.setdefault((group.family, group.data), []).append(group)
    return panels


def _seeds_text(panels: Mapping[Panel, Sequence[Group]]) -> str:
    counts = sorted({len(group.results) for members in panels.values() for group in members})
    seeds = " or ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    if counts[0] < SEEDS_FOR_A_CLAIM:
        return (
            f"{seeds} a dot: no interval can be given where there are fewer than {SEEDS_FOR_A_CLAIM}, and no "
            "claim is made."
        )
    return f"{seeds} a dot, with the 95% t interval of the paired differences; small dots are single seeds."


def quality_figure(
    panels: Mapping[Panel, Sequence[Group]], runs: list[RunResult], styles: Mapping[str, Style]
) -> Figure:
    """Dots left of the line: better than the baseline of the same data and seed."""
    sizes = [len(members) for members in panels.values()]
    drawing, axes = plt.subplots(
        len(panels),
        1,
        figsize=(WIDTH_INCHES * 0.8, 0.26 * sum(sizes) + 0.55 * len(sizes) + 0.4),
        height_ratios=[size + 0.6 for size in sizes],
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, ((family, data), members) in zip(axes[:, 0], panels.items(), strict=True):
        axis.set_title(f"{family}, {percent(data)} data")
        for row, group in enumerate(members):
            _quality_dot(axis, row, differences(group, runs, group.data, _overall) or [], styles[group.variant])
        axis.set_yticks(range(len(members)), [group.variant for group in members])
        axis.set_ylim(len(members) - 0.4, -0.6)
        axis.axvline(0, color="black", linewidth=1)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.12)
    axes[-1, 0].set_xlabel("held-out loss less the baseline's (nats/token); left is better")
    return Figure(
        "quality_delta",
        "Held-out loss against the baseline",
        "Difference in loss over all held-out text, at the end of training, to the baseline of the same data fraction "
        f"and seed. {_seeds_text(panels)}",
        drawing,
    )


def _quality_dot(axis: Any, row: int, values: Sequence[float], look: Style) -> None:
    found = estimate(values)
    if len(values) > 1:
        axis.plot(values, [row] * len(values), look.marker, color=look.colour, alpha=0.4, markersize=3, linestyle="")
    if found.half_width is not None:
        axis.errorbar(found.mean, row, xerr=found.half_width, color=look.colour, capsize=2.5, linewidth=1.2)
    axis.plot(found.mean, row, look.marker, color=look.colour, markersize=6)
    axis.annotate(
        f"{found.mean:+.3f}".replace("-", "−"),
        (1.01, row),
        xycoords=("axes fraction", "data"),
        va="center",
        annotation_clip=False,
        fontsize=7.5,
    )


def domain_figure(
    panels: Mapping[Panel, Sequence[Group]], runs: list[RunResult], styles: Mapping[str, Style]
) -> Figure:
    """One row a domain; the variants of a row stand under each other in the grid's order."""
    domains = domains_of(runs)
    widest = max(len(members) for members in panels.values())
    drawing, axes = plt.subplots(
        1,
        len(panels),
        figsize=(WIDTH_INCHES, len(domains) * (0.10 * widest + 0.16) + 1.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, ((family, data), members) in zip(axes[0], panels.items(), strict=True):
        axis.set_title(f"{family}, {percent(data)} data")
        axis.axvline(0, color="black", linewidth=1)
        axis.grid(axis="y", visible=False)
        for row, domain in enumerate(domains):
            if row % 2:
                axis.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", zorder=0)
            for place, group in enumerate(members):
                offset = 0.78 * ((place + 0.5) / len(members) - 0.5)
                values = differences(group, runs, group.data, partial(_in_domain, domain)) or []
                _domain_dot(axis, row + offset, values, styles[group.variant])
        axis.set_xlabel("bits per byte less the baseline's")
        axis.locator_params(axis="x", nbins=5)
    axes[0, 0].set_yticks(range(len(domains)), domains)
    axes[0, 0].set_ylim(len(domains) - 0.5, -0.5)
    shown = list(dict.fromkeys(group.variant for groups in panels.values() for group in groups))
    legend_below(drawing, shown, dict(styles))
    return Figure(
        "heldout_by_domain",
        "Differences by domain",
        "Held-out bits per byte of each domain less those of the baseline of the same data fraction and seed; left is "
        f"better. {_seeds_text(panels)}",
        drawing,
    )


def _domain_dot(axis: Any, place: float, values: Sequence[float], look: Style) -> None:
    found = estimate(values)
    if found.half_width is not None:
        axis.errorbar(found.mean, place, xerr=found.half_width, color=look.colour, linewidth=0.9)
    axis.plot(found.mean, place, look.marker, color=look.colour)
