"""From a training's outputs to its values: of all items, and apart for a selection part and the rest.

The selection part is a keyed half of every split that decides the epoch, the same items for all runs, seeds and rates;
the honest rule chooses by it and is scored on the other half, and in full on splits that decide nothing. Items are
parted one by one: those that share a passage can stand on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.finetune.aggregate import best_epoch
from dataeff.finetune.data import SEED, Items
from dataeff.finetune.metrics import measure
from dataeff.finetune.scores import ColumnItems, EpochValues, Trial
from dataeff.finetune.train import Epoch, Outputs, Trained
from dataeff.study.tasks import FinetuneTask

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What a task's outputs are held against."""

    task: FinetuneTask
    splits: Mapping[str, Items]
    selects: Mapping[str, Mask]
    """Of each split the items of the selection part."""

    @classmethod
    def of(cls, name: str, task: FinetuneTask, splits: Mapping[str, Items]) -> Measured:
        deciding = {task.evaluation[column] for column in deciding_columns(task)}
        selects = {}
        for split in task.evaluation.values():
            count = len(splits[split])
            if count < 2:
                raise DataeffError(
                    f"finetuning.{name}: split '{split}' has {count} items; two or more are needed, to choose an epoch "
                    f"by one part and score the other: raise finetuning.evaluation_items, or name another split"
                )
            selects[split] = selection_part(count) if split in deciding else np.zeros(count, dtype=bool)
        return cls(task, splits, selects)

    def trial(self, trained: Trained) -> Trial:
        epochs = [self._epoch(epoch) for epoch in trained.epochs]
        return Trial(
            learning_rate=trained.learning_rate,
            seed=trained.seed,
            steps=trained.steps,
            seconds=trained.seconds,
            epochs=epochs,
            published_epoch=best_epoch([epoch.decides for epoch in epochs]),
            honest_epoch=best_epoch([epoch.selection for epoch in epochs]),
        )

    def _epoch(self, epoch: Epoch) -> EpochValues:
        columns, deciding = self.task.evaluation, deciding_columns(self.task)
        scored = {split: ~selected for split, selected in self.selects.items()}
        return EpochValues(
            training_loss=epoch.training_loss,
            values={column: self._value([column], epoch.outputs, None) for column in columns},
            decides=self._value(deciding, epoch.outputs, None),
            selection=self._value(deciding, epoch.outputs, self.selects),
            scored={column: self._value([column], epoch.outputs, scored) for column in columns},
        )

    def _value(self, columns: list[str], outputs: Outputs, parts: Mapping[str, Mask] | None) -> float:
        """Of the items of these columns together, or of a part of each."""
        splits = [self.task.evaluation[column] for column in columns]
        chosen = [slice(None) if parts is None else parts[split] for split in splits]
        labels = [self.splits[split].labels[part] for split, part in zip(splits, chosen, strict=True)]
        found = [outputs[split][part] for split, part in zip(splits, chosen, strict=True)]
        return measure(self.task.metric, np.concatenate(labels), np.concatenate(found))

    def columns(self) -> dict[str, ColumnItems]:
        return {
            column: ColumnItems(
                split=split,
                items=len(self.splits[split]),
                selection_items=int(self.selects[split].sum()),
                cut_items=self.splits[split].cut,
            )
            for column, split in self.task.evaluation.items()
        }

    def predictions(self, trained: Trained, trial: Trial) -> Iterator[dict[str, Any]]:
        """A record an item of each epoch that a rule chose: what the values can be computed from again."""
        for epoch in sorted({trial.published_epoch, trial.honest_epoch}):
            for column, split in self.task.evaluation.items():
                items, found = self.splits[split], trained.epochs[epoch - 1].outputs[split]
                shown = _exactly(found)
                for number, (row, label) in enumerate(zip(items.rows.tolist(), items.labels.tolist(), strict=True)):
                    yield {
                        "learning_rate": trained.learning_rate,
                        "seed": trained.seed,
                        "epoch": epoch,
                        "column": column,
                        "row": row,
                        "part": "selection" if self.selects[split][number] else "scored",
                        "label": label,
                        "outputs": shown[number],
                    }


def deciding_columns(task: FinetuneTask) -> list[str]:
    columns = list(task.evaluation)
    return columns if task.decided_by == "together" else columns[:1]


def selection_part(count: int) -> Mask:
    """Half of `count` items (the smaller half), keyed."""
    places = keyed.permute(np.arange(count), count, keyed.key(SEED, "finetune selection part"))
    found: Mask = places < count // 2
    return found


def _exactly(outputs: NDArray[np.float32]) -> list[Any]:
    """Each number with the fewest digits that give the same float32 again."""
    texts = outputs.astype(str)
    found: list[Any] = texts.astype(np.float64).tolist()
    return found
