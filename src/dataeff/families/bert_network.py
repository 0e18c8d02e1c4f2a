"""Megatron's BERT as a module: the library's architecture and weights, Megatron's initialisation, heads where needed.

The class has the library's name, so that a saved folder says `MegatronBertForPreTraining` and opens with the library's
own. Only its forward differs: the language-model head runs at the masked places alone (15% of them; the logits of all
of 32 x 512 places and 30,522 tokens would be 2 GB), and the mask of padding is one row per sample, [B, 1, 1, S], which
attention broadcasts and token dropping gathers.

Shapes: B rows, S positions, P masked places of the micro-batch, V vocabulary, D hidden size.
"""

from __future__ import annotations

import math

import torch
import transformers
from torch import Tensor, nn

from dataeff.study.types import Model


class MegatronBertForPreTraining(transformers.MegatronBertForPreTraining):  # type: ignore[misc]
    """The library's model with a forward that predicts at given places."""

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits [P, V] at `places` [P], counted through the rows (b * S + s), and of the sentence order [B, 2].

        `input_ids`, `token_type_ids` [B, S]; `lengths` [B]: real tokens of each row.
        """
        positions_S = torch.arange(input_ids.shape[1], device=input_ids.device)
        padding_B11S = (positions_S >= lengths[:, None])[:, None, None, :]
        mask_B11S = padding_B11S.to(self.dtype) * torch.finfo(self.dtype).min
        outputs = self.bert(input_ids, attention_mask=mask_B11S, token_type_ids=token_type_ids)
        hidden_PD = outputs.last_hidden_state.flatten(0, 1)[places]
        return self.cls.predictions(hidden_PD), self.cls.seq_relationship(outputs.pooler_output)


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
