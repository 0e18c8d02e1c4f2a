"""`dataeff study plan RUN`: what a run does at which step, as a table for people, a file of every row, or a picture.

The table is that of plan.py. Its pool sizes need data: they are shown where this run's plan has been made in the
results, or the samples and difficulty indexes that it is made from are there. Lengths that are drawn from buckets are
drawn as if all buckets had equally many tokens until then. All else needs the configuration alone.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataeff.bucket_plan import Buckets, bucket_lengths
from dataeff.errors import DataeffError
from dataeff.files import atomic_path, read_json
from dataeff.inquiry.shown import KEPT_ROWS, drops_samples, shown_table
from dataeff.inquiry.text import columns, labelled, rate, ruled, short
from dataeff.inquiry.words import CLOCKS, ROUTES, averaged, final_rate
from dataeff.pacing import PacingSchedule
from dataeff.plan import nominal_steps, peak_learning_rate, schedules, steps_table
from dataeff.pretrain.average import averaged_steps, time_constant
from dataeff.study.outside import AskedRun, find_run, results_folder
from dataeff.study.specs import PlanSpec, dropped_layers, plan_spec

if TYPE_CHECKING:
    import pandas as pd

DROP = "token_drop"
_APPLIED = {
    "truncate": "truncate samples, ",
    "reshape": "reshape samples, ",
    "window": "attention in blocks of so many tokens, ",
    "bucket": "one bucket a step, of samples of at most ",
}


@dataclass(frozen=True)
class PlanView:
    """A run's spec and steps table, what is known about its pools, and the steps at which something ends."""

    asked: AskedRun
    spec: PlanSpec
    table: pd.DataFrame
    pools: str
    events: dict[int, str]


def run(args: Namespace) -> None:
    if args.rows < 2:
        raise DataeffError(f"--rows {args.rows}: at least 2 are needed, the first and the last step")
    asked = find_run(args, args.run)
    view = view_of(asked, results_folder(args, asked.study))
    print("\n".join([*header(view), "", *table_lines(view, args.rows)]))
    if args.csv:
        with atomic_path(args.csv) as temporary:
            view.table.to_csv(temporary, index=False)
    if args.parquet:
        with atomic_path(args.parquet) as temporary:
            view.table.to_parquet(temporary, index=False)
    if args.png:
        from dataeff.inquiry.plan_picture import draw

        draw(view, args.png)
    for path in filter(None, (args.csv, args.parquet, args.png)):
        print(f"written: {path}")


def view_of(asked: AskedRun, results: Path) -> PlanView:
    spec = plan_spec(asked.study, asked.run)
    table, pools = _table(asked, spec, results)
    return PlanView(asked, spec, shown_table(spec, table), pools, _events(spec, len(table), table))


def _table(asked: AskedRun, spec: PlanSpec, results: Path) -> tuple[pd.DataFrame, str]:
    """The steps table, with pool sizes where they can be had, and where they are from."""
    import pandas as pd

    study = asked.study
    made = results / study.scale_name / "plan" / spec.run.name
    if (made / "plan.json").is_file() and read_json(made / "plan.json").get("spec_digest") == spec.digest:
        return pd.read_parquet(made / "steps.parquet"), f"from the plan made in {made}"
    data = results / "data" / study.scale.corpus / study.data_item(spec.run.family, study.layout(spec.run))
    facts = data / "samples" / "samples.json"
    folders = {metric: data / "analyze" / metric for metric in spec.variant.selections}
    missing = [path for path in (facts, *(folder / "index.json" for folder in folders.values())) if not path.is_file()]
    if missing:
        return steps_table(spec), f"not shown: {missing[0]} is not there yet"
    from dataeff.analyze.difficulty import DifficultyIndex
    from dataeff.plan import build_plan

    indexes = {metric: DifficultyIndex.open(folder) for metric, folder in folders.items()}
    found = read_json(facts)
    samples, buckets = int(found["samples"]), Buckets.of_facts(found, facts)
    return build_plan(spec, samples, indexes, folders, buckets=buckets).steps, f"of {samples:,} samples in {data}"


