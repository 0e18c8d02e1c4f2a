"""The training plan: one row per optimizer step, and the sample order. Training only executes its rows.

From a run's spec, the number of samples and the difficulty indexes of its `select` metrics, everything about the
run that is decided before training: sequence length, kept tokens, pool, raw and effective tokens, learning rate.
So a paper-scale plan is checked on a laptop. Semantics are those of DeepSpeed and Megatron-DeepSpeed (arXiv
2212.03597, 3; the formulas are given where they are used).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataeff.bucket_plan import Buckets, bucket_facts, bucket_order, bucket_summary, check_layout
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, canonical_digest, read_json, write_json
from dataeff.learning_rate import Rates, layer_token_rates, learning_rates
from dataeff.pacing import PacingSchedule
from dataeff.study.specs import PlanSpec, dropped_layers
from dataeff.token_counts import effective_tokens, layer_tokens, reshaped_rows

if TYPE_CHECKING:  # the study checks schedules while Snakemake parses, which pandas and numba would slow down
    import pandas as pd

    from dataeff.analyze.difficulty import DifficultyIndex
    from dataeff.order import SampleOrder
    from dataeff.order_buckets import BucketOrder

Column = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingPlan:
    """The steps table (columns: see `steps_table` and `build_plan`), the sample order, and facts about the run."""

    steps: pd.DataFrame
    order: SampleOrder | BucketOrder
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.facts["digest"])

    def save(self, folder: Path) -> None:
        with atomic_directory(folder) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """`save` into a folder that is made already, whose admission.npy `build_plan` may have written."""
        self.steps.to_parquet(folder / "steps.parquet", index=False)
        self.order.save(folder / "order.json")
        write_json(folder / "plan.json", self.facts)

    @classmethod
    def load(cls, folder: Path) -> TrainingPlan:
        if not (folder / "steps.parquet").is_file():
            raise DataeffError(f"{folder}/steps.parquet: no such file; make it with `dataeff plan` (the rule `plan`)")
        import pandas as pd

        from dataeff.order_buckets import load_order

        steps = pd.read_parquet(folder / "steps.parquet")
        return cls(steps, load_order(folder / "order.json"), read_json(folder / "plan.json"))


def nominal_steps(spec: PlanSpec) -> int:
    """Steps that the run would take at full length: what pacing durations are fractions of."""
    steps = spec.train_tokens // (spec.batch_size * spec.sequence_length)
    if steps < 1:
        raise DataeffError(
            f"{spec.run.name}: {spec.train_tokens} tokens are less than one step of {spec.batch_size} x "
            f"{spec.sequence_length}; raise train_tokens or lower batch_size"
        )
    return steps


def peak_learning_rate(spec: PlanSpec) -> float:
    """That of 100% data, times what the data fraction makes of it (arXiv 2212.03597, 3.3)."""
    return spec.learning_rate.peak * float(spec.learning_rate_factor)


def final_learning_rate(spec: PlanSpec) -> float:
    """The variant's part of the run's peak, or the scale's minimum."""
    share = spec.variant.final_lr
    return spec.learning_rate.minimum if share is None else peak_learning_rate(spec) * float(share)


def _rates(spec: PlanSpec, table: pd.DataFrame) -> Rates:
    rate, peak, last = spec.learning_rate, peak_learning_rate(spec), final_learning_rate(spec)
    if spec.variant.lr_clock == "layer_tokens":
        step = spec.batch_size * spec.sequence_length
        warmup = (rate.warmup_tokens or rate.warmup_steps * step) * spec.layers
        return layer_token_rates(rate, peak, np.cumsum(_layer_tokens(spec, table)), warmup, last)
    if spec.variant.lr_clock == "raw_tokens":
        raw = table["cumulative_raw_tokens"].to_numpy()
        return learning_rates(rate, peak, int(raw[-1]), raw, last)
    return learning_rates(rate, peak, spec.train_tokens, table["cumulative_effective_tokens"].to_numpy(), last)


def _layer_tokens(spec: PlanSpec, table: pd.DataFrame) -> Column:
    rows, length, kept = (table[name].to_numpy() for name in ("rows", "sequence_length", "kept_tokens"))
    dropping = len(dropped_layers(spec.variant, spec.layers))
    return layer_tokens(rows, length, kept, spec.layers, dropping, spec.variant.token_drop)


def _effective_tokens(spec: PlanSpec, rows: Column, length: Column, kept: Column) -> Column:
    """As the papers' code counts them, floored per row; of layers that drop whole samples, floored once."""
    drop, dropping = spec.variant.token_drop, len(dropped_layers(spec.variant, spec.layers))
    if drop is not None and drop.route == "samples":
        tokens: Column = layer_tokens(rows, length, kept, spec.layers, dropping, drop) // spec.layers
        return tokens
    return effective_tokens(rows, length, kept, spec.layers, dropping)


