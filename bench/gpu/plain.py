"""What our loop is held against on a GPU: a transformer in plain PyTorch and a compiled loop around it, nothing else.

The way small training scripts are written: one module, fused attention, weights in float32 under bf16 autocast, fused
AdamW, clipping, `torch.compile` of the whole model. Shapes and parameters are those of the models that we train (GPT-2,
and BERT before its norms moved behind), so that a step is the same work; there is no dropout, no mask of padding.

Shapes: B rows, S positions, D hidden size, H heads, P places to predict, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataeff.families.masking import IGNORED, SHARE
from dataeff.study.types import Adam, Model


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inward, self.outward = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.inward(hidden_BSD).chunk(3, dim=-1)
        )
        mixed_BHSA = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.outward(mixed_BHSA.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(hidden), Attention(hidden, heads, causal)
        self.norm = nn.LayerNorm(hidden)
        self.wide, self.narrow = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        hidden_BSD = hidden_BSD + self.attention(self.attention_norm(hidden_BSD))
        wide_BSF = functional.gelu(self.wide(self.norm(hidden_BSD)), approximate="tanh")
        return hidden_BSD + self.narrow(wide_BSF)


class Body(nn.Module):
    """Embeddings, blocks and the last norm; the head is the embedding once more."""

    def __init__(self, model: Model, vocabulary: int, causal: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, model.hidden)
        self.positions = nn.Embedding(model.sequence_length, model.hidden)
        self.blocks = nn.ModuleList(Block(model.hidden, model.heads, causal) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.hidden)

    def forward(self, tokens_BS: Tensor, more_BSD: Tensor | None = None) -> Tensor:
        positions_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
        hidden_BSD = self.tokens(tokens_BS) + self.positions(positions_S)
        hidden_BSD = hidden_BSD if more_BSD is None else hidden_BSD + more_BSD
        for block in self.blocks:
            hidden_BSD = block(hidden_BSD)
        return self.norm(hidden_BSD)


class PlainGpt(nn.Module):
    def __init__(self, model: Model, vocabulary: int) -> None:
        super().__init__()
        self.body = Body(model, vocabulary, causal=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean loss of rows [B, S + 1]."""
        logits_BSV = functional.linear(self.body(tokens[:, :-1]), self.body.tokens.weight)
        return functional.cross_entropy(logits_BSV.flatten(0, 1), tokens[:, 1:].flatten())


class PlainBert(nn.Module):
    def __init__(self, model: Model, vocabulary: int) -> None:
        super().__init__()
        self.body = Body(model, vocabulary, causal=False)
        self.kinds = nn.Embedding(2, model.hidden)
        self.transform, self.transform_norm = nn.Linear(model.hidden, model.hidden), nn.LayerNorm(model.hidden)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.pooler, self.order = nn.Linear(model.hidden, model.hidden), nn.Linear(model.hidden, 2)

    def forward(self, tokens: Tensor, types: Tensor, places: Tensor, labels: Tensor, swapped: Tensor) -> Tensor:
        """The mean loss of the `labels` [P] at `places` [P], counted through the rows, and of the sentence order."""
        hidden_BSD = self.body(tokens, self.kinds(types))
        chosen_PD = hidden_BSD.flatten(0, 1)[places]
        chosen_PD = self.transform_norm(functional.gelu(self.transform(chosen_PD), approximate="tanh"))
        logits_PV = functional.linear(chosen_PD, self.body.tokens.weight, self.bias)
        order_B2 = self.order(torch.tanh(self.pooler(hidden_BSD[:, 0])))
        return functional.cross_entropy(logits_PV, labels) + functional.cross_entropy(order_B2, swapped)


def build(family: str, model: Model, vocabulary: int) -> nn.Module:
    network = PlainGpt(model, vocabulary) if family == "gpt" else PlainBert(model, vocabulary)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=model.init_std)
    return network


def arguments(family: str, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A micro-batch of the family as these models take it: BERT's always with as many places, for one compilation."""
    if family == "gpt":
        return {"tokens": part["tokens"]}
    labels = part["labels"].flatten()
    places = (labels != IGNORED).nonzero()[:, 0]
    places = places.repeat(2)[: int(SHARE * len(labels))]  # a few again, where rows are shorter and mask less
    rest = {name: part[name] for name in ("tokens", "types", "swapped")}
    return {**rest, "places": places, "labels": labels[places]}


class PlainLoop:
    """A compiled step; `backend`: torch.compile's."""

    def __init__(self, network: nn.Module, adam: Adam, device: torch.device, backend: str) -> None:
        self._network, self._device, self._clip = network.to(device).train(), device, adam.clip
        groups = [
            {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": adam.weight_decay},
            {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(adam.beta1, adam.beta2), fused=True)
        self._compiled = torch.compile(self._network, backend=backend)

    def step(self, given: Mapping[str, Tensor]) -> None:
        with torch.autocast(self._device.type, torch.bfloat16):
            loss = self._compiled(**given)
        loss.backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), self._clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