def _events(spec: PlanSpec, steps: int, table: pd.DataFrame) -> dict[int, str]:
    """The steps at which a pacing reaches its end or the warm-up is over, and what to call that."""
    notes: dict[int, list[str]] = {}
    for part, schedule in schedules(spec).items():
        step = _first(paced(spec, part, steps) >= min(schedule.end, _limit(spec, part, schedule)))
        if step is not None:
            notes.setdefault(step, []).append(f"{'kept tokens' if part == DROP else part} done")
        if part != DROP and spec.variant.curriculum[part].then == "uniform" and schedule.total_steps < steps:
            notes.setdefault(schedule.total_steps, []).append("all samples alike")
    peak = int(table["learning_rate"].to_numpy().argmax())
    if peak:
        notes.setdefault(peak, []).append("warm-up done")
    return {step: ", ".join(found) for step, found in notes.items()}


def _limit(spec: PlanSpec, part: str, schedule: PacingSchedule) -> int:
    """The highest value that a pacing can show: kept tokens never pass the sequence length."""
    return spec.sequence_length if part == DROP else schedule.end


def paced(spec: PlanSpec, part: str, steps: int) -> NDArray[np.int64]:
    """The value of a part's pacing at each step; token drop sees the 0-based step, a curriculum the 1-based one."""
    first = 0 if part == DROP else 1
    return schedules(spec)[part].at(np.arange(first, steps + first, dtype=np.int64))


def _first(reached: NDArray[np.bool_]) -> int | None:
    return int(reached.argmax()) if reached.any() else None


def header(view: PlanView) -> list[str]:
    """What the run is, in a few labelled lines."""
    spec, table, study = view.spec, view.table, view.asked.study
    about = study.variant(spec.run).about
    model = study.family(spec.run).model
    raw, effective = int(table["raw_tokens"].sum()), int(table["effective_tokens"].sum())
    pairs = [
        ("variant", about or "a variant of one's own"),
        ("model", f"{spec.run.family}, {model.layers} layers x {model.hidden}, length {model.sequence_length}"),
        ("data", f"{spec.run.data} of {short(study.family(spec.run).train_tokens)} tokens"),
        ("steps", f"{len(table):,} of {_step(spec)} (nominal, at full length: {nominal_steps(spec):,})"),
        ("tokens", f"{short(effective)} effective (layer-averaged; what the budget counts), {short(raw)} raw"),
        ("learning rate", _learning_rate(spec)),
        *((_title(part), _pacing(view, part, schedule)) for part, schedule in schedules(spec).items()),
        *_buckets(view),
        *_weights(view),
        ("sample pools", view.pools),
    ]
    outside = "" if view.asked.in_grid else " (in no grid)"
    return [f"{spec.run.name} at scale {study.scale_name}{outside}", "", *labelled(pairs)]


def _step(spec: PlanSpec) -> str:
    if spec.variant.length_buckets is None:
        return f"{spec.batch_size} samples"
    return f"{spec.batch_size * bucket_lengths(spec.sequence_length)[-1]:,} tokens"


def _title(part: str) -> str:
    return "kept tokens" if part == DROP else part


def _learning_rate(spec: PlanSpec) -> str:
    schedule, peak = spec.learning_rate, peak_learning_rate(spec)
    over = f"{schedule.warmup_steps:,} steps" if schedule.warmup_steps else f"{short(schedule.warmup_tokens)} tokens"
    factor = f" ({spec.learning_rate_factor} x {rate(schedule.peak)})" if spec.learning_rate_factor != 1 else ""
    curve = f"peak {rate(peak)}{factor}, warm-up over {over}, {schedule.decay} over tokens to {final_rate(spec)}"
    return f"{curve}; follows {CLOCKS[spec.variant.lr_clock]}"


def _buckets(view: PlanView) -> list[tuple[str, str]]:
    """The lengths of a run's buckets, and how many steps took each."""
    if view.spec.variant.length_buckets is None:
        return []
    steps = view.table["sequence_length"].value_counts()
    found = [f"{length} ({steps.get(length, 0):,})" for length in bucket_lengths(view.spec.sequence_length)]
    drawn = "" if "pool_size" in view.table else "; drawn as if each held as many tokens, until the samples are made"
    return [("bucket lengths", f"tokens of a sample (steps): {', '.join(found)}{drawn}")]


