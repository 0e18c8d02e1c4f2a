"""A plan as a dataset that is read from front to back, for loops that make their own loader (Hugging Face's Trainer).

Entry i is the sample that position i of the run takes, with that position: the collator cuts it as its step says.
So batches are right in loader workers, which run ahead, and after the loader has skipped the batches of a resumed run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataeff.errors import DataeffError
from dataeff.library.batches import MicroBatch, check_samples
from dataeff.library.plan import Plan


@dataclass(frozen=True, slots=True)
class Placed:
    """A sample, and which one of the run it is: step * batch_size + its place in the global batch."""

    position: int
    sample: Any


class PlannedDataset:
    """The samples of `dataset` (indexed by sample id) in the plan's order: len(plan) * batch_size entries.

    To be read sequentially, with PlannedCollator, in batches that divide the plan's batch_size.
    """

    def __init__(self, plan: Plan, dataset: Any) -> None:
        check_samples(plan, dataset)
        self.plan, self.dataset = plan, dataset

    def __len__(self) -> int:
        return len(self.plan) * self.plan.batch_size

    def __getitem__(self, position: int) -> Placed:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Placed]:
        """What torch's loader calls for a batch: the order of a step is worked out once."""
        size = self.plan.batch_size
        ids = {step: self.plan.samples(step) for step in {position // size for position in positions}}
        return [Placed(position, self.dataset[int(ids[position // size][position % size])]) for position in positions]


class PlannedCollator:
    """Makes a model's inputs of PlannedDataset's samples, cut as their step says; of other samples, whole (evaluation).

    Samples are token arrays of S + 1 tokens, which become input_ids and the labels of the next tokens, or mappings of
    arrays of S tokens (input_ids, labels, attention_mask, ...) as a model takes them, or whatever `collate` makes such
    of (default: torch's default_collate).
    """

    def __init__(self, plan: Plan, collate: Callable[[list[Any]], Any] | None = None) -> None:
        if plan.spec.variant.window is not None:
            raise DataeffError(
                "PlannedCollator: curriculum.seqlen.apply: 'window' is a mask of attention, which this does not make; "
                "use truncate or reshape, or PlanSampler and a mask of plan.window(step)"
            )
        self.plan, self._collate = plan, collate

    def __call__(self, items: list[Any]) -> dict[str, Any]:
        placed = [item for item in items if isinstance(item, Placed)]
        if not placed:
            return self._inputs(self._collated(items))
        part = self._micro_batch(np.array([item.position for item in placed]))
        samples = self._collated([item.sample for item in placed])
        needed = self.plan.spec.sequence_length + 1
        if not isinstance(samples, Mapping) and samples.shape[1:] != (needed,):
            raise DataeffError(
                f"PlannedCollator: samples of shape {tuple(samples.shape[1:])}; arrays of {needed} tokens are needed, "
                f"one more than the plan's sequence_length, or mappings of arrays as the model takes them"
            )
        return self._inputs(part.cut(samples))

    def _micro_batch(self, positions: Any) -> MicroBatch:
        step, place = np.divmod(positions, self.plan.batch_size)
        if step[0] != step[-1] or (np.diff(positions) != 1).any():
            raise DataeffError(
                f"PlannedCollator: a batch of the samples at {positions[:4].tolist()}... of the run, from steps "
                f"{step.min()} to {step.max()}: read PlannedDataset in order (train_sampling_strategy='sequential'), "
                f"in batches that divide the plan's batch_size of {self.plan.batch_size}"
            )
        return MicroBatch(self.plan, int(step[0]), place)

    def _collated(self, samples: list[Any]) -> Any:
        if self._collate is not None:
            return self._collate(samples)
        from torch.utils.data import default_collate

        return default_collate(samples)

    def _inputs(self, rows: Any) -> dict[str, Any]:
        if isinstance(rows, Mapping):
            return dict(rows)
        inputs, targets = rows[:, :-1].long(), rows[:, 1:].long().contiguous()
        # Both: a model computes a loss where it finds labels, and shifts them itself unless it finds shifted ones.
        return {"input_ids": inputs, "labels": targets, "shift_labels": targets}