def schedules(spec: PlanSpec) -> dict[str, PacingSchedule]:
    """The resolved pacing of each part: one per curriculum metric by its name, and `token_drop`."""
    steps = nominal_steps(spec)
    published = {Fraction(over): count for over, count in spec.published_steps.items()}
    found = {
        metric: PacingSchedule.resolve(
            part.pacing,
            unit=1 if part.apply == "select" else spec.sequence_length,
            nominal_steps=steps,
            floor_at_start=True,
            where=f"{spec.run.name}: curriculum.{metric}.pacing",
            total_steps=published.get(part.pacing.over),
        )
        for metric, part in spec.variant.curriculum.items()
    }
    if spec.variant.token_drop is not None:
        if not dropped_layers(spec.variant, spec.layers):
            drop = spec.variant.token_drop
            raise DataeffError(
                f"{spec.run.name}: token_drop keeps the first {drop.keep_first} and last {drop.keep_last} of "
                f"{spec.layers} layers whole, so none drops tokens; at least {drop.keep_first + drop.keep_last + 1} "
                f"layers are needed"
            )
        found["token_drop"] = PacingSchedule.resolve(
            spec.variant.token_drop.pacing,
            unit=spec.sequence_length,
            nominal_steps=steps,
            floor_at_start=False,
            where=f"{spec.run.name}: token_drop.pacing",
            total_steps=published.get(spec.variant.token_drop.pacing.over),
        )
    return found


def steps_table(spec: PlanSpec, buckets: Buckets | None = None) -> pd.DataFrame:
    """The columns that need no data: lengths, kept tokens, difficulties, tokens, learning rate; one row per step.

    The run ends with the step that reaches its effective tokens. Curricula see the 1-based step, token drop the
    0-based one. Length buckets are drawn by their sizes: without `buckets`, as if all had the same number of tokens.
    """
    pacing = schedules(spec)
    shortest = _effective_tokens(spec, *_first_step(spec, pacing))[0]
    most_steps = math.ceil(spec.train_tokens / int(shortest))
    # A run is at most a few times its nominal steps; growing by doubling keeps memory near what is used.
    steps = min(most_steps, 2 * nominal_steps(spec) + 2)
    while True:
        table = _table(spec, pacing, steps, buckets)
        consumed = table["cumulative_effective_tokens"].to_numpy()
        if consumed[-1] >= spec.train_tokens:
            break
        steps *= 2
    table = table.iloc[: int(np.searchsorted(consumed, spec.train_tokens)) + 1].copy()
    table["learning_rate"] = _rates(spec, table)
    return table


def _first_step(spec: PlanSpec, pacing: Mapping[str, PacingSchedule]) -> tuple[Column, Column, Column]:
    """Rows, length and kept tokens of the first step, the one with the fewest effective tokens; each [1]."""
    first = np.zeros(1, dtype=np.int64)
    length = pacing["seqlen"].at(first + 1) if spec.variant.length_curriculum else first + spec.sequence_length
    kept = pacing["token_drop"].at(first) if "token_drop" in pacing else length
    return first + spec.batch_size, length, np.minimum(kept, length)


def _table(spec: PlanSpec, pacing: Mapping[str, PacingSchedule], steps: int, buckets: Buckets | None) -> pd.DataFrame:
    import pandas as pd

    step = np.arange(steps, dtype=np.int64)
    length_part = spec.variant.length_curriculum
    length = pacing["seqlen"].at(step + 1) if length_part else np.full(steps, spec.sequence_length)
    samples = np.full(steps, spec.batch_size)
    if spec.variant.length_buckets is not None:
        sizes = buckets or Buckets.assumed(spec.sequence_length)
        length, samples = bucket_order(spec, pacing["seqlen"], steps, sizes).shapes()
    kept = np.minimum(pacing["token_drop"].at(step), length) if "token_drop" in pacing else length
    rows = samples
    if length_part is not None and length_part.apply == "reshape":
        rows = reshaped_rows(spec.batch_size, spec.sequence_length, length)
    effective = _effective_tokens(spec, rows, length, kept)
    table = pd.DataFrame(
        {
            "step": step,
            "sequence_length": length,
            "kept_tokens": kept,
            "samples": samples,
            "rows": rows,
            "raw_tokens": rows * length,
            "effective_tokens": effective,
            "cumulative_raw_tokens": np.cumsum(rows * length),
            "cumulative_effective_tokens": np.cumsum(effective),
        }
    )
    if spec.variant.window is not None:
        table["window"] = np.minimum(pacing["seqlen"].at(step + 1), spec.sequence_length)
    for metric, part in spec.variant.selections.items():
        level = pacing[metric].at(step + 1)
        if part.then == "uniform":
            all_samples = 100 if part.by == "percentile" else np.iinfo(np.int64).max
            level = np.where(step >= pacing[metric].total_steps, all_samples, level)
        table[f"{metric}_{part.by}"] = level
    return table


