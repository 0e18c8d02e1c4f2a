"""The DeepSpeed engine of a run, and the process group it lives in. The only module that imports deepspeed."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from dataeff.memory import keep_freed_memory
from dataeff.study.specs import PretrainSpec
from dataeff.study.types import Adam, Hardware


@dataclass(frozen=True)
class Ranks:
    """One rank among its like. `store`: what all share by name, also while some wait and others do not."""

    rank: int
    world_size: int
    device: torch.device
    store: Store

    def barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def sums(self, totals: Tensor) -> list[float]:
        """The sum of each of these numbers, float64 on the device, over all ranks. Changes `totals`. On a GPU the host
        waits here, once for all of them.
        """
        if self.world_size > 1:
            torch.distributed.all_reduce(totals)
        return [float(total) for total in totals.tolist()]

    def smallest(self, value: int) -> int:
        """The smallest of all ranks' numbers."""
        if self.world_size == 1:
            return value
        least = torch.tensor(value, dtype=torch.int64, device=self.device)
        torch.distributed.all_reduce(least, op=torch.distributed.ReduceOp.MIN)
        return int(least)

    def of_first(self, value: int) -> int:
        """Rank 0's number."""
        if self.world_size == 1:
            return value
        told = torch.tensor(value, dtype=torch.int64, device=self.device)
        torch.distributed.broadcast(told, src=0)
        return int(told)


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
        store, rank, world_size = next(rendezvous("env://"))
    else:
        os.environ["LOCAL_RANK"] = "0"
        store, rank, world_size = HashStore(), 0, 1
    torch.distributed.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        # The watch of hung ranks, which tells more, comes first: see watch.py.
        timeout=timedelta(seconds=2 * hardware.timeout_seconds + 60),
    )
    return Ranks(rank, world_size, device, PrefixStore("dataeff", store))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Megatron's rule: biases and one-dimensional parameters are not decayed, embeddings are."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def engine_config(spec: PretrainSpec, hardware: Hardware, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration. The loop decides where a step ends, since reshape changes the rows per step."""
    rows = 1 if hardware.micro_batch == "auto" else hardware.micro_batch  # for the engine's own count of samples only
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": 1,
        "train_batch_size": rows * world_size,
        "managed_gradient_accumulation": False,
        "gradient_clipping": spec.adam.clip,
        "zero_optimization": {"stage": hardware.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31,
    }
    if spec.precision != "fp32":
        config[spec.precision] = {"enabled": True}
    return config


class GuardedAdamW(torch.optim.AdamW):
    """torch's AdamW (DeepSpeed's own would compile a kernel for minutes) that leaves weights and moments as they are
    where the step's loss or gradient norm is no finite number, as far as it was told them.
    """

    loss = 0.0
    gradient_norm = 0.0

    def step(self, closure: Any = None) -> Any:
        if math.isfinite(self.loss) and math.isfinite(self.gradient_norm):
            return super().step(closure)
        return None


def make_optimizer(model: nn.Module, adam: Adam) -> GuardedAdamW:
    """The loop sets its rate at every step. One kernel does all there is to do to a weight: on a CPU in a quarter of
    the time that torch takes by its own choice, and on a GPU without the host waiting.
    """
    groups, betas = parameter_groups(model, adam.weight_decay), (adam.beta1, adam.beta2)
    return GuardedAdamW(groups, lr=0.0, betas=betas, eps=adam.epsilon, fused=True)


def checkpoint_activations(model: Any) -> None:
    """Has each layer of a library's model keep its input alone and compute the rest again in the backward pass."""
    # The library is about to rename it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def make_engine(model: nn.Module, spec: PretrainSpec, hardware: Hardware, ranks: Ranks) -> Any:
    compile_communication()
    import deepspeed
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if GuardedAdamW not in ZERO_SUPPORTED_OPTIMIZERS:  # as torch's own is
        ZERO_SUPPORTED_OPTIMIZERS.append(GuardedAdamW)
    if hardware.activation_checkpointing:
        checkpoint_activations(model)
    optimizer = make_optimizer(model, spec.adam)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=engine_config(spec, hardware, ranks.world_size),
        dist_init_required=None,
    )
    # Without ZeRO, half precision makes its moments by a step with no gradient: Adam's count of steps, by which it
    # corrects its first moments, would be one ahead for ever.
    optimizer.state.clear()
    if hardware.zero_stage == 0 and spec.precision == "fp32":
        _keep_gradient_norm(engine, model, optimizer, spec.adam.clip)
    return engine


def update(engine: Any, loss: float) -> float:
    """Ends a step: an update of the weights, unless the loss (the same on all ranks) or the gradient is no finite
    number. Returns the gradient's norm; inf where DeepSpeed found no finite one.
    """
    engine.basic_optimizer.loss = loss
    engine.step()
    norm = engine.get_global_grad_norm()
    return math.inf if norm is None or getattr(engine.optimizer, "overflow", False) else float(norm)


def _keep_gradient_norm(engine: Any, model: nn.Module, optimizer: GuardedAdamW, clip: float) -> None:
    """In plain fp32 the engine clips without telling the norm that it clipped by, and updates whatever it is; every
    other mode tells it, and makes no update of what is no number.
    """

    def clip_and_keep() -> None:
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip))
        engine._global_grad_norm = optimizer.gradient_norm = norm

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
