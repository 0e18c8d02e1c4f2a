"""The transformer layers of a run, compiled by torch.compile once for all of them and for every length.

A model's layers are one class with other parameters, so its forward is compiled, not a module: one compilation serves
all layers. Rows and positions are symbols, so it also serves every length and every number of kept tokens; token
dropping gathers and scatters outside of it, and a dropping layer is to the compiler a shorter one. Compiled anew is
only what differs in kind: training or evaluation, one row or several (torch compiles a size of 1 apart), no mask or one
of another kind. `warm_up` goes through each kind that the run will meet, before its first step.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from operator import add
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dataeff.errors import DataeffError
from dataeff.pretrain.remedies import is_out_of_memory, out_of_memory
from dataeff.pretrain.step import passes
from dataeff.token_drop import Dropping, transformer_layers

if TYPE_CHECKING:
    from torch import Tensor

    from dataeff.pretrain.loop import Trainer

KINDS_AT_MOST = 64
"""More compilations of one layer class than this are an error: torch would go on uncompiled without a word."""


def compile_layers(network: nn.Module, device: torch.device | str, backend: str = "inductor") -> None:
    """Has every layer of a library's model run compiled; after TokenDrop is attached, whose gathering stays as it is.

    Names of parameters and weights do not change. Nothing is compiled yet.
    """
    from torch.fx.experimental import _config as shapes

    if backend == "inductor":
        check_compiler(torch.device(device))
    # Sizes that are equal by chance (2,048 positions of a hidden size of 2,048) would be taken for one and the same.
    shapes.use_duck_shape = False
    torch._dynamo.config.recompile_limit = KINDS_AT_MOST
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    forwards: dict[type[nn.Module], Callable[..., Any]] = {}
    for layer in transformer_layers(network):
        if type(layer) not in forwards:
            forwards[type(layer)] = compiled_forward(type(layer), backend)
        forward = forwards[type(layer)]
        dropping = vars(layer).get("forward")
        if isinstance(dropping, Dropping):
            dropping.forward = forward
        else:
            layer.forward = MethodType(forward, layer)


def compiled_forward(kind: type[nn.Module], backend: str = "inductor") -> Callable[..., Any]:
    """The forward of a layer class, compiled for any rows and positions; activation checkpointing goes around it."""
    if not issubclass(kind, GradientCheckpointingLayer):
        raise DataeffError(f"hardware.compile: {kind.__name__} is no layer of a library's model; set compile: false")
    plain = kind.forward.__wrapped__  # type: ignore[attr-defined]
    compiled = torch.compile(plain, dynamic=True, fullgraph=True, backend=backend)

    def forward(layer: Any, hidden_BSD: Tensor, *args: Any, **kwargs: Any) -> Any:
        # A single token (of dropped rows: see token_drop) is not worth a kind of its own.
        run = compiled if hidden_BSD.shape[1] > 1 else plain
        args = tuple(_alone(value) for value in args)
        kwargs = {name: _alone(value) for name, value in kwargs.items()}
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(partial(run, layer, **kwargs), hidden_BSD, *args)
        return run(layer, hidden_BSD, *args, **kwargs)

    return forward


def _alone(value: Any) -> Any:
    """A mask that is a view would be a kind of its own beside a gathered one: torch looks at what it is a view of."""
    return value.detach() if isinstance(value, torch.Tensor) and value._is_view() else value


def check_compiler(device: torch.device) -> None:
    """Refuses a machine without what torch's compiler itself needs; says so in one message.

    Also keeps the compiler in this process unless the user says otherwise: a few kernels need no pool of processes,
    which would outlive a rank that is killed.
    """
    import torch._inductor.config as inductor
    from torch._inductor import cpp_builder, exc
    from torch.utils._triton import has_triton

    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        inductor.compile_threads = 1
    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        wanted = os.environ.get("CXX", "g++")
        raise DataeffError(
            f"hardware.compile: true needs a C++ compiler, and '{wanted}' was not found; install g++, name another "
            f"compiler in the variable CXX, or set compile: false"
        ) from None
    if device.type == "cuda" and not has_triton():
        raise DataeffError(
            "hardware.compile: true needs triton for this GPU, and it was not found; install torch's build for CUDA, "
            "or set compile: false"
        )


def compilations() -> int:
    """How many graphs this process has compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def warm_up(trainer: Trainer) -> None:
    """Compiles everything that the run's passes will need, by passes that leave no trace: their gradients go nowhere,
    each step seeds its own dropout. The same ones at every start, since what is compiled may depend on the first sizes.
    """
    name, begun, before = trainer.spec.run.name, time.monotonic(), compilations()
    if trainer.ranks.rank == 0:
        print(f"{name}: compiling the layers", flush=True)
    for step, rows in training_passes(trainer):
        with _explained(name, rows):
            _train_pass(trainer, step, rows)
    with _explained(name, trainer.micro_batch):
        _probe_passes(trainer)
    if trainer.ranks.rank == 0:
        seconds, made = time.monotonic() - begun, compilations() - before
        print(f"{name}: {made} kinds of a layer's pass compiled in {seconds:.0f} s", flush=True)


