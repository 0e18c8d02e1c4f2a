"""Floating-point operations of a training run, step by step from its plan.

Counted are matrix products, 2 operations per multiply-add; h hidden size, V padded vocabulary, L layers. One forward
pass of one row of s tokens:

    a layer over t tokens     24 h^2 t + 4 h p       (12 h^2 weights; scores and weighted values of p pairs)
    GPT's head                2 h V s                (the vocabulary projection)
    BERT's heads              (2 h V + 2 h^2) 0.15 s + 2 h^2 + 4 h

In a layer that sees the whole row t = s and p = s^2. Layers that drop tokens differ by the route: with `each_layer`
and `one_route` t = k kept tokens of every row and p = k^2; with `samples` some of the rows (token_counts.kept_rows) go
through whole and the others not at all, so that attention costs more than that of as many tokens in shorter rows.
Length buckets have rows and length of their own at each step.

Attention counts all pairs, for GPT too, whose causal mask needs half of them: the usual convention, and what kernels
that do not skip masked tiles execute. BERT's attention runs both ways and needs them all. A `window` of w tokens has
the pairs inside its s / w blocks, w^2 each, which is what a kernel for blocks executes; families/gpt.py masks the
whole square instead and computes s^2. Where tokens are dropped too, p is the mean over the draws of those kept.

BERT predicts at masked places alone (families/masking.py: 15% of a row): there run the transform before the
projection, h x h, and the projection itself; once a row the pooler and the sentence order, 2 h^2 + 4 h. A row counts
as full: how far a step of a curriculum that selects samples is trimmed to the longest of them is not in the plan.

The backward pass costs twice the forward pass, so a step is 3 x rows x the sum; with activations recomputed, the
layers' forward pass runs once more (their operations + 1/3). Look-ups of token, position and segment embeddings,
norms, activations, dropout, softmax, weight averages and the optimizer are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dataeff.families.traits import TRAITS
from dataeff.study.base import FamilyName
from dataeff.study.types import Model, TokenDrop
from dataeff.token_counts import kept_rows

if TYPE_CHECKING:
    import pandas as pd

FORWARD_AND_BACKWARD = 3
MASKED_SHARE = 0.15
"""families.masking.SHARE, without the compiled code beside it (a test holds the two together)."""

Count = NDArray[np.float64]
Route = Literal["each_layer", "one_route", "samples"]


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


@dataclass(frozen=True)
class StepFlops:
    """The same of each step of a plan; all [steps]."""

    weights: Count
    attention: Count
    head: Count
    recomputed: Count

    @property
    def model(self) -> Count:
        """What the model takes, whatever is computed again: what a model FLOPs utilisation (MFU) counts."""
        operations: Count = self.weights + self.attention + self.head
        return operations

    @property
    def hardware(self) -> Count:
        """What is executed: what a hardware FLOPs utilisation (HFU) counts."""
        operations: Count = self.model + self.recomputed
        return operations

    def sum(self) -> TrainingFlops:
        parts = (self.weights, self.attention, self.head, self.recomputed)
        return TrainingFlops(*(float(part.sum()) for part in parts))


def training_flops(
    family: FamilyName,
    model: Model,
    vocabulary: int,
    dropping: int,
    table: pd.DataFrame,
    *,
    drop: TokenDrop | None = None,
    recompute: bool = False,
) -> TrainingFlops:
    """Of all steps of a plan's table; `dropping` of the model's layers drop tokens, by the route of `drop`;
    `vocabulary` is the padded size.
    """
    route = drop.route if drop is not None else "each_layer"
    return step_flops(family, model, vocabulary, dropping, table, route=route, recompute=recompute).sum()


def step_flops(
    family: FamilyName,
    model: Model,
    vocabulary: int,
    dropping: int,
    table: pd.DataFrame,
    *,
    route: Route = "each_layer",
    recompute: bool = False,
) -> StepFlops:
    """`training_flops` step by step."""
    rows, length = (table[name].to_numpy(np.float64) for name in ("rows", "sequence_length"))
    hidden, whole = float(model.hidden), model.layers - dropping
    pairs = _pairs(table, length)
    some_tokens, some_pairs = _of_dropping_layer(table, pairs, route)
    weights = 24 * hidden**2 * (whole * rows * length + dropping * some_tokens)
    attention = 4 * hidden * (whole * rows * pairs + dropping * some_pairs)
    return StepFlops(
        weights=FORWARD_AND_BACKWARD * weights,
        attention=FORWARD_AND_BACKWARD * attention,
        head=FORWARD_AND_BACKWARD * rows * head_operations(family, model, vocabulary, length),
        recomputed=weights + attention if recompute else np.zeros_like(weights),
    )


def head_operations(family: FamilyName, model: Model, vocabulary: int, length: Count) -> Count:
    """Forward operations of all that follows the layers, for a row of each `length`."""
    hidden = float(model.hidden)
    if TRAITS[family].causal:
        return 2 * hidden * vocabulary * length
    return (2 * hidden * vocabulary + 2 * hidden**2) * MASKED_SHARE * length + 2 * hidden**2 + 4 * hidden


def _pairs(table: pd.DataFrame, length: Count) -> Count:
    """Pairs of tokens of a row that attention compares: all, or those inside blocks of the step's window."""
    if "window" not in table:
        return length**2
    window = np.minimum(table["window"].to_numpy(np.float64), length)
    pairs: Count = (length // window) * window**2 + (length % window) ** 2
    return pairs


def _of_dropping_layer(table: pd.DataFrame, pairs: Count, route: Route) -> tuple[Count, Count]:
    """Tokens and pairs of each step in a layer that drops some; `pairs` are those of a whole row."""
    rows, length = (table[name].to_numpy() for name in ("rows", "sequence_length"))
    kept = np.minimum(table["kept_tokens"].to_numpy(), length)
    if route == "samples":
        seen = kept_rows(rows, length, kept).astype(np.float64)
        return seen * length, seen * pairs
    k, s = kept.astype(np.float64), length.astype(np.float64)
    # Two given tokens are both kept with a chance of k (k - 1) / (s (s - 1)); that makes k^2 where all pairs count.
    among_kept = (pairs - s) * k * (k - 1) / np.maximum(s * (s - 1), 1)
    return rows * k, rows * (k + among_kept)
