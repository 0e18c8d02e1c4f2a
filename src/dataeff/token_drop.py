"""Random layerwise token dropping (random-LTD, arXiv 2211.11586) around any transformer layer, in plain PyTorch.

Each dropping layer sees its own random subset of every sample's positions, in order; the tokens it does not see
go past it unchanged. Which positions are kept is a pure function of (seed, step, row, layer, position): the same
on any number of ranks and micro-batches, on CPU and GPU, after a resume, and when activation checkpointing runs a
layer a second time. Only a layer instance's `forward` is replaced, so parameter names, `state_dict` and
`from_pretrained` stay as they are.

Shapes: B rows of a micro-batch, S positions, R kept positions, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dataeff import keyed
from dataeff.errors import DataeffError

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def _mix(value: Tensor) -> Tensor:
    """keyed.mix on int64 tensors: multiplication wraps, and the shifts are made logical by masking."""
    value = (value ^ ((value >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    value = (value ^ ((value >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return value ^ ((value >> 31) & (2**33 - 1))


def kept_positions(seed: int, step: int, rows_B: Tensor, layer: int, length: int, kept: int) -> Tensor:
    """Sorted positions [B, R] that `layer` keeps of each row at `step`, uniform without replacement.

    `rows_B` holds each row's index in the step's global batch (int64). Every position gets a keyed 64-bit score;
    the R smallest are kept (the chance of a tie is below 1e-13 a row at 2048 positions).
    """
    layer_key = keyed.key(seed, "token drop", step, layer) - 2**63
    row_key_B1 = _mix(rows_B[:, None] * _GOLDEN ^ layer_key)
    position_S = torch.arange(1, length + 1, device=rows_B.device)
    score_BS = _mix(row_key_B1 + position_S * _GOLDEN)
    chosen_BR = score_BS.topk(kept, dim=1, largest=False, sorted=False).indices
    return chosen_BR.sort(dim=1).values


class TokenDrop:
    """Token dropping attached to chosen layers of a Hugging Face model.

    `attach`, then `set_step` before the forward passes of each micro-batch; `detach` restores the layers. Layers
    drop only in training mode and only when fewer tokens are kept than there are.
    """

    def __init__(self, layers: nn.ModuleList, indices: Sequence[int], seed: int) -> None:
        self._layers = {index: layers[index] for index in indices}
        self._seed = seed
        self._step = 0
        self._kept: int | None = None
        self._rows_B: Tensor | None = None
        for index, layer in self._layers.items():
            layer.forward = _Dropping(self, layer, index)

    @classmethod
    def attach(cls, model: nn.Module, *, layers: Sequence[int], seed: int) -> TokenDrop:
        """Attaches to the layers with these 0-based indices of the model's transformer stack."""
        stack = transformer_layers(model)
        outside = [index for index in layers if not 0 <= index < len(stack)]
        if outside:
            raise DataeffError(f"token_drop: layers {outside} do not exist; the model has layers 0..{len(stack) - 1}")
        return cls(stack, layers, seed)

    def detach(self) -> None:
        for layer in self._layers.values():
            del layer.forward

    def set_step(self, step: int, *, kept: int, rows_B: Tensor) -> None:
        """Sets what the next forward and backward passes drop.

        `kept`: tokens kept per row (at most the sequence length); `rows_B`: index of each row of the micro-batch in
        the step's global batch, int64 [B], on the model's device. Valid until the micro-batch's backward is done.
        """
        self._step, self._kept, self._rows_B = step, kept, rows_B

    def positions(self, layer: int, length: int) -> Tensor | None:
        """Kept positions [B, R] of the current micro-batch at `layer`, or None if nothing is dropped."""
        if self._kept is None or self._rows_B is None or self._kept >= length:
            return None
        return kept_positions(self._seed, self._step, self._rows_B, layer, length, self._kept)


class _Dropping:
    """The replacement for one layer's `forward`: gather, the class's own forward, scatter."""

    def __init__(self, drop: TokenDrop, layer: nn.Module, index: int) -> None:
        self._drop, self._layer, self._index = drop, layer, index
        self._forward = type(layer).forward
        self._signature = inspect.signature(self._forward)

    def __call__(self, hidden_BSD: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        kept_BR = self._drop.positions(self._index, hidden_BSD.shape[1]) if layer.training else None
        if kept_BR is None:
            return self._forward(layer, hidden_BSD, *args, **kwargs)
        if kept_BR.shape[0] != hidden_BSD.shape[0]:
            raise ValueError(f"set_step was given {kept_BR.shape[0]} rows, the layer sees {hidden_BSD.shape[0]}")
        bound = self._signature.bind(layer, hidden_BSD, *args, **kwargs)
        index_BRD = kept_BR[..., None].expand(-1, -1, hidden_BSD.shape[2])
        inner = {name: _gathered(name, value, kept_BR) for name, value in list(bound.arguments.items())[2:]}
        extra = inner.pop("kwargs", {})
        positional = [inner.pop("args")] if "args" in inner else []
        output = self._forward(
            layer,
            hidden_BSD.gather(1, index_BRD),
            *(value for group in positional for value in group),
            **inner,
            **{name: _gathered(name, value, kept_BR) for name, value in extra.items()},
        )
        whole = output[0] if isinstance(output, tuple) else output
        merged_BSD = hidden_BSD.scatter(1, index_BRD, whole.to(hidden_BSD.dtype))
        return (merged_BSD, *output[1:]) if isinstance(output, tuple) else merged_BSD


def _gathered(name: str, value: Any, kept_BR: Tensor) -> Any:
    """A layer's argument as the kept tokens need it; arguments that do not run over positions pass unchanged."""
    if value is None:
        return None
    if name == "attention_mask":
        return _gathered_mask(value, kept_BR)
    if name == "position_embeddings":
        return tuple(
            part.expand(kept_BR.shape[0], -1, -1).gather(1, kept_BR[..., None].expand(-1, -1, part.shape[-1]))
            for part in value
        )
    if name == "position_ids":
        return value.expand(kept_BR.shape[0], -1).gather(1, kept_BR)
    if name == "cache_position":
        return None
    return value


def _gathered_mask(mask: Tensor, kept_BR: Tensor) -> Tensor:
    """[B, S] by columns; [B or 1, H or 1, S or 1, S] by columns and, where it has them, by rows."""
    batch, kept = kept_BR.shape
    if mask.dim() == 2:
        return mask.expand(batch, -1).gather(1, kept_BR)
    mask = mask.expand(batch, -1, -1, -1)
    columns = kept_BR[:, None, None, :].expand(-1, mask.shape[1], mask.shape[2], -1)
    mask = mask.gather(3, columns)
    if mask.shape[2] == 1:
        return mask
    return mask.gather(2, kept_BR[:, None, :, None].expand(-1, mask.shape[1], -1, kept))


def transformer_layers(model: nn.Module) -> nn.ModuleList:
    """The model's stack of transformer layers: its ModuleList of `num_hidden_layers` modules."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise DataeffError(f"{type(model).__name__}: no ModuleList of config.num_hidden_layers ({count}) layers was found")
