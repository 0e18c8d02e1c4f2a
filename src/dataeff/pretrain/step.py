"""One optimizer step: a row of the plan and its samples become losses, gradients, an update, and a row of metrics."""

from __future__ import annotations

from functools import cached_property, reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.families.batch import Cut, StepBatch
from dataeff.order_buckets import BucketOrder
from dataeff.pretrain import guards
from dataeff.pretrain.engine import update
from dataeff.transfer import to_device

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dataeff.families import Family
    from dataeff.plan import TrainingPlan
    from dataeff.pretrain.average import WeightAverage
    from dataeff.pretrain.engine import Ranks
    from dataeff.pretrain.signals import StopRequest
    from dataeff.pretrain.timing import StepClock
    from dataeff.pretrain.watch import Watch
    from dataeff.study.specs import PretrainSpec
    from dataeff.token_drop import TokenDrop

Positions = NDArray[np.int64]


def passes(rows: int, micro_batch: int, rank: int, world_size: int) -> list[tuple[Positions, int]]:
    """A rank's micro-batches of a step: (row numbers, 1 or 0); 0 marks a repeated row that does not count.

    Every rank runs the same number of them, since some ZeRO stages communicate in each.
    """
    share = np.array_split(np.arange(rows, dtype=np.int64), world_size)
    count = -(-len(share[0]) // micro_batch)
    own = share[rank]
    parts = np.array_split(own, count) if len(own) else []
    counted = [(part, 1) for part in parts if len(part)]
    return counted + [(np.zeros(1, dtype=np.int64), 0)] * (count - len(counted))


class Steps:
    """What makes the steps of a run; loop.Trainer sets it up."""

    spec: PretrainSpec
    plan: TrainingPlan
    state: Path
    ranks: Ranks
    stop: StopRequest
    micro_batch: int
    family: Family
    samples: Any
    token_drop: TokenDrop | None
    engine: Any
    average: WeightAverage | None
    watch: Watch
    skips: guards.Skips
    clock: StepClock
    asked_to_stop = False
    """Whether, as of the last step, a signal asks any rank to stop: all ranks know the same."""
    _gradient_norm = 0.0

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The plan's steps as arrays: a row of the table itself would cost more than reading the samples does."""
        return {str(name): column.to_numpy() for name, column in self.plan.steps.items()}

    def step(self, step: int, ids: Positions) -> dict[str, Any]:
        """One optimizer step on the samples `ids`; returns its metrics row."""
        plan_row = {name: column[step] for name, column in self.columns.items()}
        length, kept = int(plan_row["sequence_length"]), int(plan_row["kept_tokens"])
        batch = self.family.step_batch(self.samples, ids, self.cut(step, length))
        self.clock.lap("data")
        for group in self.engine.optimizer.param_groups:
            group["lr"] = float(plan_row["learning_rate"])
        self.watch.reach(step + 1, "training")
        torch.manual_seed(keyed.key(self.spec.run.seed, "dropout", step, self.ranks.rank))
        totals = torch.zeros(len(batch.counts), dtype=torch.float64, device=self.ranks.device)
        for rows, counted in passes(batch.rows, self.rows_a_pass(length), self.ranks.rank, self.ranks.world_size):
            losses = self.forward_backward(batch, rows, counted, step, kept)
            totals += torch.stack([losses[name].double() for name in batch.counts]) * counted
        self.clock.lap("other")
        # One exchange tells every rank the step's losses and whether any of them is asked to stop.
        asked = to_device(torch.tensor([float(self.stop.asked)], dtype=torch.float64), self.ranks.device)
        *sums, stops = self.ranks.sums(torch.cat([totals, asked]))
        self.clock.lap("communication")
        self.asked_to_stop = stops > 0
        means = {name: total / count for (name, count), total in zip(batch.counts.items(), sums, strict=True)}
        loss = sum(means.values())
        self._gradient_norm = update(self.engine, loss)
        self.clock.lap("optimizer")
        became = self._judge(loss, step, ids)
        if self.average is not None:
            self.average.observe(step + 1)
        return {
            "step": step + 1,
            "loss": guards.shown(loss),
            **({name: guards.shown(mean) for name, mean in means.items()} if len(means) > 1 else {}),
            "learning_rate": float(plan_row["learning_rate"]),
            "gradient_norm": guards.shown(self._gradient_norm),
            "sequence_length": length,
            "kept_tokens": kept,
            "raw_tokens": int(plan_row["cumulative_raw_tokens"]),
            "effective_tokens": int(plan_row["cumulative_effective_tokens"]),
            **batch.facts,
            **({} if became == "applied" else {became: True}),
        }

    def rows_a_pass(self, length: int) -> int:
        """`micro_batch` where all rows of the run are of the full length or fewer in a step. A step of a shorter length
        bucket has as many more rows as they are shorter, and so has a pass of it.
        """
        if isinstance(self.plan.order, BucketOrder):
            return self.micro_batch * self.spec.model.sequence_length // length
        return self.micro_batch

    def forward_backward(
        self, batch: StepBatch, rows: Positions, weight: float, step: int, kept: int
    ) -> dict[str, Tensor]:
        """One pass over some rows of a step: its gradients are added up; the losses' sums over the rows, on the device.

        The host waits for nothing here: on a GPU it prepares the next pass while the device is at this one.
        """
        self.clock.lap("other")
        part = batch.part(rows, self.ranks.device)
        self.clock.lap("data")
        if self.token_drop is not None:
            self.token_drop.set_step(step, kept=kept, rows_B=torch.from_numpy(rows), rows=batch.rows)
        sums = self.family.loss_sums(self.engine, part)
        # DeepSpeed averages gradients over ranks; each part of the loss is a mean over the whole step.
        scaled = [loss * (weight * self.ranks.world_size / batch.counts[name]) for name, loss in sums.items()]
        self.clock.lap("forward")
        self.engine.backward(reduce(add, scaled))
        self.clock.lap("backward")
        return {name: loss.detach() for name, loss in sums.items()}

    def cut(self, step: int, length: int) -> Cut:
        # An order of admission exists where a curriculum selects samples by their difficulty.
        selects = self.plan.order.admission is not None
        windows = self.columns.get("window")
        window = None if windows is None else int(windows[step])
        return Cut(length, self.spec.length_apply, selects, self.spec.run.seed, step, window)

    def _judge(self, loss: float, step: int, ids: Positions) -> guards.Outcome:
        """What became of the step; ends the run where too many in a row are no numbers."""
        became = guards.outcome(loss, self._gradient_norm, self.spec.precision)
        try:
            self._check_finite(loss, step, ids)
        except guards.NonFinite as error:
            self.skips.skipped(error)
            if self.ranks.rank == 0:
                norm = self._gradient_norm
                print(
                    f"{self.spec.run.name}: step {step + 1} passed over: loss {loss}, gradient norm {norm}", flush=True
                )
        if became == "applied":
            self.skips.applied()
        return became

    def _check_finite(self, loss: float, step: int, ids: Positions) -> None:
        norm = self._gradient_norm
        if guards.outcome(loss, norm, self.spec.precision) == "skipped":
            raise guards.NonFinite(
                f"{self.spec.run.name}: loss {loss} and gradient norm {norm} at step {step + 1}{self.skips.told}, "
                f"with the samples {guards.told_ids(ids.tolist())}; lower learning_rate.peak or lengthen "
                f"warmup_tokens. The log and the checkpoints so far are kept in {self.state}"
            )
