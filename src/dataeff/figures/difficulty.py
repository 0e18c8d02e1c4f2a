"""The figure of how hard the samples are: each selection metric's distribution over the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.style import COLOURS, WIDTH_INCHES, Figure
from dataeff.study.specs import GridSpec

MARKED_PERCENTILES = (1, 10, 50, 90, 99)
PLOTTED_SAMPLES = 200_000
BINS = 80


def selection_indexes(spec: GridSpec, data: Path) -> dict[tuple[str, str], Path]:
    """Family and metric -> the folder of its difficulty index, for every metric that some variant selects by."""
    return {
        (family, metric): data
        / spec.tokenizers[family]
        / f"{family}-{spec.models[family].sequence_length}"
        / "analyze"
        / metric
        for family, variants in spec.variants.items()
        for metric in dict.fromkeys(name for variant in variants.values() for name in variant.selections)
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


def difficulty_figure(indexes: Mapping[tuple[str, str], Path]) -> Figure:
    drawing, axes = plt.subplots(
        len(indexes), 1, figsize=(WIDTH_INCHES * 0.8, 2.3 * len(indexes)), squeeze=False, layout="constrained"
    )
    for axis, ((family, metric), folder) in zip(axes[:, 0], indexes.items(), strict=True):
        values = sorted_values(folder)
        shares, _, _ = axis.hist(
            values, bins=BINS, weights=np.full(len(values), 100 / len(values)), color=COLOURS[0], alpha=0.75
        )
        axis.set_ylim(0, shares.max() * 1.18)
        for percentile in MARKED_PERCENTILES:
            value = float(np.percentile(values, percentile))
            axis.axvline(value, color="black", linewidth=0.9, linestyle=(0, (3, 2)))
            axis.annotate(
                f"{percentile}%",
                (value, 0.99),
                (2, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                fontsize=7.5,
            )
        axis.set_title(f"{family}: {metric}", pad=8)
        axis.set_xlabel(f"{metric} of a sample")
        axis.set_ylabel("samples (%)")
        axis.grid(axis="x", visible=False)
    return Figure(
        "difficulty_histogram",
        "How hard the samples are",
        "Difficulty of all training samples; dashed lines mark percentiles. A curriculum by percentile starts on the "
        "samples left of its first percentile and widens its pool to the right.",
        drawing,
    )
