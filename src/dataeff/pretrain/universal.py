"""A resume checkpoint for another number of ranks or another ZeRO stage than the ones that saved it.

DeepSpeed's universal format lies between: for every parameter its fp32 weights, Adam's two moments and count of
updates, whole, in files of their own, made by DeepSpeed's ds_to_universal. How well it goes on from there was measured
(DeepSpeed 0.19.8), pair by pair:

- ZeRO 1 and 2, to either and to any number of ranks: DeepSpeed's loader of the format puts everything where it
  belongs. It is used.
- To ZeRO 3: the loader gives every group the weight decay of the first one, and all groups one count of updates, which
  then rises once for each of them. Between ZeRO 3 and the others it ends with an error. So the tensors are put into the
  engine here, by the names of the parameters.
- From ZeRO 0: ds_to_universal knows no checkpoints without ZeRO. They hold the same whole tensors in one file, which
  are read as they are. To ZeRO 0 there is no loader.

What continues so has the same samples, and weights and moments to the bit; its losses are those of other ranks, equal
to rounding. DeepSpeed's counts of steps and fp16's loss scale go on, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, read_json
from dataeff.pretrain.placing import MOMENTS, ParameterState, States, carry_loss_scale, put
from dataeff.pretrain.remedies import is_full_disk
from dataeff.progress import Pace

LEFTOVERS = ".universal-*"
"""What a conversion that was killed leaves beside the checkpoints, by its pattern."""
_KEPT = ("fp32", *MOMENTS, "step")
_FILE_BYTES = 2048
"""What a file of torch takes beside its tensor, and a bit more."""
_TAG = "engine"


@dataclass(frozen=True)
class Layout:
    """What the files of a checkpoint depend on, beside the run, and the rows of a pass, which its roundings do."""

    world_size: int
    zero_stage: int
    precision: str | None = None
    micro_batch: int | None = None

    def fits(self, other: Layout) -> bool:
        """Whether an engine of the other layout loads these files as they are."""
        return self.zero_stage == other.zero_stage and (self.zero_stage == 0 or self.world_size == other.world_size)

    def change(self, other: Layout) -> str:
        """What is not the same in the other layout, for people; empty if nothing is."""
        if (self.world_size, self.zero_stage) != (other.world_size, other.zero_stage):
            return f"saved by {self}, on {other}"
        if self.micro_batch in (None, other.micro_batch):
            return ""
        return f"saved with micro_batch {self.micro_batch}, with {other.micro_batch}"

    def __str__(self) -> str:
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        return f"{ranks} with ZeRO {self.zero_stage}"


def layout_of(checkpoint: Path) -> Layout:
    """Of what its manifest says; where an earlier version did not say, of what DeepSpeed's files do."""
    facts = read_json(checkpoint / MANIFEST).get("layout")
    if facts is not None:
        return Layout(**facts)
    split = _files(checkpoint, "optim_states")
    stage = int(_content(split[0])["optimizer_state_dict"]["zero_stage"]) if split else 0
    return Layout(int(_content(_files(checkpoint, "model_states")[0])["dp_world_size"]), stage)


def load_converted(
    engine: Any, checkpoint: Path, saved: Layout, layout: Layout, *, rank: int, barrier: Callable[[], None]
) -> None:
    """Puts a checkpoint into an engine whose layout it does not fit and that has made no update; all ranks call it.

    The converted form lies beside the checkpoint, which stays as it is, for as long as it is read.
    """
    between = checkpoint.with_name(f".universal-{checkpoint.name}")
    names = [name for name, _ in engine.module.named_parameters()]
    if saved.zero_stage and rank == 0:
        convert(checkpoint, between, names, saved, layout)
    barrier()
    if saved.zero_stage in (1, 2) and layout.zero_stage in (1, 2):
        _load_by_deepspeed(engine, between)
    else:
        read = _whole_states(between) if saved.zero_stage else _plain_states(checkpoint, engine.module)
        put(engine, layout.zero_stage, names, read)
        _carry_counts(engine, checkpoint)
    barrier()
    if rank == 0:
        shutil.rmtree(between, ignore_errors=True)


def _load_by_deepspeed(engine: Any, between: Path) -> None:
    engine._config.load_universal_checkpoint = True
    try:
        with _plainly_named(between) as folder:
            engine.load_checkpoint(str(folder), tag=_TAG)
    finally:
        engine._config.load_universal_checkpoint = False
    for weights, state in engine.basic_optimizer.state.items():
        state["step"] = state["step"].to(weights.device)  # where torch's fused AdamW looks for it


def _carry_counts(engine: Any, checkpoint: Path) -> None:
    """DeepSpeed's counts of steps, and fp16's loss scale with what it changes by."""
    content = _content(_files(checkpoint, "model_states")[0])
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, content[name])
    if engine.fp16_enabled():
        split = _files(checkpoint, "optim_states")
        saved = _content(split[0])["optimizer_state_dict"] if split else content["optimizer"]
        carry_loss_scale(saved, engine.optimizer)


# --- conversion ----------------------------------------------------------------------------------------------


def conversion_bytes(checkpoint: Path, parameters: int, saved: Layout) -> int:
    """What a conversion takes on disk at most: every rank's parts cut up by parameter, and those put together.

    Of ZeRO 3, rank 0's parts are kept whole in it, too. `parameters`: how many there are, each in files of its own.
    """
    parts = [file.stat().st_size for file in _files(checkpoint, "optim_states")]
    rest = (
        parts[0] if saved.zero_stage == 3 else sum(file.stat().st_size for file in _files(checkpoint, "model_states"))
    )
    return 2 * sum(parts) + rest + _FILE_BYTES * len(_KEPT) * parameters * (saved.world_size + 1)


