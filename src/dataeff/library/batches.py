"""Which samples each rank's micro-batches take at every step, and what a step does to them.

The samples of a step are dealt out in order: the first share to rank 0, each share in micro-batches. A MicroBatch
knows its step and where in the global batch its samples stand, so that what it does (cut them, choose tokens to drop,
weigh its loss) is the same on any number of ranks and micro-batches, however far a loader's workers have run ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.library.plan import Plan
from dataeff.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from dataeff.token_drop import TokenDrop

Rows = NDArray[np.int64]
AnyBatch = TypeVar("AnyBatch")


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The samples at `positions` ([n], increasing) of the global batch of `step`.

    `last`: whether this rank's step is complete with it.
    """

    plan: Plan
    step: int
    positions: Rows
    last: bool = True

    @property
    def rows(self) -> Rows:
        """The row numbers, in the step's global batch, of what `cut` makes of the samples."""
        return self._pieces()[2]

    @property
    def weight(self) -> float:
        """The part of the step's rows that these are. Mean losses times their weights add up to the step's mean loss.

        Where gradients are averaged over ranks (DDP, FSDP), times the number of ranks as well.
        """
        return len(self.rows) / self.plan.rows(self.step)

    def set_step(self, token_drop: TokenDrop, device: torch.device | str) -> None:
        """Makes `token_drop` drop this micro-batch's tokens until the next call; `device` is the model's."""
        import torch

        rows_B = to_device(torch.from_numpy(self.rows), device)
        kept, rows = self.plan.kept_tokens(self.step), self.plan.rows(self.step)
        token_drop.set_step(self.step, kept=kept, rows_B=rows_B, rows=rows)

    def cut(self, samples: AnyBatch) -> AnyBatch:
        """The step's rows from whole samples: a tensor or array [n, S + 1] (or [n, S]), or a mapping of such.

        S is the plan's full sequence length; rows come back as [rows, s + 1] (or [rows, s]) with the step's length s.
        With reshape, samples have S + 1 tokens and become several rows each, of which the global batch keeps as many
        as the plan says. Entries of one dimension go with their sample. Raises DataeffError for another shape.
        """
        if isinstance(samples, Mapping):
            return {name: self._cut(values, f"'{name}'") for name, values in samples.items()}  # type: ignore[return-value]
        cut: AnyBatch = self._cut(samples, "samples")
        return cut

    def _cut(self, values: Any, name: str) -> Any:
        full, length = self.plan.spec.sequence_length, self.plan.sequence_length(self.step)
        shape = tuple(values.shape)
        extra = shape[1] - full if len(shape) > 1 else 0
        if shape[0] != len(self.positions) or extra not in (0, 1):
            raise DataeffError(
                f"step {self.step}: {name} has shape {shape}; [{len(self.positions)}, {full + 1}] or "
                f"[{len(self.positions)}, {full}] is needed: whole samples of the plan's sequence_length"
            )
        if length == full:
            return values
        if not self.plan.reshapes:
            return values if len(shape) == 1 else values[:, : length + extra]
        source, start, _ = self._pieces()
        if len(shape) == 1:
            return _taken(values, source)
        if extra != 1:
            raise DataeffError(
                f"step {self.step}: {name} has {shape[1]} tokens a sample; curriculum.seqlen.apply: 'reshape' takes "
                f"samples of {full + 1}, since a piece of s tokens needs one more to predict; make them that long"
            )
        return _taken(values, source[:, None], start[:, None] + np.arange(length + 1))

    def _pieces(self) -> tuple[Rows, Rows, Rows]:
        """Of each row: which of these samples it comes from, its first token there, its number in the global batch.

        The global batch has all pieces of all samples, then the last tokens of all samples, and ends at the plan's
        number of rows (families/gpt.cut).
        """
        sample = np.arange(len(self.positions))
        length, full = self.plan.sequence_length(self.step), self.plan.spec.sequence_length
        if not self.plan.reshapes or length == full:
            return sample, np.zeros_like(sample), self.positions
        pieces = (full + 1) // (length + 1)
        piece = np.arange(pieces)
        number = np.concatenate(
            [(self.positions[:, None] * pieces + piece).ravel(), self.plan.batch_size * pieces + self.positions]
        )
        source = np.concatenate([np.repeat(sample, pieces), sample])
        start = np.concatenate([np.tile(piece * (length + 1), len(sample)), np.full(len(sample), full - length)])
        there = number < self.plan.rows(self.step)
        return source[there], start[there], number[there]


