"""What runs take: tokens and operations from their plans, and hours and dollars of a GPU at a stated utilisation.

The utilisation is an assumption: measure one run and give the share of the peak that it reached. It is one number for
a whole run, though short rows and few kept tokens usually reach less of a peak than full rows.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dataeff.errors import DataeffError
from dataeff.files import canonical_digest
from dataeff.inquiry.flops import TrainingFlops, training_flops
from dataeff.inquiry.gpus import Gpu, find_gpu
from dataeff.inquiry.parameters import ParameterCounts, padded_vocabulary, parameter_counts
from dataeff.plan import steps_table
from dataeff.progress import Progress
from dataeff.study.load import Study
from dataeff.study.specs import PlanSpec, dropped_layers, plan_spec
from dataeff.study.types import Run

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Price:
    """What turns operations into hours and dollars. With recomputation, the utilisation is one of all operations."""

    gpu: Gpu
    utilisation: float
    recompute: bool
    gpus: int
    dollars_per_gpu_hour: float | None

    def gpu_hours(self, operations: float) -> float:
        return operations / (self.gpu.peak_teraflops * 1e12 * self.utilisation) / 3600


@dataclass(frozen=True)
class RunCost:
    """What a run takes, whatever the hardware."""

    run: Run
    steps: int
    raw_tokens: int
    effective_tokens: int
    flops: TrainingFlops


def price_of(args: Namespace) -> Price:
    """The price that the options state, checked."""
    if not 0 < args.mfu <= 1:
        raise DataeffError(f"--mfu {args.mfu:g}: above 0 and at most 1 is needed (0.4 is 40% of the peak)")
    if args.gpus < 1:
        raise DataeffError(f"--gpus {args.gpus}: at least 1 is needed")
    if args.dollars_per_gpu_hour is not None and args.dollars_per_gpu_hour < 0:
        raise DataeffError(f"--dollars-per-gpu-hour {args.dollars_per_gpu_hour:g}: 0 or more is needed")
    gpu = find_gpu(args.gpu, args.peak_tflops)
    return Price(gpu, args.mfu, args.recompute, args.gpus, args.dollars_per_gpu_hour)


def counts_of(study: Study, run: Run) -> ParameterCounts:
    """Parameters of a run's model."""
    scale = study.family(run)
    return parameter_counts(run.family, scale.model, padded_vocabulary(study.tokenizers[scale.tokenizer]))


def cost_of(study: Study, run: Run, table: pd.DataFrame, *, recompute: bool = False) -> RunCost:
    """What the run with this steps table takes."""
    spec, scale = plan_spec(study, run), study.family(run)
    flops = training_flops(
        run.family,
        scale.model,
        padded_vocabulary(study.tokenizers[scale.tokenizer]),
        len(dropped_layers(spec.variant, spec.layers)),
        table,
        drop=spec.variant.token_drop,
        recompute=recompute,
    )
    return RunCost(run, len(table), int(table["raw_tokens"].sum()), int(table["effective_tokens"].sum()), flops)


def costs_of(study: Study, runs: Sequence[Run], *, recompute: bool = False) -> list[RunCost]:
    """Each run's cost; plans that differ in no row (other seeds) are made once."""
    known: dict[str, RunCost] = {}
    costs = []
    progress = Progress("cost", len(runs), "runs")
    for number, run in enumerate(runs):
        spec = plan_spec(study, run)
        key = _plan_key(spec)
        if key not in known:
            known[key] = cost_of(study, run, steps_table(spec), recompute=recompute)
        costs.append(replace(known[key], run=run))
        progress.show(number + 1)
    return costs


def _plan_key(spec: PlanSpec) -> str:
    """What the steps table depends on: neither what the variant is called nor, unless lengths are drawn, the seed."""
    drawn = {"seed": spec.run.seed} if spec.variant.length_buckets is not None else {}
    return canonical_digest({"family": spec.run.family, **drawn, **spec.model_dump(mode="json", exclude={"run"})})
