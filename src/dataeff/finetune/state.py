"""What a stopped finetuning keeps: one file for each finished training, of a learning rate and a seed.

A file holds the training's outputs for every split and epoch and names what it was made from (spec, weights, data);
one that was made from something else, or is damaged, is removed and its training runs again.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataeff.files import atomic_path
from dataeff.finetune.train import Epoch, Trained


@dataclass(frozen=True)
class State:
    """The folder and the digests that its files must name."""

    folder: Path
    made_from: Mapping[str, str]

    def _path(self, learning_rate: float, seed: int) -> Path:
        return self.folder / f"{learning_rate!r}-s{seed}.npz"

    def keep(self, trained: Trained) -> None:
        facts = {
            "made_from": dict(self.made_from),
            "steps": trained.steps,
            "seconds": trained.seconds,
            "training_losses": [epoch.training_loss for epoch in trained.epochs],
        }
        arrays = {
            f"{number} {split}": found
            for number, epoch in enumerate(trained.epochs)
            for split, found in epoch.outputs.items()
        }
        path = self._path(trained.learning_rate, trained.seed)
        # Into an open file: given a name, numpy would add its own ending.
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]

    def find(self, learning_rate: float, seed: int) -> Trained | None:
        """The finished training; None if there is none that was made from the same."""
        path = self._path(learning_rate, seed)
        if not path.is_file():
            return None
        try:
            found = _read(path, learning_rate, seed, self.made_from)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            print(f"finetune: {path} is damaged ({error}): this training runs again", flush=True)
            found = None
        if found is None:
            path.unlink()
        return found


def _read(path: Path, learning_rate: float, seed: int, made_from: Mapping[str, str]) -> Trained | None:
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        if facts["made_from"] != dict(made_from):
            print(f"finetune: {path} is of another spec, model or data: this training runs again", flush=True)
            return None
        outputs: list[dict[str, np.ndarray]] = [{} for _ in facts["training_losses"]]
        for name in stored.files:
            if name != "facts":
                number, split = name.split(" ", 1)
                outputs[int(number)][split] = stored[name]
    epochs = [Epoch(loss, found) for loss, found in zip(facts["training_losses"], outputs, strict=True)]
    return Trained(learning_rate, seed, facts["steps"], facts["seconds"], epochs)
