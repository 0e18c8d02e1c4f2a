"""Hugging Face's Trainer runs a plan: the samples and their lengths come with PlannedDataset and PlannedCollator, the
learning rate with plan.scheduler(optimizer), and the token drop with the callback here.

    Trainer(
        model=model,
        args=TrainingArguments(..., max_steps=len(plan), train_sampling_strategy="sequential"),
        train_dataset=PlannedDataset(plan, dataset),
        data_collator=PlannedCollator(plan),
        optimizers=(optimizer, plan.scheduler(optimizer)),
        callbacks=[DataEfficiencyCallback(plan, plan.attach(model))],
    )
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dataeff.errors import DataeffError
from dataeff.library.batches import MicroBatch
from dataeff.library.dataset import PlannedCollator, PlannedDataset
from dataeff.library.plan import Plan, lr_factor
from dataeff.token_drop import TokenDrop


class DataEfficiencyCallback(TrainerCallback):  # type: ignore[misc]
    """Sets the token drop before every micro-batch, and refuses arguments that would run another plan than `plan`."""

    def __init__(self, plan: Plan, token_drop: TokenDrop) -> None:
        self.plan, self.token_drop = plan, token_drop
        self._micro_batch = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        size, ranks, passes = args.per_device_train_batch_size, args.world_size, args.gradient_accumulation_steps
        if size * ranks * passes != self.plan.batch_size:
            raise DataeffError(
                f"TrainingArguments: per_device_train_batch_size {size} x {ranks} processes x "
                f"gradient_accumulation_steps {passes} are {size * ranks * passes} samples a step, the plan has "
                f"{self.plan.batch_size}; make them equal"
            )
        if state.max_steps > len(self.plan):
            raise DataeffError(
                f"TrainingArguments: max_steps is {state.max_steps}, the plan has {len(self.plan)}; pass "
                f"max_steps=len(plan)"
            )
        if args.n_gpu > 1 or args.accelerator_config.split_batches:
            raise DataeffError(
                f"TrainingArguments: n_gpu is {args.n_gpu} and accelerator_config.split_batches "
                f"{args.accelerator_config.split_batches}; start one process per GPU (torchrun), and leave "
                f"split_batches out"
            )
        self._check_data(kwargs.get("train_dataloader"))
        self._check_rate(kwargs.get("lr_scheduler"))

    def _check_data(self, loader: Any) -> None:
        dataset, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
        collate = getattr(collate, "data_collator", collate)  # Trainer wraps one to leave unused columns out
        for found, kind, argument in (
            (dataset, PlannedDataset, "train_dataset=PlannedDataset(plan, dataset)"),
            (collate, PlannedCollator, "data_collator=PlannedCollator(plan)"),
        ):
            if not isinstance(found, kind) or found.plan.digest != self.plan.digest:
                raise DataeffError(f"Trainer: its loader does not read this plan; pass {argument}")

    def _check_rate(self, scheduler: Any) -> None:
        rules = getattr(getattr(scheduler, "scheduler", scheduler), "lr_lambdas", [None])
        if self.plan.has_lr and getattr(rules[0], "func", None) is not lr_factor:
            raise DataeffError(
                f"Trainer: its scheduler ({type(scheduler).__name__}) is not the plan's; pass optimizers=(optimizer, "
                f"plan.scheduler(optimizer)), or make the plan without learning_rate"
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._micro_batch = 0
        self._set(args, state)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._micro_batch += 1
        self._set(args, state)

    def _set(self, args: TrainingArguments, state: TrainerState) -> None:
        """Batches of a sequential loader go to the processes in turn (accelerate's BatchSamplerShard)."""
        size = args.per_device_train_batch_size
        first = (self._micro_batch * args.world_size + args.process_index) * size
        positions = np.arange(first, first + size)
        MicroBatch(self.plan, state.global_step, positions).set_step(self.token_drop, args.device)