def _weights(view: PlanView) -> list[tuple[str, str]]:
    """Which states are averaged, where the last one is not what is exported."""
    averaging = view.spec.variant.averaging
    if averaging is None:
        return []
    constant = time_constant(averaging, nominal_steps(view.spec))
    if constant is not None:
        return [("weights", f"{averaged(averaging)}: its time constant is {constant:,.0f} steps")]
    ends = [f"{step:,}" for step in averaged_steps(len(view.table), averaging, view.spec.run.name)]
    return [("weights", f"{averaged(averaging)}, those after {', '.join(ends)} steps")]


def _pacing(view: PlanView, part: str, schedule: PacingSchedule) -> str:
    spec, table = view.spec, view.table
    what, unit, then = _paced_in_words(spec, part)
    shape = {1: "linear", 2: "square root"}.get(schedule.root, f"root {schedule.root}")
    end = _first(paced(spec, part, len(table)) >= schedule.end)
    if end is None:
        reached = "not reached in this run"
    else:
        tokens = table["cumulative_effective_tokens"].iloc[end] / spec.train_tokens
        reached = f"reached at step {end:,} ({end / len(table):.0%} of the steps, {tokens:.0%} of the tokens)"
    return (
        f"{what}{schedule.start} to {schedule.end} {unit} by {schedule.multiple_of}, {shape} over "
        f"{schedule.total_steps:,} steps; {reached}{then}"
    )


def _paced_in_words(spec: PlanSpec, part: str) -> tuple[str, str, str]:
    """What a pacing drives, its unit, and what follows it."""
    if part == DROP:
        layers = dropped_layers(spec.variant, spec.layers)
        which = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        route = spec.variant.token_drop.route if spec.variant.token_drop else "each_layer"
        route_words = "" if route == "each_layer" else f"; dropped: {ROUTES[route]}"
        return f"in {which} of {spec.layers}, from 0, ", "tokens", route_words
    curriculum = spec.variant.curriculum[part]
    if curriculum.apply != "select":
        return _APPLIED[curriculum.apply], "tokens", ""
    then = "; after that all samples alike" if curriculum.then == "uniform" else ""
    return f"select by {curriculum.by}, ", "percent" if curriculum.by == "percentile" else "in value", then


def shown_steps(view: PlanView, rows: int) -> list[int]:
    """First and last step, those at which something ends, and evenly spaced ones between, about `rows` in all."""
    last = len(view.table) - 1
    fixed = {0, last, *view.events}
    free = max(2, rows - len(fixed) + 2)
    spaced = {round(index * last / (free - 1)) for index in range(free)}
    near = last / free / 4
    return sorted(fixed | {step for step in spaced if all(abs(step - event) > near for event in fixed)})


def table_lines(view: PlanView, rows: int) -> list[str]:
    """The table's rows in aligned columns, with a note where something ends."""
    table = view.table
    wanted = _columns(view)
    notes = {len(table) - 1: "last", **view.events}
    lines = [[*wanted.values(), ""]]
    for step in shown_steps(view, rows):
        row = table.iloc[step]
        lines.append([*(_cell(name, row[name]) for name in wanted), notes.get(step, "")])
    return ruled(columns(lines, left=[len(wanted)]))


def _columns(view: PlanView) -> dict[str, str]:
    """The columns that say something about this run, with their headings."""
    variant, length = view.spec.variant, view.spec.variant.length_curriculum
    wanted = {"step": "step", "sequence_length": "length"}
    wanted |= {"window": "window"} if variant.window is not None else {}
    by_rows = drops_samples(view.spec)
    wanted |= {"kept_tokens": "kept"} if variant.token_drop is not None and not by_rows else {}
    reshapes = length is not None and length.apply == "reshape"
    wanted |= {"rows": "rows"} if reshapes or by_rows or variant.length_buckets is not None else {}
    wanted |= {KEPT_ROWS: "kept rows"} if by_rows else {}
    wanted |= {
        f"{metric}_{part.by}": metric + (" %" if part.by == "percentile" else "")
        for metric, part in variant.selections.items()
    }
    wanted |= {"pool_size": "pool"} if "pool_size" in view.table else {}
    wanted |= {"cumulative_raw_tokens": "raw tokens"} if variant.lr_clock == "raw_tokens" else {}
    return wanted | {"cumulative_effective_tokens": "eff. tokens", "learning_rate": "rate"}


def _cell(name: str, value: float) -> str:
    if name == "learning_rate":
        return rate(float(value), aligned=True)
    return short(value) if name.startswith("cumulative_") else f"{int(value):,}"