def convert(checkpoint: Path, target: Path, names: Sequence[str], saved: Layout, layout: Layout) -> None:
    """Writes DeepSpeed's universal form of a checkpoint with ZeRO to the folder `target`, whole or not at all.

    `names`: of all parameters. Raises a DataeffError where there is no room, or DeepSpeed cannot do it.
    """
    needed, free = conversion_bytes(checkpoint, len(names), saved), shutil.disk_usage(checkpoint).free
    if free < needed:
        raise DataeffError(
            f"{checkpoint}: saved by {saved}; to continue on {layout} it is converted, which takes {needed:,} bytes "
            f"beside it for a while, and {free:,} are free; make room, or continue on {saved}"
        )
    print(
        f"{checkpoint}: saved by {saved}; converting it for {layout}, which takes up to {needed:,} bytes beside it "
        f"until it is loaded",
        flush=True,
    )
    half = target.with_name(f"{target.name}.half")
    for folder in (target, half):
        shutil.rmtree(folder, ignore_errors=True)
    half.mkdir()
    try:
        with _told(half, needed):
            _convert(checkpoint, half)
        lacking = [name for name in names if not (half / _TAG / "zero" / name / "fp32.pt").is_file()]
        if lacking:
            raise LookupError(f"no weights of {lacking[0]} in it")
    except Exception as error:
        shutil.rmtree(half, ignore_errors=True)
        if is_full_disk(error):
            raise
        raise DataeffError(
            f"{checkpoint}: saved by {saved}, and DeepSpeed cannot convert it to continue on {layout} "
            f"({type(error).__name__}: {error}); continue on {saved}, or delete it to begin anew"
        ) from error
    half.rename(target)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    with _plainly_named(source) as given, _plainly_named(target) as made:
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=str(given / _TAG),
                output_folder=str(made / _TAG),
                num_extract_workers=1,  # in this process: its threads and sockets do not survive a fork
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # the patterns of tensor parallelism, of which there is none
            )
        )


@contextlib.contextmanager
def _plainly_named(folder: Path) -> Iterator[Path]:
    """A link to the folder: DeepSpeed takes the path that it is given for a pattern."""
    with tempfile.TemporaryDirectory(prefix="dataeff-") as place:
        link = Path(place) / "folder"
        link.symlink_to(folder.absolute())
        yield link


@contextlib.contextmanager
def _told(folder: Path, total_bytes: int) -> Iterator[None]:
    """What is said inside is kept back; how far the folder has grown is told instead, where it takes long."""
    done, stream, pace = threading.Event(), sys.stdout, Pace(total_bytes)

    def tell() -> None:
        while not done.wait(1.0):
            # Parts vanish while they are counted.
            with contextlib.suppress(FileNotFoundError):
                written = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                reading = pace.reading(written)
                if reading is not None:
                    print(f"converting: {written / total_bytes:.0%}, {reading.left}", file=stream, flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        done.set()
        teller.join()


# --- reading -------------------------------------------------------------------------------------------------


def _files(checkpoint: Path, kind: str) -> list[Path]:
    return sorted((checkpoint / _TAG).glob(f"*_{kind}.pt"))


def _content(file: Path) -> Any:
    """Tensors are read when they are used."""
    return torch.load(file, map_location="cpu", weights_only=False, mmap=True)


def _whole_states(between: Path) -> States:
    """Of a converted checkpoint."""
    zero = between / _TAG / "zero"
    common = _content(zero / "optimizer_state.pt").get("optimizer_state_dict")

    def tensor(file: Path) -> Tensor:
        found = _content(file)  # ds_to_universal writes bare tensors for ZeRO 3 alone
        return found["param"] if isinstance(found, dict) else found  # type: ignore[no-any-return]

    def read(name: str) -> ParameterState:
        own = zero / name
        step = _content(own / "step.pt") if common is None else common["state"][0]["step"]
        return ParameterState(tensor(own / "fp32.pt"), {key: tensor(own / f"{key}.pt") for key in MOMENTS}, float(step))

    return read


def _plain_states(checkpoint: Path, network: nn.Module) -> States:
    """Of a checkpoint without ZeRO: half precision keeps its fp32 weights in the optimizer's state."""
    content = _content(_files(checkpoint, "model_states")[0])
    saved = content["optimizer"]
    adam = saved.get("optimizer_state_dict", saved)["state"]
    masters = [tensor for group in saved.get("fp32_groups", []) for tensor in group]
    places = {name: place for place, name in enumerate(names_by_group(network))}

    def read(name: str) -> ParameterState:
        place = places[name]
        weights = masters[place] if masters else content["module"][name]
        state = adam.get(place)
        moments = None if state is None else {key: state[key] for key in MOMENTS}
        return ParameterState(weights.detach(), moments, 0.0 if state is None else float(state["step"]))

    return read


def names_by_group(network: nn.Module) -> list[str]:
    """The parameters' names in the order of engine.parameter_groups, also where ZeRO 3 hides their dimensions."""

    def is_plain(named: tuple[str, Any]) -> bool:
        return len(getattr(named[1], "ds_shape", named[1].shape)) < 2

    return [name for name, _ in sorted(network.named_parameters(), key=is_plain)]
