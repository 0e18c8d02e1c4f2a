"""GPT: Hugging Face's GPT-2 architecture with GPT-3's hyper-parameters, trained on S + 1 consecutive tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from dataeff.study.types import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

Tokens = NDArray[np.int64]


def build_model(model: Model, *, vocabulary: int, eos_id: int) -> nn.Module:
    """A freshly initialised model; the caller has seeded torch. `vocabulary` is the padded size.

    The library scales the residual projections by 1/sqrt(2 * layers) as Megatron does. The language-model head
    shares the embedding.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=model.sequence_length,
        n_embd=model.hidden,
        n_layer=model.layers,
        n_head=model.heads,
        resid_pdrop=model.dropout,
        embd_pdrop=model.dropout,
        attn_pdrop=model.dropout,
        initializer_range=model.init_std,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        use_cache=False,
    )
    network: nn.Module = GPT2LMHeadModel(config)
    return network


def cut(samples: Tokens, length: int, apply: Literal["truncate", "reshape"] | None) -> Tokens:
    """The rows [rows, length + 1] that a step trains on, from whole samples [batch, S + 1].

    `truncate` keeps the first length + 1 tokens. `reshape` cuts every sample into pieces of length + 1, then adds
    every sample's last length + 1 tokens (they overlap the last piece), and keeps as many rows as
    plan.reshaped_rows says; done once over the global batch, so that it does not depend on the micro-batch.
    """
    from dataeff.plan import reshaped_rows

    whole = samples.shape[1]
    if apply is None or length + 1 >= whole:
        return samples
    if apply == "truncate":
        return samples[:, : length + 1]
    pieces = whole // (length + 1)
    rows = samples[:, : pieces * (length + 1)].reshape(-1, length + 1)
    rows = np.concatenate([rows, samples[:, -(length + 1) :]])
    return rows[: int(reshaped_rows(len(samples), whole - 1, np.array([length]))[0])]


def loss_sum(network: nn.Module, rows: Tensor) -> tuple[Tensor, int]:
    """Summed next-token loss in nats over rows [B, s + 1], and the number of predicted tokens, B * s."""
    from torch.nn import functional

    logits = network(input_ids=rows[:, :-1], use_cache=False).logits
    targets = rows[:, 1:]
    loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction="sum")
    return loss, targets.numel()
