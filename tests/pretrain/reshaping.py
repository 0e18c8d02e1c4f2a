"""What a rank does beside its run: tells what its engine holds when it saves and once it loaded, or dies on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def tell_states() -> None:
    """Leaves files `saved-STEP` and `loaded-STEP` beside the run's state: the whole fp32 weights, moments and weights
    in use by parameter, as DeepSpeed itself looks them up, Adam's count of updates, DeepSpeed's of steps.
    """
    from dataeff.pretrain import checkpoint

    save, load = checkpoint.save, checkpoint.load

    def save_and_tell(engine: Any, state: Path, step: int, *arguments: Any, **named: Any) -> None:
        _tell(engine, state.with_name(f"saved-{step}"), named["rank"])
        save(engine, state, step, *arguments, **named)

    def load_and_tell(engine: Any, folder: Path, *arguments: Any, **named: Any) -> Any:
        found = load(engine, folder, *arguments, **named)
        _tell(engine, folder.parent.with_name(f"loaded-{int(folder.name.removeprefix('step-'))}"), named["rank"])
        return found

    checkpoint.save, checkpoint.load = save_and_tell, load_and_tell  # type: ignore[assignment]


def gradients_are_no_numbers_and_tell_states() -> None:
    from tests.pretrain.faults import gradients_are_no_numbers

    gradients_are_no_numbers()
    tell_states()


def die_while_converting() -> None:
    """By kill -9, when every rank's parts are cut up and the first parameter is put together."""
    from deepspeed.checkpoint import ds_to_universal

    merge: Callable[..., Any] = ds_to_universal.merge_tp_slices

    def merge_and_die(*arguments: Any) -> None:
        merge(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    ds_to_universal.merge_tp_slices = merge_and_die


def _tell(engine: Any, file: Path, rank: int) -> None:
    stage = engine.zero_optimization_stage()
    if stage in (1, 2):  # it looks moments up as they were after its first update, where it does at all
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    found = {name: _state(engine, parameter, stage) for name, parameter in engine.module.named_parameters()}
    updates = {float(state["step"]) for state in engine.basic_optimizer.state.values()}
    counts = (engine.global_steps, engine.global_samples, engine.skipped_steps)
    decays = [group["weight_decay"] for group in engine.basic_optimizer.param_groups]
    if rank == 0:
        torch.save({"states": found, "updates": updates, "counts": counts, "decays": decays}, file)


def _state(engine: Any, parameter: Any, stage: int) -> dict[str, torch.Tensor]:
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if stage:
        found = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
        found["fp32"] = safe_get_full_fp32_param(parameter)
    else:
        masters = [entry for group in engine.basic_optimizer.param_groups for entry in group["params"]]
        halves = getattr(engine.optimizer, "fp16_groups", None)
        own = masters if halves is None else [entry for group in halves for entry in group]
        master = next(held for held, mine in zip(masters, own, strict=True) if mine is parameter)
        found = {key: engine.basic_optimizer.state[master][key] for key in MOMENTS}
        found["fp32"] = master
    with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
        found["in use"] = parameter.detach().clone()
    return {key: value.detach().float().cpu().flatten().clone() for key, value in found.items()}
