"""A run's plan, cut to its first steps: schedules and learning rates stay those of the full run.

How far a search looks is counted in what the warm-up is counted in, steps or tokens, so that every candidate is seen
for as many multiples of its learning rate's warm-up: one of short samples takes more steps for the same tokens.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dataeff.bucket_plan import Buckets, bucket_order
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, canonical_digest, read_json
from dataeff.plan import TrainingPlan, build_plan, schedules, steps_table
from dataeff.study.specs import PlanSpec
from dataeff.tune.data import RunData

if TYPE_CHECKING:
    import pandas as pd

    from dataeff.order_buckets import BucketOrder


def check_warmup(spec: PlanSpec, where: str) -> None:
    rate = spec.learning_rate
    if not rate.warmup_tokens and not rate.warmup_steps:
        raise DataeffError(
            f"{where}.learning_rate: it has no warm-up, and a pacing is tuned over multiples of it; set warmup_tokens "
            f"(the papers' GPT: 1% of train_tokens) or warmup_steps there"
        )


def watched_steps(spec: PlanSpec, table: pd.DataFrame, multiples: int) -> int:
    """The steps that reach `multiples` times the warm-up; all of a run that is shorter."""
    rate = spec.learning_rate
    if rate.warmup_steps and spec.variant.lr_clock != "layer_tokens":
        return min(multiples * rate.warmup_steps, len(table))
    warmup = rate.warmup_tokens or rate.warmup_steps * spec.batch_size * spec.sequence_length
    # Layer tokens are the effective tokens times the layers, and so is the warm-up that goes by them.
    clock = "cumulative_raw_tokens" if spec.variant.lr_clock == "raw_tokens" else "cumulative_effective_tokens"
    return min(int(np.searchsorted(table[clock].to_numpy(), multiples * warmup)) + 1, len(table))


def read_buckets(data: RunData) -> Buckets | None:
    facts = data.samples / "samples.json"
    return Buckets.of_facts(read_json(facts), facts)


def watched_table(spec: PlanSpec, data: RunData, multiples: int) -> pd.DataFrame:
    """The steps that a search trains of this run, less the columns that need the samples."""
    table = steps_table(spec, read_buckets(data))
    return table.iloc[: watched_steps(spec, table, multiples)]


def cut_plan(plan: TrainingPlan, spec: PlanSpec, steps: int, buckets: Buckets | None) -> TrainingPlan:
    """The first `steps` steps of a plan, with the samples that the full plan has for them."""
    from dataeff.order import SampleOrder

    table = plan.steps.iloc[:steps]
    order: SampleOrder | BucketOrder
    if isinstance(plan.order, SampleOrder):
        pools = table["pool_size"].to_numpy().astype(np.int64)
        order = SampleOrder.build(
            seed=plan.order.seed, batch_size=plan.order.batch_size, pool_sizes=pools, admission=plan.order.admission
        )
    else:
        assert buckets is not None
        order = bucket_order(spec, schedules(spec)["seqlen"], steps, buckets)
    facts = {
        **plan.facts,
        "steps": steps,
        "raw_tokens": int(table["raw_tokens"].sum()),
        "effective_tokens": int(table["effective_tokens"].sum()),
        "epochs": round(plan.facts["epochs"] * steps / len(plan.steps), 4),
        "order_digest": order.digest,
        "digest": canonical_digest({"plan": plan.digest, "steps": steps}),
    }
    return replace(plan, steps=table, order=order, facts=facts)


def write_cut_plan(spec: PlanSpec, data: RunData, steps: int, folder: Path) -> None:
    """The plan folder of a short training. Raises DataeffError where the run cannot be planned."""
    from dataeff.analyze.difficulty import DifficultyIndex

    samples = int(read_json(data.samples / "samples.json")["samples"])
    buckets = read_buckets(data)
    indexes = {metric: DifficultyIndex.open(path) for metric, path in data.indexes.items()}
    with atomic_directory(folder) as temporary:
        plan = build_plan(spec, samples, indexes, data.indexes, temporary, buckets)
        cut_plan(plan, spec, steps, buckets).write(temporary)