@contextmanager
def _explained(name: str, rows: int) -> Iterator[None]:
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataeffError(f"{name}: its layers cannot be compiled ({reason}); set hardware.compile: false") from error
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory(name, rows) from error
        raise


def training_passes(trainer: Trainer) -> list[tuple[int, int]]:
    """(0-based step, rows of a pass), one of every kind that the run's passes have."""
    return largest_passes(trainer.columns, *pass_rows(trainer))


def largest_passes(columns: Mapping[str, np.ndarray], fewest: np.ndarray, most: np.ndarray) -> list[tuple[int, int]]:
    """(0-based step, rows) of the largest pass of each kind: one row or several, tokens dropped or not, with windows of
    attention or without. `columns`: the plan's; `fewest`, `most` [steps]: rows of a step's passes.
    """
    length, kept = columns["sequence_length"], columns["kept_tokens"]
    windowed = columns["window"] < length if "window" in columns else np.zeros(len(length), dtype=bool)
    kind = (kept < length) + 2 * windowed
    order = np.lexsort((kept, length))
    found = []
    for rows, having in ((np.ones_like(most), fewest == 1), (most, most > 1)):
        steps = order[having[order]].tolist()
        largest = {int(kind[step]): step for step in steps}  # the last of each kind stays
        found += [(step, int(rows[step])) for step in largest.values()]
    return found


def pass_rows(trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
    """The fewest and the most rows of this rank's passes, by step [steps]; where that is not known yet, 1 and 2."""
    columns, ranks = trainer.columns, trainer.ranks
    pairs, place = np.unique(np.stack([columns["sequence_length"], columns["rows"]]), axis=1, return_inverse=True)
    counts = np.empty((2, pairs.shape[1]), dtype=np.int64)
    for column, (length, rows) in enumerate(pairs.T.tolist()):
        at_once = 2 if trainer.hardware.micro_batch == "auto" else trainer.rows_a_pass(length)
        parts = [len(part) for part, _ in passes(rows, at_once, ranks.rank, ranks.world_size)]
        counts[:, column] = min(parts), max(parts)
    if trainer.hardware.micro_batch == "auto" or trainer.spec.route == "samples":
        counts[0] = 1  # of dropped rows any number may be left
    fewest, most = counts[:, place.reshape(-1)]
    return fewest, most


def _train_pass(trainer: Trainer, step: int, count: int) -> None:
    columns, device = trainer.columns, trainer.ranks.device
    length, kept = int(columns["sequence_length"][step]), int(columns["kept_tokens"][step])
    if trainer.spec.route == "samples":
        kept = length  # which rows are dropped decides how many are left; where none is, all are
    ids = next(trainer.plan.order.iterate(step))
    batch = trainer.family.step_batch(trainer.samples, ids, trainer.cut(step, length))
    rows = np.arange(count, dtype=np.int64)
    weight = cast(Any, trainer.network).get_input_embeddings().weight
    for part in masked_and_whole(batch.part(rows, device)):
        if trainer.token_drop is not None:
            trainer.token_drop.set_step(step, kept=kept, rows_B=torch.from_numpy(rows), rows=batch.rows)
        losses = trainer.family.loss_sums(trainer.network, part)
        # The gradient of a weight before all layers: through the backward of all of them, and added to nothing.
        torch.autograd.grad(reduce(add, losses.values()), [weight])


def _probe_passes(trainer: Trainer) -> None:
    count, device = trainer.probe.rows, trainer.ranks.device
    sizes = {min(count, trainer.micro_batch), count % trainer.micro_batch or trainer.micro_batch}
    if trainer.hardware.micro_batch == "auto":
        sizes = {1, min(2, count)}
    trainer.network.eval()
    with torch.no_grad():
        for rows in sorted(sizes):
            for part in masked_and_whole(trainer.probe.part(slice(0, rows), device)):
                trainer.family.probe_sums(trainer.network, part)
    trainer.network.train()


def masked_and_whole(part: Mapping[str, Tensor]) -> list[Mapping[str, Tensor]]:
    """A micro-batch as it is; of one that says how long its rows are, both with and without padding: some steps have
    padding and some have none, and the layers get a mask or get none.
    """
    if "lengths" not in part:
        return [part]
    width = part["tokens"].shape[1]
    whole = torch.full_like(part["lengths"], width)
    return [{**part, "lengths": whole}, {**part, "lengths": whole - 1}]
