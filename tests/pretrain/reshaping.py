"""What a rank does beside its run, to tell what a checkpoint of other ranks has put into its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tell_states() -> None:
    """Leaves, beside the run's state, the whole weights and moments as the engine has them, by DeepSpeed's own look."""
    from dataeff.pretrain import checkpoint

    load = checkpoint._load_reshaped

    def load_and_tell(engine: Any, folder: Path, saved: Any, layout: Any, rank: int, barrier: Any) -> None:
        load(engine, folder, saved, layout, rank, barrier)
        parameters = engine.module.named_parameters()
        states = {name: _state(engine, parameter, layout.zero_stage) for name, parameter in parameters}
        if rank == 0:
            torch.save(states, folder.parent.with_name("states.pt"))

    checkpoint._load_reshaped = load_and_tell


def _state(engine: Any, parameter: Any, zero_stage: int) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if zero_stage:
        moments = {key: safe_get_full_optimizer_state(parameter, key) for key in ("exp_avg", "exp_avg_sq")}
        found = {"fp32": safe_get_full_fp32_param(parameter), **moments}
    else:
        masters = [entry for group in engine.basic_optimizer.param_groups for entry in group["params"]]
        halves = getattr(engine.optimizer, "fp16_groups", None)
        own = masters if halves is None else [entry for group in halves for entry in group]
        master = next(held for held, mine in zip(masters, own, strict=True) if mine is parameter)
        kept = engine.basic_optimizer.state[master]
        found = {"fp32": master.detach(), "exp_avg": kept["exp_avg"], "exp_avg_sq": kept["exp_avg_sq"]}
    return {key: value.detach().float().cpu().clone() for key, value in found.items()}
