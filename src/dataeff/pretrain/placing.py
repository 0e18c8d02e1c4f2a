"""Whole weights and Adam's moments, put where an engine of any ZeRO stage keeps them, by the parameters' names.

DeepSpeed's own calls for one parameter do it where there are any that fit: those for whole tensors at ZeRO 1 and 2, and
those for a rank's part at ZeRO 3, since the former refuse what ranks cannot share evenly there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


@dataclass(frozen=True)
class ParameterState:
    """One parameter, whole: fp32 weights, Adam's moments by name and its count of updates. None and 0 before any."""

    weights: Tensor
    moments: dict[str, Tensor] | None
    updates: float


States = Callable[[str], ParameterState]
"""The states of a checkpoint by the parameter's name, each read when it is asked for."""


def put(engine: Any, zero_stage: int, names: Sequence[str], read: States) -> None:
    """Puts whole weights and moments into an engine of any stage that has made no update; all ranks call it."""
    updates = read(names[0]).updates
    if updates:
        _make_moments(engine, zero_stage, updates)
    place = {0: _plain_placer, 1: _split_placer, 2: _split_placer, 3: _parted_placer}[zero_stage](engine)
    parameters = dict(engine.module.named_parameters())
    with torch.no_grad():
        for name in names:
            state = read(name)
            place(parameters[name], None, state.weights)
            for key, moment in (state.moments or {}).items():
                place(parameters[name], key, moment)
    if zero_stage in (1, 2):
        engine.optimizer.update_lp_params()


def _make_moments(engine: Any, zero_stage: int, updates: float) -> None:
    """DeepSpeed's engine has none before its first update."""
    optimizer = engine.basic_optimizer
    stepped = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    for tensor in engine.optimizer.fp32_partitioned_groups_flat if zero_stage == 3 else stepped:
        moments = {key: torch.zeros_like(tensor, requires_grad=False) for key in MOMENTS}
        optimizer.state[tensor] = {"step": torch.tensor(updates, device=tensor.device), **moments}
    if zero_stage in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


Placer = Callable[[Any, str | None, Tensor], None]
"""Puts a whole tensor where the engine keeps it of a parameter: its fp32 weights (key None) or a moment."""


def _plain_placer(engine: Any) -> Placer:
    """Without ZeRO: half precision steps copies of the weights in fp32."""
    wrapper = engine.optimizer
    pairs = zip(getattr(wrapper, "fp16_groups", []), getattr(wrapper, "fp32_groups", []), strict=True)
    masters = {half: master for halves, wholes in pairs for half, master in zip(halves, wholes, strict=True)}

    def place(parameter: Any, key: str | None, whole: Tensor) -> None:
        master = masters.get(parameter, parameter)
        held = master if key is None else engine.basic_optimizer.state[master][key]
        held.copy_(whole.reshape(held.shape))
        if key is None:
            parameter.copy_(master)

    return place


def _split_placer(engine: Any) -> Placer:
    """ZeRO 1 and 2: each rank steps its stretch of all weights in one row."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    def place(parameter: Any, key: str | None, whole: Tensor) -> None:
        if key is None:
            safe_set_full_fp32_param(parameter, whole)
        else:
            safe_set_full_optimizer_state(parameter, whole, key)

    return place


def _parted_placer(engine: Any) -> Placer:
    """ZeRO 3: each rank has its part of every parameter, the last ones filled up; of the weights also in use."""
    import deepspeed
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    rank = torch.distributed.get_rank()

    def place(parameter: Any, key: str | None, whole: Tensor) -> None:
        size = parameter.ds_tensor.numel()
        own = whole.flatten()[rank * size : (rank + 1) * size]
        part = nn.functional.pad(own, (0, size - own.numel()))
        if key is not None:
            safe_set_local_optimizer_state(parameter, part, key)
            return
        safe_set_local_fp32_param(parameter, part)
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if rank == 0:
                parameter.copy_(whole.reshape(parameter.shape))

    return place


def carry_loss_scale(saved: Mapping[str, Any], optimizer: Any) -> None:
    """ZeRO keeps it in an object `loss_scaler`; without it, a saved state has it bare, an optimizer in its settings."""
    scaler = saved.get("loss_scaler")
    found = saved if scaler is None else vars(scaler)
    holder = getattr(optimizer, "loss_scaler", None) or optimizer.loss_scale_config
    for name in _SCALE:
        if name in found and hasattr(holder, name):
            setattr(holder, name, found[name])
