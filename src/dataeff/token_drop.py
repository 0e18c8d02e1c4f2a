"""Random layerwise token dropping (random-LTD, arXiv 2211.11586) around any transformer layer, in plain PyTorch.

Each dropping layer sees its own random subset of every sample's positions, in order; the tokens it does not see
go past it unchanged. Which positions are kept is a pure function of (seed, step, row, layer, position): the same
on any number of ranks and micro-batches, on CPU and GPU, after a resume, and when activation checkpointing runs a
layer a second time. Only a layer instance's `forward` is replaced, so parameter names, `state_dict` and
`from_pretrained` stay as they are.

Two other routes serve as baselines of that choice. `one_route` keeps the same positions in all dropping layers, so
that a dropped token goes past all of them (TREAD, arXiv 2501.04765). `samples` drops whole rows instead of positions,
others in each layer (layer dropout), for about the same layer tokens.

Shapes: L dropping layers, B rows of a micro-batch, S positions, R kept positions, K kept rows, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.token_counts import kept_rows
from dataeff.transfer import to_device

Route = Literal["each_layer", "one_route", "samples"]

SCORES_AT_ONCE = 1 << 20
"""Positions of rows that are scored together: 8 MiB of scores, twice for a moment."""
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def _mix_(value: Tensor) -> Tensor:
    """keyed.mix in place of int64 tensors: multiplication wraps, and the shifts are made logical by masking."""
    shifted = value >> 30
    value.bitwise_xor_(shifted.bitwise_and_(2**34 - 1)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    torch.bitwise_right_shift(value, 27, out=shifted)
    value.bitwise_xor_(shifted.bitwise_and_(2**37 - 1)).mul_(0x94D049BB133111EB - 2**64)
    torch.bitwise_right_shift(value, 31, out=shifted)
    return value.bitwise_xor_(shifted.bitwise_and_(2**33 - 1))


def kept_positions(seed: int, step: int, rows_B: Tensor, layer: int, length: int, kept: int) -> Tensor:
    """Sorted positions [B, R] that `layer` keeps of each row at `step`, uniform without replacement.

    `rows_B` holds each row's index in the step's global batch (int64). Every position gets a keyed 64-bit score;
    the R smallest are kept (the chance of a tie is below 1e-13 a row at 2048 positions).
    """
    return kept_by_layers(seed, step, rows_B, [layer], length, kept)[0]


def kept_by_layers(seed: int, step: int, rows_B: Tensor, layers: Sequence[int], length: int, kept: int) -> Tensor:
    """`kept_positions` of several layers at once, [L, B, R]: a few operations instead of a few for each layer."""
    at_once = max(1, SCORES_AT_ONCE // (len(rows_B) * length))
    parts = [layers[first : first + at_once] for first in range(0, len(layers), at_once)]
    return torch.cat([_kept_by_some_layers(seed, step, rows_B, part, length, kept) for part in parts])


def _kept_by_some_layers(seed: int, step: int, rows_B: Tensor, layers: Sequence[int], length: int, kept: int) -> Tensor:
    keys = [keyed.key(seed, "token drop", step, layer) - 2**63 for layer in layers]
    layer_key_L = to_device(torch.tensor(keys), rows_B.device)
    score_LBS = _mix_((rows_B * _GOLDEN)[:, None] ^ layer_key_L[:, None, None])
    position_S = torch.arange(1, length + 1, device=rows_B.device)
    score_LBS = _mix_(score_LBS + position_S * _GOLDEN)
    chosen_LBR = score_LBS.topk(kept, dim=-1, largest=False, sorted=False).indices
    return chosen_LBR.sort(dim=-1).values


def chosen_rows(seed: int, step: int, layer: int, rows: int, kept: int) -> Tensor:
    """Which rows of the step's global batch go through `layer`: bool [rows], `kept` of them, uniform, on the CPU.

    Every row gets a keyed 64-bit score, as positions do in `kept_positions`; the `kept` smallest are chosen.
    """
    layer_key = keyed.key(seed, "row drop", step, layer) - 2**63
    score = _mix_(torch.arange(1, rows + 1) * _GOLDEN ^ layer_key)
    chosen = torch.zeros(rows, dtype=torch.bool)
    chosen[score.topk(kept, largest=False, sorted=False).indices] = True
    return chosen


class TokenDrop:
    """Token dropping attached to chosen layers of a Hugging Face model.

    `attach`, then `set_step` before the forward passes of each micro-batch; `detach` restores the layers. Layers
    drop only in training mode and only when fewer tokens are kept than there are.
    """

    def __init__(self, layers: nn.ModuleList, indices: Sequence[int], seed: int, route: Route = "each_layer") -> None:
        self._layers = {index: layers[index] for index in indices}
        self._place = {index: place for place, index in enumerate(self._layers)}
        self._first = min(self._layers, default=0)
        self._seed = seed
        self._by_rows = route == "samples"
        self._one_route = route == "one_route"
        self._step = 0
        self._kept: int | None = None
        self._rows_B: Tensor | None = None
        self._rows: int | None = None
        self._drawn: tuple[int, Tensor] | None = None
        for index, layer in self._layers.items():
            layer.forward = Dropping(self, layer, index)

    @classmethod
    def attach(cls, model: nn.Module, *, layers: Sequence[int], seed: int, route: Route = "each_layer") -> TokenDrop:
        """Attaches to the layers with these 0-based indices of the model's transformer stack."""
        stack = transformer_layers(model)
        outside = [index for index in layers if not 0 <= index < len(stack)]
        if outside:
            raise DataeffError(f"token_drop: layers {outside} do not exist; the model has layers 0..{len(stack) - 1}")
        return cls(stack, layers, seed, route)

    def detach(self) -> None:
        for layer in self._layers.values():
            del layer.forward

    def set_step(self, step: int, *, kept: int, rows_B: Tensor, rows: int | None = None) -> None:
        """Sets what the next forward and backward passes drop.

        `kept`: tokens kept per row (at most the sequence length); `rows_B`: index of each row of the micro-batch in
        the step's global batch, int64 [B], on the CPU or on the model's device; `rows`: rows of that global batch,
        which the route `samples` needs. Valid until the micro-batch's backward is done.
        """
        if self._by_rows:
            if rows is None:
                raise ValueError("set_step: route 'samples' needs `rows`, the rows of the step's global batch")
            rows_B = rows_B.cpu()  # shapes follow from the choice: at most one wait here instead of one in every layer
        self._step, self._kept, self._rows_B, self._rows = step, kept, rows_B, rows
        self._drawn = None

    def positions(self, layer: int, length: int, device: torch.device | None = None) -> Tensor | None:
        """Kept positions [B, R] of the current micro-batch at `layer`, or None if no positions are dropped.

        On `device`, the first that is asked for in a micro-batch; without one, where `rows_B` is.
        """
        if self._kept is None or self._rows_B is None or self._kept >= length or self._by_rows:
            return None
        if self._drawn is None or self._drawn[0] != length:
            # Of all layers at the first of them, and kept until the micro-batch's backward may ask again.
            layers = [self._first] if self._one_route else list(self._layers)
            rows_B = to_device(self._rows_B, device or self._rows_B.device)
            self._drawn = length, kept_by_layers(self._seed, self._step, rows_B, layers, length, self._kept)
        return self._drawn[1][0 if self._one_route else self._place[layer]]

    def through(self, layer: int, length: int) -> Tensor | None:
        """Whether each row of the micro-batch goes through `layer`: bool [B], or None if no rows are dropped."""
        if self._kept is None or self._rows_B is None or self._rows is None or not self._by_rows:
            return None
        kept = int(kept_rows(*(np.array([number]) for number in (self._rows, length, self._kept)))[0])
        if kept >= self._rows:
            return None
        return chosen_rows(self._seed, self._step, layer, self._rows, kept)[self._rows_B]