def build_plan(
    spec: PlanSpec,
    samples: int,
    indexes: Mapping[str, DifficultyIndex],
    index_folders: Mapping[str, Path] | None = None,
    out: Path | None = None,
    buckets: Buckets | None = None,
) -> TrainingPlan:
    """The whole plan of a run over a corpus of `samples` samples, which lie in `buckets` where the variant wants that.

    Where `index_folders` says which folders the indexes lie in, order.npy of a single selecting metric is referred to
    instead of copied, and values are read rather than mapped; with `out`, the joint order of several metrics is
    written to that folder's admission.npy instead of memory.
    """
    from dataeff.order import SampleOrder
    from dataeff.pools import find_pools

    check_layout(spec, buckets)
    table = steps_table(spec, buckets)
    epochs = _epochs(spec, table, samples, buckets)
    order: SampleOrder | BucketOrder
    if buckets is not None:
        order = bucket_order(spec, schedules(spec)["seqlen"], len(table), buckets)
        pools = order.pool_sizes()
    else:
        pools, admission = find_pools(spec, table, samples, indexes, index_folders or {}, out)
        order = SampleOrder.build(
            seed=spec.run.seed, batch_size=spec.batch_size, pool_sizes=pools.astype(np.int64), admission=admission
        )
    table["pool_size"] = pools
    facts = {
        "run": spec.run.model_dump(mode="json"),
        "name": spec.run.name,
        "spec_digest": spec.digest,
        "steps": len(table),
        "nominal_steps": nominal_steps(spec),
        "raw_tokens": int(table["raw_tokens"].sum()),
        "effective_tokens": int(table["effective_tokens"].sum()),
        "target_tokens": spec.train_tokens,
        "epochs": round(epochs, 4),
        "samples_in_corpus": samples,
        "peak_learning_rate": peak_learning_rate(spec),
        "order_digest": order.digest,
        **bucket_facts(order),
    }
    return TrainingPlan(table, order, {**facts, "digest": _table_digest(table, facts)})


def _epochs(spec: PlanSpec, table: pd.DataFrame, samples: int, buckets: Buckets | None) -> float:
    """How often the run reads the corpus: by samples, or by tokens where they differ in length."""
    read, there, unit = spec.batch_size, samples, "samples"
    if buckets is not None:
        read, there, unit = spec.batch_size * buckets.lengths[-1], buckets.tokens, "tokens"
    epochs = len(table) * read / there
    if epochs > spec.max_epochs:
        raise DataeffError(
            f"{spec.run.name}: {len(table)} steps of {read} {unit} would read the corpus of {there} {unit} "
            f"{epochs:.1f} times; max_epochs is {spec.max_epochs}. Use a larger corpus, fewer train_tokens, or raise "
            f"max_epochs"
        )
    return epochs


def _table_digest(table: pd.DataFrame, facts: Mapping[str, Any]) -> str:
    columns = {name: canonical_digest(table[name].tolist()) for name in table.columns}
    return canonical_digest({"columns": columns, "order": facts["order_digest"], "spec": facts["spec_digest"]})


def run(spec: PlanSpec, samples_folder: Path, index_folders: Mapping[str, Path], out: Path) -> str:
    """The stage: writes the plan folder; returns what a person wants to know about it, in one line."""
    from dataeff.analyze.difficulty import DifficultyIndex

    facts = read_json(samples_folder / "samples.json")
    buckets = Buckets.of_facts(facts, samples_folder / "samples.json")
    indexes = {metric: DifficultyIndex.open(folder) for metric, folder in index_folders.items()}
    missing = sorted(set(spec.variant.selections) - set(indexes))
    if missing:
        raise DataeffError(
            f"{spec.run.name}: no difficulty index for {', '.join(missing)}; run `dataeff analyze` for it"
        )
    with atomic_directory(out) as temporary:
        plan = build_plan(spec, int(facts["samples"]), indexes, index_folders, temporary, buckets)
        plan.write(temporary)
    epochs = plan.facts["epochs"]
    repeats = (
        f"reads the corpus {epochs:.2f} times: samples repeat" if epochs > 1 else f"reads {epochs:.1%} of the corpus"
    )
    return (
        f"{spec.run.name}: {plan.facts['steps']} steps (nominal {plan.facts['nominal_steps']}), "
        f"{plan.facts['effective_tokens']:,} effective and {plan.facts['raw_tokens']:,} raw tokens, "
        f"peak learning rate {plan.facts['peak_learning_rate']:.3g}; {repeats}{bucket_summary(plan.facts)}"
    )


__all__ = ["TrainingPlan", "build_plan", "run", "steps_table"]
