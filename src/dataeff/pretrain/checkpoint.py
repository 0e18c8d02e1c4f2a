"""Resume checkpoints: whole or absent, each with a manifest, the newest sound one is taken.

A checkpoint is a folder `step-00000050` of the state folder, written under another name and renamed when every
file and the manifest are on disk. It holds the engine's state and, in a run that exports an average of its weights,
what is averaged so far; the place in the data is the step number alone. The manifest says which layout of ranks the
files are of: an engine of another one loads them by way of DeepSpeed's universal form.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataeff.files import MANIFEST, check_manifest, read_json, write_manifest
from dataeff.pretrain.average import WeightAverage, average_files
from dataeff.pretrain.universal import LEFTOVERS, Layout, layout_of, load_converted

ALONE = Layout(world_size=1, zero_stage=0)
_NAME = re.compile(r"^step-(\d{8})$")
_LEFTOVERS = (".saving-*", LEFTOVERS)
"""What a process that was killed leaves, which nothing reads."""


@dataclass(frozen=True)
class Kept:
    """Which checkpoints stay: the newest `last`, and those of every `every` steps (None: no such)."""

    last: int = 2
    every: int | None = None

    def for_good(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0


def folder_of(state: Path, step: int) -> Path:
    return state / f"step-{step:08d}"


def list_checkpoints(state: Path) -> list[tuple[int, Path]]:
    """(step, folder) of every complete checkpoint, newest first."""
    found = [(int(match[1]), path) for path in state.glob("step-*") if (match := _NAME.match(path.name))]
    return sorted(found, reverse=True)


def save(
    engine: Any,
    state: Path,
    step: int,
    identity: dict[str, str],
    *,
    rank: int,
    barrier: Any,
    layout: Layout = ALONE,
    average: WeightAverage | None = None,
    kept: Kept = Kept(),
) -> None:
    """Saves after `step` steps are done; all ranks call it. `identity`: digests that a resume must match; `average`:
    this rank's part, if it has one. What could not be written whole is removed: a full disk gets its room back.
    """
    temporary = state / f".saving-{step:08d}"
    if rank == 0:
        for leftover in (found for pattern in _LEFTOVERS for found in state.glob(pattern)):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
    barrier()
    try:
        engine.save_checkpoint(str(temporary), tag="engine", save_latest=False)
        if average is not None:
            average.save(temporary)
        barrier()
        if rank == 0:
            write_manifest(temporary, step=step, layout=asdict(layout), **identity)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if rank == 0:
        target = folder_of(state, step)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        remove_old(state, kept)
    barrier()


def remove_old(state: Path, kept: Kept) -> None:
    """Removes the checkpoints that nothing asks to keep."""
    for step, old in list_checkpoints(state)[kept.last :]:
        if not kept.for_good(step):
            shutil.rmtree(old)


def clear(state: Path, kept: Kept) -> None:
    """Removes what a finished run needs no more: all, but for checkpoints that are kept for good and their logs."""
    found = list_checkpoints(state)
    if not any(kept.for_good(step) for step, _ in found):
        shutil.rmtree(state)
        return
    for step, folder in found:
        if not kept.for_good(step):
            shutil.rmtree(folder)


def bytes_needed(state: Path, parameters: int, precision: str) -> int:
    """What a checkpoint takes on disk: as the newest one, else weights and Adam's moments; in half precision, the
    weights in both.
    """
    for _, folder in list_checkpoints(state):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return parameters * (12 if precision == "fp32" else 14)


def newest_sound(state: Path, identity: dict[str, str], *, averaged: bool = False) -> tuple[int, Path] | None:
    """The newest checkpoint with files as in its manifest, those of an average among them if the run has one, and this
    run's identity, whichever layout saved it; says what it passes over.
    """
    for step, folder in list_checkpoints(state):
        fault = check_manifest(folder)
        if fault is None:
            facts = read_json(folder / MANIFEST)
            differing = [name for name, digest in identity.items() if facts.get(name) != digest]
            missing = [name for name in _averages(folder) if name not in facts["files"]] if averaged else []
            if not differing and not missing:
                return step, folder
            fault = (
                f"{folder} belongs to another {' and '.join(differing)}"
                if differing
                else f"{folder} lacks {', '.join(missing)}, which this run needs to continue its average of the weights"
            )
        print(f"checkpoint passed over: {fault}", flush=True)
    return None


def _averages(folder: Path) -> list[str]:
    """The files that a checkpoint's average lies in, by the layout that saved it."""
    saved = layout_of(folder)
    return average_files(saved.zero_stage, saved.world_size)


def load(
    engine: Any,
    folder: Path,
    average: WeightAverage | None = None,
    *,
    layout: Layout = ALONE,
    rank: int = 0,
    barrier: Callable[[], None] = lambda: None,
) -> Layout:
    """Loads a checkpoint into an engine of this layout, which has made no update, whichever layout saved it; which did.
    All ranks call it.
    """
    saved = layout_of(folder)
    if saved.fits(layout):
        engine.load_checkpoint(str(folder), tag="engine")
    else:
        load_converted(engine, folder, saved, layout, rank=rank, barrier=barrier)
    if average is not None:
        average.load(folder, _averages(folder))
    return saved
