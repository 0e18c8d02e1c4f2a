"""The DeepSpeed engine of a run, and the process group it lives in. The only module that imports deepspeed."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._distributed_c10d import HashStore

from dataeff.memory import keep_freed_memory
from dataeff.study.specs import PretrainSpec
from dataeff.study.types import Adam, Hardware


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def sum(self, value: float) -> float:
        """The sum of a number over all ranks, in float64."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)


def start_ranks(hardware: Hardware) -> Ranks:
    """Joins the process group that torchrun describes, or makes one of a single process without any port."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(hardware.threads)
    if torch.cuda.is_available():
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        device, backend = torch.device("cuda", local), "nccl"
    else:
        keep_freed_memory()
        device, backend = torch.device("cpu"), "gloo"
    if "RANK" in os.environ:
        torch.distributed.init_process_group(backend)
    else:
        os.environ["LOCAL_RANK"] = "0"
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Megatron's rule: biases and one-dimensional parameters are not decayed, embeddings are."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def engine_config(spec: PretrainSpec, hardware: Hardware, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. The loop decides where a step ends, since reshape changes the rows per step."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": hardware.micro_batch,
        "gradient_accumulation_steps": 1,
        "train_batch_size": hardware.micro_batch * world_size,
        "managed_gradient_accumulation": False,
        "gradient_clipping": spec.adam.clip,
        "zero_optimization": {"stage": hardware.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if spec.precision != "fp32":
        config[spec.precision] = {"enabled": True}
    return config


def make_optimizer(model: nn.Module, adam: Adam) -> torch.optim.Optimizer:
    """torch's AdamW: DeepSpeed's own would compile a kernel for minutes; the loop sets the rate at every step."""
    return torch.optim.AdamW(
        parameter_groups(model, adam.weight_decay), lr=0.0, betas=(adam.beta1, adam.beta2), eps=adam.epsilon
    )


def make_engine(model: nn.Module, spec: PretrainSpec, hardware: Hardware, ranks: Ranks) -> Any:
    compile_communication()
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=make_optimizer(model, spec.adam),
        config=engine_config(spec, hardware, ranks.world_size),
        dist_init_required=None,
    )
    if hardware.zero_stage == 0 and spec.precision == "fp32":
        _keep_gradient_norm(engine, model, spec.adam.clip)
    return engine


def _keep_gradient_norm(engine: Any, model: nn.Module, clip: float) -> None:
    """In plain fp32 the engine clips without telling the norm that it clipped by; every other mode tells it."""

    def clip_and_keep() -> None:
        engine._global_grad_norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip))

    engine.clip_fp32_gradients = clip_and_keep


def compile_communication() -> None:
    """Compiles DeepSpeed's shared-memory communication for CPUs, unless that is done, and loads it into this process:
    the ranks do so one after the other, before the engine has them wait for each other. Nothing to do with a GPU.
    """
    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _compiling():
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        ShareMemCommBuilder().load(verbose=False)


def _build_folder() -> Path:
    """Where torch keeps what it compiles: the user's own choice, else in this environment if it can be written, since
    two environments that share torch's default folder compile over each other for ever; else that default.
    """
    from torch.utils.cpp_extension import get_default_build_root

    if "TORCH_EXTENSIONS_DIR" not in os.environ and os.access(sys.prefix, os.W_OK) and sys.prefix != sys.base_prefix:
        os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(sys.prefix) / "torch_extensions")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    root.mkdir(parents=True, exist_ok=True)
    return root


@contextmanager
def _compiling() -> Iterator[None]:
    """DeepSpeed compiles its CPU communication once per environment, guarded by a lock file that outlives kill -9 and
    would then be waited for without end. All our processes compile under this lock of the kernel, so a lock file
    found while holding it was left by the dead. Each uses the ninja of its own environment, also where that is not
    on the PATH: another version of ninja would compile all over again, and again for the next process.
    """
    scripts, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != scripts:
        os.environ["PATH"] = os.pathsep.join([scripts, path])
    root = _build_folder()
    with (root / "dataeff.lock").open("w") as own:
        fcntl.flock(own, fcntl.LOCK_EX)
        # One level deep where TORCH_EXTENSIONS_DIR names the folder, two in torch's own.
        for stale in (*root.glob("deepspeed_*/lock"), *root.glob("*/deepspeed_*/lock")):
            print(f"removing {stale}, left by a process that was killed while it compiled", flush=True)
            stale.unlink(missing_ok=True)
        yield