class Dropping:
    """The replacement for one layer's `forward`: gather, the class's own forward, scatter.

    `forward`: the class's own, or what computes the same of (layer, hidden states, ...) faster.
    """

    def __init__(self, drop: TokenDrop, layer: nn.Module, index: int) -> None:
        self._drop, self._layer, self._index = drop, layer, index
        self.forward: Callable[..., Any] = type(layer).forward
        self._signature = inspect.signature(self.forward)

    def __call__(self, hidden_BSD: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer, length = self._layer, hidden_BSD.shape[1]
        if layer.training:
            through_B = self._drop.through(self._index, length)
            if through_B is not None:
                _check_rows(through_B, hidden_BSD)
                return self._some_rows(through_B, hidden_BSD, args, kwargs)
            kept_BR = self._drop.positions(self._index, length, hidden_BSD.device)
            if kept_BR is not None:
                _check_rows(kept_BR, hidden_BSD)
                return self._some_positions(kept_BR, hidden_BSD, args, kwargs)
        return self.forward(layer, hidden_BSD, *args, **kwargs)

    def _some_positions(self, kept_BR: Tensor, hidden_BSD: Tensor, args: Any, kwargs: Any) -> Any:
        index_BRD = kept_BR[..., None].expand(-1, -1, hidden_BSD.shape[2])

        def gathered(name: str, value: Any) -> Any:
            return _gathered(name, value, kept_BR)

        whole, others = self._run(hidden_BSD, hidden_BSD.gather(1, index_BRD), gathered, args, kwargs)
        merged_BSD = hidden_BSD.scatter(1, index_BRD, whole.to(hidden_BSD.dtype))
        return merged_BSD if others is None else (merged_BSD, *others)

    def _some_rows(self, through_B: Tensor, hidden_BSD: Tensor, args: Any, kwargs: Any) -> Any:
        """Rows that are not chosen stay as they are. Where none is, one token runs all the same and its output is not
        used: the layer is called on every rank, as ZeRO needs, and its parameters get gradients, of zero.
        """
        chosen_K = to_device(through_B.nonzero()[:, 0], hidden_BSD.device)
        if not len(chosen_K):
            return self._one_token(hidden_BSD, args, kwargs)

        def gathered(name: str, value: Any) -> Any:
            return _gathered_rows(name, value, chosen_K)

        whole, others = self._run(hidden_BSD, hidden_BSD.index_select(0, chosen_K), gathered, args, kwargs)
        merged_BSD = hidden_BSD.index_copy(0, chosen_K, whole.to(hidden_BSD.dtype))
        return merged_BSD if others is None else (merged_BSD, *others)

    def _one_token(self, hidden_BSD: Tensor, args: Any, kwargs: Any) -> Any:
        first_1 = torch.zeros(1, dtype=torch.int64, device=hidden_BSD.device)

        def gathered(name: str, value: Any) -> Any:
            return _gathered(name, _gathered_rows(name, value, first_1), first_1[:, None])

        whole, others = self._run(hidden_BSD, hidden_BSD[:1, :1], gathered, args, kwargs)
        never = torch.zeros(1, dtype=torch.bool, device=hidden_BSD.device)
        merged_BSD = torch.where(never, whole.to(hidden_BSD.dtype), hidden_BSD)
        return merged_BSD if others is None else (merged_BSD, *others)

    def _run(
        self, hidden_BSD: Tensor, taken: Tensor, gathered: Callable[[str, Any], Any], args: Any, kwargs: Any
    ) -> tuple[Tensor, tuple[Any, ...] | None]:
        """The layer's own forward on a part of its input: the output, and what comes beside it (None: no tuple)."""
        bound = self._signature.bind(self._layer, hidden_BSD, *args, **kwargs)
        inner = {name: gathered(name, value) for name, value in list(bound.arguments.items())[2:]}
        extra = inner.pop("kwargs", {})
        positional = [inner.pop("args")] if "args" in inner else []
        output = self.forward(
            self._layer,
            taken,
            *(value for group in positional for value in group),
            **inner,
            **{name: gathered(name, value) for name, value in extra.items()},
        )
        return (output[0], output[1:]) if isinstance(output, tuple) else (output, None)


def _check_rows(choice: Tensor, hidden_BSD: Tensor) -> None:
    if choice.shape[0] != hidden_BSD.shape[0]:
        raise ValueError(f"set_step was given {choice.shape[0]} rows, the layer sees {hidden_BSD.shape[0]}")


def _gathered_rows(name: str, value: Any, chosen_K: Tensor) -> Any:
    """A layer's argument as the chosen rows need it; what is shared by all rows, [1, ...], passes unchanged."""
    if name == "position_embeddings" and value is not None:
        return tuple(_taken_rows(part, chosen_K) for part in value)
    if name in ("attention_mask", "position_ids") and value is not None:
        return _taken_rows(value, chosen_K)
    return value


def _taken_rows(value: Tensor, chosen_K: Tensor) -> Tensor:
    return value if value.shape[0] == 1 else value.index_select(0, chosen_K)


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
