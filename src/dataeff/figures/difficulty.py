"""The figure of how hard the samples are: each selection metric's distribution over the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.part import WORDS
from dataeff.figures.style import COLOURS, SMALL, WIDTH_INCHES, Figure
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec

MARKED_PERCENTILES = (1, 10, 50, 90, 99)
PLOTTED_SAMPLES = 200_000
BINS = 80
IN_ONE_COLUMN = 2
LABEL_INCHES = 0.3

Indexes = dict[tuple[FamilyName, str], Path]


def selection_indexes(spec: GridSpec, data: Path) -> Indexes:
    """Family and metric -> the folder of its difficulty index, for every metric that a variant of the grid's runs
    selects by.
    """
    used = dict.fromkeys((run.family, run.variant) for run in spec.runs)
    return {
        (family, metric): data
        / spec.tokenizers[family]
        / f"{family}-{spec.models[family].sequence_length}"
        / "analyze"
        / metric
        for family, variant in used
        for metric in spec.variants[family][variant].selections
    }


def sorted_values(folder: Path) -> NDArray[np.float64]:
    """The samples' difficulties in ascending order, evenly thinned: order.npy has done the sorting."""
    arrays = {}
    for name in ("value", "order"):
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise DataeffError(f"{path}: no such file; run `analyze` of this metric again")
        arrays[name] = np.load(path, mmap_mode="r")
    every = max(1, len(arrays["order"]) // PLOTTED_SAMPLES)
    return np.asarray(arrays["value"][arrays["order"][::every]], dtype=np.float64)


def difficulty_figure(indexes: Mapping[tuple[FamilyName, str], Path]) -> Figure:
    columns = 1 if len(indexes) <= IN_ONE_COLUMN else 2
    rows = -(-len(indexes) // columns)
    drawing, axes = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH_INCHES, (2.3 if columns == 1 else 1.9) * rows),
        squeeze=False,
        layout="constrained",
    )
    several = len({family for family, _ in indexes}) > 1
    for axis, ((family, metric), folder) in zip(axes.flat, indexes.items(), strict=False):
        values = sorted_values(folder)
        shares, _, _ = axis.hist(
            values, bins=BINS, weights=np.full(len(values), 100 / len(values)), color=COLOURS[0], alpha=0.75
        )
        axis.set_ylim(0, shares.max() * 1.18)
        _mark_percentiles(axis, values, WIDTH_INCHES / columns - 0.6)
        axis.set_title(f"{WORDS[family].family}: {metric}" if several else metric, pad=8)
        axis.set_xlabel(f"{metric} of a sample")
        axis.locator_params(axis="x", nbins=6)
        axis.set_ylabel("samples (%)")
        axis.grid(axis="x", visible=False)
    for axis in axes.flat[len(indexes) :]:
        axis.remove()
    return Figure(
        "difficulty_histogram",
        "How hard the samples are",
        "Difficulty of all training samples; dashed lines mark percentiles. A curriculum by percentile starts on the "
        "samples left of its first percentile and widens its pool to the right.",
        drawing,
    )


def _mark_percentiles(axis: Any, values: NDArray[np.float64], axis_inches: float) -> None:
    """A dashed line at each; neighbours too near for a label of their own share one."""
    low, high = axis.get_xlim()
    axis.set_xlim(low, high)
    room = LABEL_INCHES / axis_inches * (high - low)
    together: list[list[tuple[int, float]]] = []
    for percentile in MARKED_PERCENTILES:
        value = float(np.percentile(values, percentile))
        axis.axvline(value, color="black", linewidth=0.9, linestyle=(0, (3, 2)))
        if together and value - together[-1][-1][1] < room:
            together[-1].append((percentile, value))
        else:
            together.append([(percentile, value)])
    for marks in together:
        left = marks[-1][1] > high - room * len(marks)
        axis.annotate(
            "–".join(str(percentile) for percentile in dict.fromkeys((marks[0][0], marks[-1][0]))) + "%",
            (marks[0 if left else -1][1], 0.99),
            (-2 if left else 2, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if left else "left",
            va="top",
            fontsize=SMALL,
        )