def _taken(values: Any, *index: Rows) -> Any:
    """Entries of an array or tensor, by arrays of indices."""
    if isinstance(values, np.ndarray):
        return values[index]
    import torch

    return values[tuple(torch.from_numpy(part).to(values.device) for part in index)]


class PlanSampler:
    """A batch sampler for torch's DataLoader: the sample ids of one rank's micro-batches, step after step.

    Over all ranks and micro-batches a step takes its global batch, each sample once, in order. `micro_batch`: samples
    of one at most (default: the rank's whole share); `first_step`: where to begin, to resume a run. It may run ahead:
    `batches` tells which step a batch belongs to.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        rank: int = 0,
        world_size: int = 1,
        micro_batch: int | None = None,
        first_step: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataeffError(f"PlanSampler: rank {rank} of {world_size}; ranks are 0 to world_size - 1")
        if micro_batch is not None and micro_batch < 1:
            raise DataeffError(f"PlanSampler: micro_batch is {micro_batch}; at least 1 is needed")
        if not 0 <= first_step <= len(plan):
            raise DataeffError(f"PlanSampler: first_step is {first_step}; the plan's steps are 0 to {len(plan) - 1}")
        size = plan.batch_size
        passes = 1 if micro_batch is None else -(-size // (world_size * micro_batch))
        if size < world_size * passes:
            raise DataeffError(
                f"PlanSampler: {size} samples of a step (batch_size) cannot be dealt to {world_size} ranks in {passes} "
                f"micro-batches of at most {micro_batch}; make batch_size a multiple of world_size"
            )
        self.plan, self.first_step = plan, first_step
        parts = np.array_split(np.arange(size, dtype=np.int64), world_size * passes)
        self._parts = parts[rank * passes : (rank + 1) * passes]

    def __len__(self) -> int:
        return (len(self.plan) - self.first_step) * len(self._parts)

    def __iter__(self) -> Iterator[list[int]]:
        for ids in self.plan.order.iterate(self.first_step):
            for part in self._parts:
                yield ids[part].tolist()

    def micro_batches(self) -> Iterator[MicroBatch]:
        """What each of the sampler's batches is, in the same order."""
        for step in range(self.first_step, len(self.plan)):
            for number, part in enumerate(self._parts, start=1):
                yield MicroBatch(self.plan, step, part, last=number == len(self._parts))

    def batches(self, loader: DataLoader[Any]) -> Iterator[tuple[MicroBatch, Any]]:
        """Each of the loader's batches with what it is. Right with any number of workers, since they keep the order."""
        if loader.batch_sampler is not self:
            raise DataeffError("batches: this loader takes another sampler; make it with batch_sampler=this one")
        if not loader.in_order:
            raise DataeffError("batches: this loader was made with in_order=False; leave that out")
        check_samples(self.plan, loader.dataset)
        pairs: Iterable[tuple[MicroBatch, Any]] = zip(self.micro_batches(), loader, strict=True)
        yield from pairs


def check_samples(plan: Plan, dataset: Any) -> None:
    """Refuses a dataset of another number of samples than the plan was made for."""
    if hasattr(dataset, "__len__") and len(dataset) != plan.samples_in_corpus:
        raise DataeffError(
            f"{type(dataset).__name__}: {len(dataset)} samples, the plan was made for {plan.samples_in_corpus}; make "
            f"it with samples={len(dataset)}"
        )
