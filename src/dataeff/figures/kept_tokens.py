"""The figure of random-LTD's work: how many tokens of a sample each layer keeps, as training goes on.

From the plan (kept tokens a step) and the variant (which layers drop any): a shade a layer and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from dataeff.figures.pacing import PlanShape
from dataeff.figures.part import Part
from dataeff.figures.style import SMALL, WIDTH_INCHES, Figure, token_unit
from dataeff.study.specs import GridSpec, dropped_layers

SHADES = "YlGnBu_r"
"""The fewer tokens the darker, in grey and with any colour vision."""
MOST_PLANS = 8
EVERY_LAYER_NAMED = 6


@dataclass(frozen=True)
class DroppingPlan:
    """A plan whose variants drop tokens in the layers `dropping` (0-based) of `layers`."""

    shape: PlanShape
    layers: int
    dropping: list[int]

    @property
    def tokens_by_layer(self) -> NDArray[np.float64]:
        """[layers, steps]: all of a sample's tokens, but in the layers that drop some."""
        length, kept = self.shape.table["sequence_length"], self.shape.table["kept_tokens"]
        tokens = np.tile(np.asarray(length, dtype=np.float64), (self.layers, 1))
        tokens[self.dropping] = kept
        return tokens


def dropping_plans(part: Part, spec: GridSpec, shapes: Sequence[PlanShape]) -> list[DroppingPlan]:
    layers, variants = spec.models[part.family].layers, spec.variants[part.family]
    found = [DroppingPlan(shape, layers, dropped_layers(variants[shape.variants[0]], layers)) for shape in shapes]
    return [plan for plan in found if plan.dropping]


def kept_tokens_figure(part: Part, plans: Sequence[DroppingPlan]) -> Figure:
    """One row a plan, the first layer at the bottom; the axis of tokens is that of the pacing."""
    shown = plans[:MOST_PLANS]
    layers = shown[0].layers
    height = min(1.5, max(0.55, 0.12 * layers)) + 0.3
    drawing, axes = plt.subplots(
        len(shown),
        1,
        figsize=(WIDTH_INCHES, height * len(shown) + 0.5),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    longest = max(float(plan.shape.table["sequence_length"].max()) for plan in shown)
    unit, word = token_unit(max(float(plan.shape.table["cumulative_effective_tokens"][-1]) for plan in shown))
    for axis, plan in zip(axes[:, 0], shown, strict=True):
        ends = plan.shape.table["cumulative_effective_tokens"] / unit
        edges = np.concatenate([[0.0], ends])
        image = axis.pcolormesh(
            edges,
            np.arange(layers + 1) + 0.5,
            plan.tokens_by_layer,
            cmap=SHADES,
            vmin=0,
            vmax=longest,
            rasterized=True,
        )
        axis.set_title(plan.shape.label, fontsize=7.5, fontweight="normal", pad=3)
        axis.set_yticks(range(1, layers + 1) if layers <= EVERY_LAYER_NAMED else [1, layers // 2, layers])
        axis.tick_params(axis="y", labelsize=SMALL)
        axis.grid(visible=False)
    axes[-1, 0].set_xlabel(f"effective tokens ({word})")
    drawing.supylabel("layer", fontsize=8)
    bar = drawing.colorbar(image, ax=axes[:, 0].tolist(), fraction=0.03, aspect=14 * len(shown), pad=0.015)
    bar.set_label("tokens of a sample")
    bar.outline.set_visible(False)
    text = (
        "" if len(plans) == len(shown) else f" {len(plans) - len(shown)} further plans that drop tokens are not drawn."
    )
    return Figure(
        part.name("kept_tokens"),
        part.title("Kept tokens by layer"),
        "How many tokens of a sample each layer computes, on average over the samples of a step, from the plans and by "
        "effective tokens. The first layers (below) and the last ones keep all; with a length curriculum these are "
        "fewer at first, too. Each variant is shown once, at its largest data fraction; variants with equal plans "
        f"share a row.{text}",
        drawing,
    )
