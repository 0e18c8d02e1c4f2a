"""The held-out probe: the loss on a fixed piece of held-out text at full length, a few times during a run.

The training loss of a curriculum run is over shorter or easier samples and says little beside the baseline's; the
probe is the same text at the same length for every run. It is small; the evaluation stage scores much more text.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.tokens.tokenizer import load

ROWS_PER_DOMAIN = 6


def probe_rows(heldout: Path, tokenizer: Path, sequence_length: int) -> Tensor:
    """[rows, S + 1] tokens: the first ROWS_PER_DOMAIN rows of each domain's held-out text, documents joined."""
    encoder = load(tokenizer)
    needed = ROWS_PER_DOMAIN * (sequence_length + 1)
    rows = []
    for path in sorted(heldout.glob("*.jsonl.zst")):
        tokens: list[int] = []
        for document in read_documents(path):
            tokens += [*encoder.encode(document.text), encoder.eos_id]
            if len(tokens) >= needed:
                break
        whole = min(len(tokens), needed) // (sequence_length + 1)
        rows.append(np.array(tokens[: whole * (sequence_length + 1)]).reshape(whole, sequence_length + 1))
    if not rows or not sum(len(part) for part in rows):
        raise DataeffError(
            f"{heldout}: no held-out text of at least {sequence_length + 1} tokens; run `dataeff corpus` again"
        )
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def probe_loss(network: nn.Module, rows: Tensor, loss_sum: object, micro_batch: int) -> float:
    """Mean loss in nats per token over the rows; leaves the model in training mode and torch's generator untouched."""
    network.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for part in torch.split(rows, micro_batch):
            loss, tokens = loss_sum(network, part)  # type: ignore[operator]
            total += float(loss)
            count += tokens
    network.train()
    return total / count


def probe_steps(cumulative_effective_tokens: np.ndarray, points: int) -> set[int]:
    """0-based steps after which the probe is taken: `points` of them at equal spacing of effective tokens."""
    if points == 0:
        return {len(cumulative_effective_tokens) - 1}
    marks = cumulative_effective_tokens[-1] * np.arange(1, points + 1) / points
    return {int(step) for step in np.searchsorted(cumulative_effective_tokens, marks)} | {
        len(cumulative_effective_tokens) - 1
    }
