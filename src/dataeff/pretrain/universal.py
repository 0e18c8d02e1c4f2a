"""A resume checkpoint for another number of ranks or another ZeRO stage than the ones that saved it.

DeepSpeed's own universal format lies between: for every parameter its fp32 weights and Adam's two moments, whole, in
files of their own. ZeRO 1, 2 and 3 are converted by DeepSpeed's ds_to_universal. It knows no checkpoints without ZeRO,
which hold the same whole tensors in one file: they are read as they are. DeepSpeed's own loader of the format wants
the stage family that saved; here the tensors go into any engine, by the names of the parameters.

What continues so has the same samples, weights and moments to the bit, and from there on the losses of other ranks:
equal to rounding. A dynamic loss scale (fp16) is found anew.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, read_json

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Layout:
    """What the files of a checkpoint depend on, beside the run."""

    world_size: int
    zero_stage: int

    def fits(self, other: Layout) -> bool:
        """Whether an engine of the other layout loads these files as they are."""
        return self.zero_stage == other.zero_stage and (self.zero_stage == 0 or self.world_size == other.world_size)

    def __str__(self) -> str:
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return f"{ranks} with ZeRO {self.zero_stage}"


@dataclass(frozen=True)
class ParameterState:
    """One parameter, whole: fp32 weights, and Adam's moments by name; None where it has not been stepped yet."""

    weights: Tensor
    moments: dict[str, Tensor] | None


def layout_of(folder: Path) -> Layout | None:
    """Of a checkpoint; None of one that does not say, of an earlier version."""
    facts = read_json(folder / MANIFEST).get("layout")
    return None if facts is None else Layout(**facts)


def convert(checkpoint: Path, target: Path, saved: Layout) -> None:
    """Writes DeepSpeed's universal form of a checkpoint with ZeRO to `target`; one rank calls it."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    said = io.StringIO()
    arguments = argparse.Namespace(
        input_folder=str(checkpoint / "engine"),
        output_folder=str(target / "engine"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            ds_to_universal.main(arguments)
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise
        raise DataeffError(
            f"{checkpoint}: saved by {saved}, and DeepSpeed cannot convert it ({type(error).__name__}: {error}); "
            f"continue with the ranks and zero_stage that saved it"
        ) from error


def read_universal(folder: Path) -> Callable[[str], ParameterState]:
    """The states of a converted checkpoint, read one at a time."""

    def read(name: str) -> ParameterState:
        place = folder / "engine" / "zero" / name
        parts = {file.stem: _tensor(file) for file in place.glob("*.pt") if file.stem in ("fp32", *MOMENTS)}
        moments = {key: parts[key] for key in MOMENTS} if set(MOMENTS) <= set(parts) else None
        return ParameterState(parts["fp32"], moments)

    return read


def _tensor(file: Path) -> Tensor:
    content = torch.load(file, map_location="cpu", weights_only=False)
    tensor: Tensor = content["param"] if isinstance(content, dict) else content
    return tensor


def read_plain(folder: Path, names: list[str]) -> Callable[[str], ParameterState]:
    """The states of a checkpoint without ZeRO; `names` in the order of the optimizer's groups."""
    file = folder / "engine" / "mp_rank_00_model_states.pt"
    content = torch.load(file, map_location="cpu", weights_only=False)
    saved = content["optimizer"]
    adam = saved.get("optimizer_state_dict", saved)["state"]
    masters = [tensor for group in saved.get("fp32_groups", []) for tensor in group]
    states = {}
    for number, name in enumerate(names):
        weights = masters[number] if masters else content["module"][name]
        moments = {key: adam[number][key] for key in MOMENTS} if number in adam else None
        states[name] = ParameterState(weights.detach().float(), moments)
    return states.__getitem__


def names_by_group(network: nn.Module) -> list[str]:
    """The parameters' names in the order of engine.parameter_groups, also where ZeRO 3 hides their dimensions."""
    return [name for name, _ in sorted(network.named_parameters(), key=lambda named: len(_shape(named[1])) < 2)]


def put(engine: Any, network: nn.Module, zero_stage: int, steps: int, read: Callable[[str], ParameterState]) -> None:
    """Puts whole weights and moments into an engine of any stage that has made no step; all ranks call it."""
    stepped = False
    for name, parameter in network.named_parameters():
        state = read(name)
        if state.moments is not None and not stepped:
            stepped = True
            _make_moments(engine, zero_stage, steps)
        _put_weights(engine, parameter, state.weights, zero_stage)
        for key, moment in (state.moments or {}).items():
            _put_part(engine, parameter, moment, key, zero_stage)
    engine.global_steps = steps


def _masters(engine: Any, zero_stage: int) -> Iterator[Tensor]:
    """The tensors that the optimizer steps: the parameters themselves, their fp32 copies, or this rank's parts."""
    optimizer = engine.optimizer
    if zero_stage == 3:
        yield from optimizer.fp32_partitioned_groups_flat
    elif zero_stage:
        yield from optimizer.single_partition_of_fp32_groups
    else:
        for group in engine.basic_optimizer.param_groups:
            yield from group["params"]


def _make_moments(engine: Any, zero_stage: int, steps: int) -> None:
    for master in _masters(engine, zero_stage):
        moments = {key: torch.zeros_like(master, requires_grad=False) for key in MOMENTS}
        engine.basic_optimizer.state[master] = {"step": torch.tensor(float(steps)), **moments}
    if zero_stage in (1, 2):
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _put_weights(engine: Any, parameter: Any, whole: Tensor, zero_stage: int) -> None:
    import deepspeed

    value = whole.reshape(_shape(parameter)).to(parameter.device)
    with torch.no_grad():
        if zero_stage == 3:
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if torch.distributed.get_rank() == 0:
                    parameter.data.copy_(value)
        else:
            parameter.data.copy_(value)
    _put_part(engine, parameter, whole, None, zero_stage)


def _put_part(engine: Any, parameter: Any, whole: Tensor, key: str | None, zero_stage: int) -> None:
    """This rank's part of fp32 weights (key None) or of a moment."""
    flat = whole.detach().float().flatten()
    if zero_stage == 3:
        part, _ = engine.optimizer._get_fp32_opt_state_partition(parameter, False, optim_state_key=key)
        begin = torch.distributed.get_rank() * part.numel()
        own = flat[begin : begin + part.numel()]
        part.data[: own.numel()].copy_(own)
    elif zero_stage:
        if parameter._hp_mapping is not None:
            address = parameter._hp_mapping.lp_fragment_address
            held = parameter._hp_mapping.get_hp_fragment(key)
            held.data.copy_(flat.narrow(0, address.start, address.numel))
    else:
        master = _plain_master(engine, parameter)
        held = master if key is None else engine.basic_optimizer.state[master][key]
        held.data.copy_(flat.reshape(held.shape))


def _plain_master(engine: Any, parameter: Any) -> Any:
    """The parameter itself in fp32; in half precision its fp32 copy."""
    halves = getattr(engine.optimizer, "fp16_groups", None)
    if halves is None:
        return parameter
    for group, masters in zip(halves, engine.optimizer.fp32_groups, strict=True):
        for half, master in zip(group, masters, strict=True):
            if half is parameter:
                return master
    raise LookupError("a parameter that the optimizer does not step")


def _shape(parameter: Any) -> Any:
    return getattr(parameter, "ds_shape", parameter.shape)
