"""Resume checkpoints: whole or absent, each with a manifest, the newest sound one is taken.

A checkpoint is a folder `step-00000050` of the state folder, written under another name and renamed when every
file and the manifest are on disk. It holds the engine's state and, in a run that exports an average of its weights,
what is averaged so far; the place in the data is the step number alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataeff.files import MANIFEST, check_manifest, read_json, write_manifest
from dataeff.pretrain.average import WeightAverage

_NAME = re.compile(r"^step-(\d{8})$")
KEEP = 2


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
    average: WeightAverage | None = None,
) -> None:
    """Saves after `step` steps are done; all ranks call it. `identity`: digests that a resume must match; `average`:
    this rank's part, if it has one.
    """
    temporary = state / f".saving-{step:08d}"
    if rank == 0:
        for leftover in state.glob(".saving-*"):
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
    barrier()
    engine.save_checkpoint(str(temporary), tag="engine", save_latest=False)
    if average is not None:
        average.save(temporary)
    barrier()
    if rank == 0:
        write_manifest(temporary, step=step, **identity)
        target = folder_of(state, step)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        for _, old in list_checkpoints(state)[KEEP:]:
            shutil.rmtree(old)
    barrier()


def newest_sound(state: Path, identity: dict[str, str], needed: Sequence[str] = ()) -> tuple[int, Path] | None:
    """The newest checkpoint with files as in its manifest, the `needed` ones among them, and this run's identity; says
    what it passes over.
    """
    for step, folder in list_checkpoints(state):
        fault = check_manifest(folder)
        if fault is None:
            facts = read_json(folder / MANIFEST)
            differing = [name for name, digest in identity.items() if facts.get(name) != digest]
            missing = [name for name in needed if name not in facts["files"]]
            if not differing and not missing:
                return step, folder
            fault = (
                f"{folder} belongs to another {' and '.join(differing)}"
                if differing
                else f"{folder} lacks {', '.join(missing)}, which this run needs to continue its average of the weights"
            )
        print(f"checkpoint passed over: {fault}", flush=True)
    return None


def load(engine: Any, folder: Path, average: WeightAverage | None = None) -> None:
    engine.load_checkpoint(str(folder), tag="engine")
    if average is not None:
        average.load(folder)
