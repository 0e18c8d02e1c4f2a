"""A training plan as a loop asks for it: what one step does, looked up by its number (0-based).

Wraps dataeff.plan.TrainingPlan, whose steps table and sample order it shares, together with the spec it was made of:
which layers drop tokens and how samples are cut to a length stand there and not in the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_directory
from dataeff.plan import TrainingPlan
from dataeff.study.specs import PlanSpec, dropped_layers, read_spec, write_spec

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

    from dataeff.order import SampleOrder
    from dataeff.token_drop import TokenDrop

SPEC = "spec.yaml"
_RATE = "learning_rate"


@dataclass(frozen=True, eq=False)
class Plan:
    """Every step of a run, from `make_plan` or `load`. `len(plan)` is the number of optimizer steps."""

    training: TrainingPlan
    spec: PlanSpec
    _columns: dict[str, NDArray[Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = self.training.steps
        object.__setattr__(self, "_columns", {name: table[name].to_numpy() for name in table.columns})

    def __len__(self) -> int:
        return len(self._columns["step"])

    @property
    def steps(self) -> pd.DataFrame:
        """The whole steps table, one row per step: also rows, raw and effective tokens, and pool size."""
        return self.training.steps

    @property
    def digest(self) -> str:
        """The plan's identity: keep it in a checkpoint, to be sure that a run goes on with the plan it began with."""
        return self.training.digest

    @property
    def batch_size(self) -> int:
        """Samples of every step, over all ranks and micro-batches."""
        return self.spec.batch_size

    @property
    def samples_in_corpus(self) -> int:
        return int(self.training.facts["samples_in_corpus"])

    @property
    def has_lr(self) -> bool:
        """Whether the plan was made with a learning rate."""
        return _RATE in self._columns

    @property
    def peak_lr(self) -> float:
        self._check_lr()
        return self.spec.learning_rate.peak

    def lr(self, step: int) -> float:
        """The learning rate of the step; under a warm-up over tokens, 0 in the first two (arXiv 2212.03597's code)."""
        self._check_lr()
        return float(self._columns[_RATE][self._checked(step)])

    def sequence_length(self, step: int) -> int:
        """Tokens of each of the step's rows."""
        return self._integer("sequence_length", step)

    def kept_tokens(self, step: int) -> int:
        """Tokens of each row that a dropping layer sees: the sequence length where none are dropped."""
        return self._integer("kept_tokens", step)

    def rows(self, step: int) -> int:
        """Rows of the step's global batch: its samples, or more where they are reshaped into shorter ones."""
        return self._integer("rows", step)

    def window(self, step: int) -> int | None:
        """How many tokens attention sees at most, where a curriculum schedules that (apply: window)."""
        return self._integer("window", step) if "window" in self._columns else None

    def samples(self, step: int) -> NDArray[np.int64]:
        """The step's sample ids, [batch_size], in order."""
        return self.order.samples(self._checked(step))

    @property
    def order(self) -> SampleOrder:
        from dataeff.order import SampleOrder

        assert isinstance(self.training.order, SampleOrder)  # `refuse_buckets` lets no other in
        return self.training.order

    @property
    def reshapes(self) -> bool:
        """Whether samples are cut into pieces of the step's length rather than truncated to it."""
        part = self.spec.variant.length_curriculum
        return part is not None and part.apply == "reshape"

    def attach(self, model: nn.Module) -> TokenDrop:
        """Makes the plan's layers of `model` drop tokens: a Hugging Face model, or the nn.ModuleList of its layers.

        Layers take the hidden states [batch, sequence, hidden] first. Before the model is wrapped (DDP, FSDP).
        Without token_drop in the plan no layer changes, so that a baseline runs on the same code.
        """
        from torch import nn

        from dataeff.token_drop import TokenDrop, transformer_layers

        stack = model if isinstance(model, nn.ModuleList) else transformer_layers(model)
        if len(stack) != self.spec.layers:
            raise DataeffError(
                f"{type(model).__name__}: {len(stack)} transformer layers, the plan was made for {self.spec.layers}; "
                f"make it with layers={len(stack)}"
            )
        drop = self.spec.variant.token_drop
        layers = dropped_layers(self.spec.variant, self.spec.layers)
        return TokenDrop(stack, layers, self.spec.run.seed, drop.route if drop else "each_layer")

    def scheduler(self, optimizer: Optimizer) -> LambdaLR:
        """A scheduler with the plan's learning rate, to be stepped after every optimizer step; it holds its last one.

        The optimizer's first group must have lr=plan.peak_lr; other groups keep their ratio to it.
        """
        from torch.optim.lr_scheduler import LambdaLR

        first = optimizer.param_groups[0]
        given, peak = float(first.get("initial_lr", first["lr"])), self.peak_lr
        if not math.isclose(given, peak, rel_tol=1e-6):
            raise DataeffError(
                f"scheduler: the optimizer's learning rate is {given:g}, the plan's peak {peak:g}; make the optimizer "
                f"with lr=plan.peak_lr"
            )
        return LambdaLR(optimizer, partial(lr_factor, self))

    def save(self, folder: Path | str) -> None:
        """Writes the plan as `dataeff plan` does, with its spec beside it. A difficulty folder is referred to."""
        with atomic_directory(Path(folder)) as temporary:
            self.training.write(temporary)
            write_spec(temporary / SPEC, self.spec)

    @classmethod
    def load(cls, folder: Path | str, spec: Path | str | None = None) -> Plan:
        """A plan that `save` wrote, or one of the study's, whose `spec` is specs/plan/RUN.yaml of its results."""
        path = Path(folder) / SPEC if spec is None else Path(spec)
        if not path.is_file():
            raise DataeffError(
                f"{path}: no such file; of a study's plan, pass spec=RESULTS/SCALE/specs/plan/RUN.yaml as well"
            )
        training, made_of = TrainingPlan.load(Path(folder)), read_spec(path, PlanSpec)
        if training.facts["spec_digest"] != made_of.digest:
            raise DataeffError(f"{path}: not the spec that {folder} was made of; pass that run's, or plan again")
        refuse_buckets(made_of, str(path))
        return cls(training, made_of)

    def _integer(self, column: str, step: int) -> int:
        return int(self._columns[column][self._checked(step)])

    def _checked(self, step: int) -> int:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of a plan of {len(self)} steps, which are 0 to {len(self) - 1}")
        return step

    def _check_lr(self) -> None:
        if not self.has_lr:
            raise DataeffError("this plan was made without learning_rate; pass make_plan(..., learning_rate=...)")


def lr_factor(plan: Plan, step: int) -> float:
    """The step's part of the peak; after the last step, that of the last. As a partial it is found in a scheduler."""
    return plan.lr(min(step, len(plan) - 1)) / plan.peak_lr


def refuse_buckets(spec: PlanSpec, where: str) -> None:
    if spec.variant.length_buckets is not None:
        raise DataeffError(
            f"{where}: curriculum.seqlen.apply: 'bucket' needs samples that the study made in length buckets; use "
            f"truncate, reshape or window"
        )
