"""How many tokens a step costs: rows after reshaping, layer-averaged (effective) tokens, tokens summed over layers.

Arrays are int64 [steps]. Notation of arXiv 2211.11586: S a step's sequence length, r of them kept in n of L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataeff.study.types import TokenDrop

Column = NDArray[np.int64]


def reshaped_rows(samples: int, sequence_length: int, length: Column) -> Column:
    """Rows of a global batch of `samples` after seqlen_reshape to each of `length`.

    Every sample's S + 1 tokens give floor((S+1) / (s+1)) pieces and its last s + 1 tokens one more; of these rows
    the first ceil(samples * (S+1) / (s+1)) are kept at most, made even (Megatron-DeepSpeed's data_post_process,
    there once per micro-batch, here once over the global batch).
    """
    whole, piece = sequence_length + 1, length + 1
    available = samples * (whole // piece) + samples
    kept = np.minimum(-(-samples * whole // piece), available)
    even = np.where((kept > 1) & (kept % 2 != 0), kept - 1, kept)
    return np.where(length < sequence_length, even, samples)


def effective_tokens(rows: Column, length: Column, kept: Column, layers: int, dropping: int) -> Column:
    """Layer-averaged tokens of a step: rows * floor((S * (L - n) + r * n) / L) (arXiv 2211.11586, 3.3).

    S is the curriculum's length, r the kept tokens where fewer than S, n of L layers drop. Floored per row.
    """
    r = np.minimum(kept, length)
    tokens: Column = rows * ((length * (layers - dropping) + r * dropping) // layers)
    return tokens


def kept_rows(rows: Column, length: Column, kept: Column) -> Column:
    """Rows that a dropping layer sees where whole samples are dropped: the share of the tokens that token dropping
    would keep, rounded down, and at least one row.
    """
    seen: Column = np.maximum(1, rows * np.minimum(kept, length) // length)
    return seen


def layer_tokens(
    rows: Column, length: Column, kept: Column, layers: int, dropping: int, drop: TokenDrop | None
) -> Column:
    """Tokens of a step summed over its layers, exactly; about L times the effective tokens."""
    by_samples = drop is not None and drop.route == "samples"
    seen = kept_rows(rows, length, kept) * length if by_samples else rows * np.minimum(kept, length)
    tokens: Column = rows * length * (layers - dropping) + seen * dropping
    return tokens
