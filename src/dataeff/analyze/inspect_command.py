"""`dataeff inspect`: prints what a difficulty index says, and draws it as a picture if asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.inspect import (
    Bins,
    Found,
    find_index,
    find_places,
    histogram,
    percentile_table,
    sample_lines,
    value_at,
)
from dataeff.analyze.metrics import METRICS
from dataeff.errors import DataeffError
from dataeff.files import atomic_path

DRAWN_BINS = 80
MARKED_PERCENTILES = (1, 10, 50, 90, 99)
LABEL_WIDTH = 0.06
"""Of the axis."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of an index (native or DeepSpeed's), or of several")
    parser.add_argument("--metric", help="which one, where the folder holds several")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer folder: shows samples as text")
    parser.add_argument("--samples", type=int, default=3, help="easiest and hardest samples to show (default 3)")
    parser.add_argument("--png", type=Path, help="writes the histogram there, too")
    parser.add_argument("--samples-dir", type=Path, help="sample index folder, where the analysis does not know it")
    parser.add_argument("--tokens", type=Path, nargs="+", default=[], help="prefixes of its .bin/.idx files")


def run(args: argparse.Namespace) -> None:
    if args.samples < 0:
        raise DataeffError(f"--samples {args.samples}: 0 or more")
    found = find_index(args.folder, args.metric)
    places = find_places(found, args.samples_dir, args.tokens)
    index = found.index
    print(f"{index.metric}: {found.about}")
    print(f"{len(index):,} samples, values {value_at(index, 0):,} to {value_at(index, 100):,}, {found.form} form")
    print(f"\nThe value that a share of the samples does not exceed:\n\n{percentile_table([index])}")
    print(f"\nShare of the samples per range of {index.metric}:\n\n{histogram(index)}\n")
    if args.samples:
        for line in sample_lines(found, places, args.tokenizer, args.samples):
            print(line)
    if args.png:
        save_png(found, args.png)
        print(f"written: {args.png}")


def save_png(found: Found, path: Path) -> None:
    """The histogram, with the percentiles at which curricula begin and end."""
    from matplotlib import pyplot as plt

    from dataeff.figures import style

    index, bins = found.index, Bins.of(found.index, DRAWN_BINS)
    with plt.rc_context(style.SETTINGS):
        drawing, axis = plt.subplots(figsize=(style.WIDTH_INCHES * 0.8, 2.6), layout="constrained")
        shares = 100 * bins.counts / len(index)
        axis.bar(bins.edges[:-1], shares, np.diff(bins.edges), align="edge", color=style.COLOURS[0], alpha=0.75)
        axis.set_ylim(0, float(shares.max()) * 1.18)
        _mark_percentiles(axis, index)
        title = f"{index.metric} of {len(index):,} samples"
        outside = (bins.below + bins.above) / len(index)
        axis.set_title(title if outside == 0 else f"{title} (tails of {outside:.1%} not drawn)", pad=8)
        axis.set_xlabel(f"{index.metric} ({METRICS[index.metric].unit})" if index.metric in METRICS else index.metric)
        axis.set_ylabel("samples (%)")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="x", visible=False)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, format="png", dpi=style.PNG_DOTS_PER_INCH, metadata={"Software": None})
        plt.close(drawing)


def _mark_percentiles(axis: Any, index: DifficultyIndex) -> None:
    """A line at each of their values; those too near to each other for a label of their own share one."""
    low, high = axis.get_xlim()
    groups: list[tuple[int, list[int]]] = []
    for percentile in MARKED_PERCENTILES:
        value = value_at(index, percentile)
        axis.axvline(value, color="black", linewidth=0.9, linestyle=(0, (3, 2)))
        if groups and value - groups[-1][0] < LABEL_WIDTH * (high - low):
            groups[-1][1].append(percentile)
        else:
            groups.append((value, [percentile]))
    for value, percentiles in groups:
        left = value > (low + high) / 2
        axis.annotate(
            "–".join(str(percentile) for percentile in dict.fromkeys((percentiles[0], percentiles[-1]))) + "%",
            (value, 0.99),
            (-2 if left else 2, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            fontsize=7.5,
        )
