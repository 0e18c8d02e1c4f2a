"""Megatron's BERT as a module: the library's architecture and weights, Megatron's initialisation, heads where needed.

The class has the library's name, so that a saved folder says `MegatronBertForPreTraining` and opens with the library's
own. Only what is computed, and how, differs: the language-model head runs at the masked places alone (15% of them; the
logits of all of 32 x 512 places and 30,522 tokens would be 2 GB), and attention is one fused operation that keeps no
[B, H, S, S] probabilities where the device has such a kernel (on a CPU: without dropout). The mask of padding is one
row per sample, [B, 1, 1, S], which attention broadcasts and token dropping gathers.

Shapes: B rows, S positions, H heads, A values of a head, P masked places of the micro-batch, V vocabulary, D hidden
size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.megatron_bert.modeling_megatron_bert import MegatronBertSelfAttention

from dataeff.study.types import Model


class SelfAttention(MegatronBertSelfAttention):  # type: ignore[misc]
    """The library's self-attention by one fused operation: an encoder's, without a cache and without probabilities.

    Dropout of the probabilities draws other numbers than the library's would.
    """

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: Any) -> tuple[Tensor, None]:
        """What attention brings to `hidden_states` [B, S, D]; `attention_mask` is added to the scores [B, H, S, S]."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        context_BHSA = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=self.dropout.p if self.training else 0.0
        )
        return context_BHSA.transpose(1, 2).flatten(2), None


class MegatronBertForPreTraining(transformers.MegatronBertForPreTraining):  # type: ignore[misc]
    """The library's model with fused attention and a forward that predicts at given places."""

    def __init__(self, config: transformers.MegatronBertConfig) -> None:
        super().__init__(config)
        for layer in self.bert.encoder.layer:
            # The module that is there, with its weights and its place: a new one would be initialised a second time.
            layer.attention.self.__class__ = SelfAttention

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor | None, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [P, V] at `places` [P], counted through the rows (b * S + s), and of the sentence order [B, 2].

        `input_ids`, `token_type_ids` [B, S]; `lengths` [B]: real tokens of each row, or None where no row has padding:
        attention then takes no mask, and the fastest kernels know none.
        """
        mask_B11S = None if lengths is None else padding_mask(lengths, input_ids.shape[1], self.dtype)
        # The library's own way from one to the other makes a mask where there is none.
        embedded_BSD = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        hidden_BSD = self.bert.encoder(embedded_BSD, attention_mask=mask_B11S).last_hidden_state
        logits_PV = self.cls.predictions(hidden_BSD.flatten(0, 1)[places])
        return logits_PV, self.cls.seq_relationship(self.bert.pooler(hidden_BSD))


def padding_mask(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores [B, 1, 1, S]: 0 for the first `lengths` [B] positions, half the lowest number after.

    Finite, since token dropping may leave a row nothing but padding, and kernels differ in what a softmax over nothing
    is; half of it, so that a score added to it in half precision stays finite, too.
    """
    positions_S = torch.arange(width, device=lengths.device)
    padding_BS = positions_S >= lengths[:, None]
    mask_BS = torch.zeros(padding_BS.shape, dtype=dtype, device=lengths.device)
    return mask_BS.masked_fill(padding_BS, torch.finfo(dtype).min / 2)[:, None, None, :]


def new_network(model: Model, *, vocabulary: int, pad_id: int) -> MegatronBertForPreTraining:
    """A freshly initialised model; the caller has seeded torch. `vocabulary` is the padded size.

    What the library does otherwise by itself: GELU by tanh and an epsilon of 1e-5 (its defaults: by erf, 1e-12), and
    the start of the weights. One GELU serves the whole model here; Megatron's language-model head has the one by erf.
    """
    config = transformers.MegatronBertConfig(
        vocab_size=vocabulary,
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=4 * model.hidden,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=model.dropout,
        attention_probs_dropout_prob=model.dropout,
        max_position_embeddings=model.sequence_length,
        initializer_range=model.init_std,
        layer_norm_eps=1e-5,
        pad_token_id=pad_id,
    )
    network = MegatronBertForPreTraining(config)
    initialise(network, model)
    return network


def initialise(network: nn.Module, model: Model) -> None:
    """Megatron's start: every matrix normal(0, init_std), the row of [PAD] too; the projections back into the residual
    stream (of attention and of the feed-forward part) by 1/sqrt(2 * layers) smaller. The library's zeros of biases and
    ones of norms stay.
    """
    smaller = model.init_std / math.sqrt(2 * model.layers)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=smaller if name.endswith("output.dense.weight") else model.init_std)
