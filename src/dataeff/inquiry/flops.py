"""Floating-point operations of a training run, step by step from its plan.

Counted are matrix products, 2 operations per multiply-add; h hidden size, V padded vocabulary, L layers. One forward
pass of one row of s tokens:

    a layer over t tokens     24 h^2 t + 4 h t^2     (12 h^2 weights; scores and weighted values)
    t = s, and t = k in the layers that drop all but k tokens of a row (random-LTD), layer by layer
    vocabulary projection     2 h V s                (BERT also 2 h^2 s before it, and 2 h^2 + 4 h for sentence order)

The backward pass costs twice the forward pass, so a step is 3 x rows x the sum; with activations recomputed, the
layers' forward pass runs once more (their operations + 1/3). Attention counts all t^2 pairs, for GPT too, whose causal
mask needs half of them: the usual convention, and what kernels that do not skip masked tiles execute. Embedding
look-ups, norms, activations, dropout, softmax and the optimizer are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataeff.study.types import FamilyName, Model

if TYPE_CHECKING:
    import pandas as pd

FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of a whole run: `weights` and `attention` in the layers, `head`, and what recomputation adds."""

    weights: float
    attention: float
    head: float
    recomputed: float

    @property
    def total(self) -> float:
        return self.weights + self.attention + self.head + self.recomputed


def training_flops(
    family: FamilyName, model: Model, vocabulary: int, dropping: int, table: pd.DataFrame, *, recompute: bool = False
) -> TrainingFlops:
    """Of all steps of a plan's table; `dropping` of the model's layers drop tokens, `vocabulary` is the padded size."""
    rows, length, kept = (table[name].to_numpy(np.float64) for name in ("rows", "sequence_length", "kept_tokens"))
    kept = np.minimum(kept, length)
    hidden, whole = float(model.hidden), model.layers - dropping

    def in_layers(of_full: NDArray[np.float64], of_kept: NDArray[np.float64]) -> float:
        return float((rows * (whole * of_full + dropping * of_kept)).sum())

    weights = 24 * hidden**2 * in_layers(length, kept)
    attention = 4 * hidden * in_layers(length**2, kept**2)
    head = float((rows * (2 * hidden * vocabulary * length)).sum())
    if family == "bert":
        head += float((rows * (2 * hidden**2 * length + 2 * hidden**2 + 4 * hidden)).sum())
    return TrainingFlops(
        weights=FORWARD_AND_BACKWARD * weights,
        attention=FORWARD_AND_BACKWARD * attention,
        head=FORWARD_AND_BACKWARD * head,
        recomputed=weights + attention if recompute else 0.0,
    )
