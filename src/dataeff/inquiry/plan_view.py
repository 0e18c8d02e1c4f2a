"""`dataeff study plan RUN`: what a run does at which step, as a table for people, a file of every row, or a picture.

The table is that of plan.py. Its pool sizes need data: they are shown where this run's plan has been made in the
results, or the samples and difficulty indexes that it is made from are there; all else needs the configuration alone.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.files import atomic_path, read_json
from dataeff.inquiry.text import columns, labelled, rate, ruled, short
from dataeff.pacing import PacingSchedule
from dataeff.plan import nominal_steps, peak_learning_rate, schedules, steps_table
from dataeff.study.outside import AskedRun, find_run, results_folder
from dataeff.study.specs import PlanSpec, dropped_layers, plan_spec

if TYPE_CHECKING:
    import pandas as pd

DROP = "token_drop"


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
    return PlanView(asked, spec, table, pools, _events(spec, table))


def _table(asked: AskedRun, spec: PlanSpec, results: Path) -> tuple[pd.DataFrame, str]:
    """The steps table, with pool sizes where they can be had, and where they are from."""
    import pandas as pd

    study = asked.study
    made = results / study.scale_name / "plan" / spec.run.name
    if (made / "plan.json").is_file() and read_json(made / "plan.json").get("spec_digest") == spec.digest:
        return pd.read_parquet(made / "steps.parquet"), f"from the plan made in {made}"
    data = results / "data" / study.scale.corpus / study.data_item(spec.run.family)
    facts = data / "samples" / "samples.json"
    folders = {metric: data / "analyze" / metric for metric in spec.variant.selections}
    missing = [path for path in (facts, *(folder / "index.json" for folder in folders.values())) if not path.is_file()]
    if missing:
        return steps_table(spec), f"not shown: {missing[0]} is not there yet"
    from dataeff.analyze.difficulty import DifficultyIndex
    from dataeff.plan import build_plan

    indexes = {metric: DifficultyIndex.open(folder) for metric, folder in folders.items()}
    samples = int(read_json(facts)["samples"])
    return build_plan(spec, samples, indexes, folders).steps, f"of {samples:,} samples in {data}"


def _events(spec: PlanSpec, table: pd.DataFrame) -> dict[int, str]:
    """The steps at which a pacing reaches its end or the warm-up is over, and what to call that."""
    notes: dict[int, list[str]] = {}
    for part, schedule in schedules(spec).items():
        step = _first(_column_of(spec, table, part) >= min(schedule.end, _limit(spec, part, schedule)))
        if step is not None:
            notes.setdefault(step, []).append(f"{'kept tokens' if part == DROP else part} done")
    peak = int(table["learning_rate"].to_numpy().argmax())
    if peak:
        notes.setdefault(peak, []).append("warm-up done")
    return {step: ", ".join(found) for step, found in notes.items()}


def _limit(spec: PlanSpec, part: str, schedule: PacingSchedule) -> int:
    """The highest value that a pacing can show: kept tokens never pass the sequence length."""
    return spec.sequence_length if part == DROP else schedule.end


def _column_of(spec: PlanSpec, table: pd.DataFrame, part: str) -> NDArray[np.int64]:
    if part == DROP:
        return schedules(spec)[DROP].at(np.arange(len(table), dtype=np.int64))
    curriculum = spec.variant.curriculum[part]
    name = "sequence_length" if curriculum.apply != "select" else f"{part}_{curriculum.by}"
    column: NDArray[np.int64] = table[name].to_numpy()
    return column


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
        ("steps", f"{len(table):,} of {spec.batch_size} samples (nominal, at full length: {nominal_steps(spec):,})"),
        ("tokens", f"{short(effective)} effective (layer-averaged; what the budget counts), {short(raw)} raw"),
        ("learning rate", _learning_rate(spec)),
        *((_title(part), _pacing(view, part, schedule)) for part, schedule in schedules(spec).items()),
        ("sample pools", view.pools),
    ]
    outside = "" if view.asked.in_grid else " (in no grid)"
    return [f"{spec.run.name} at scale {study.scale_name}{outside}", "", *labelled(pairs)]


def _title(part: str) -> str:
    return "kept tokens" if part == DROP else part


def _learning_rate(spec: PlanSpec) -> str:
    schedule, peak = spec.learning_rate, peak_learning_rate(spec)
    over = f"{schedule.warmup_steps:,} steps" if schedule.warmup_steps else f"{short(schedule.warmup_tokens)} tokens"
    factor = f" ({spec.learning_rate_factor} x {rate(schedule.peak)})" if spec.learning_rate_factor != 1 else ""
    return f"peak {rate(peak)}{factor}, warm-up over {over}, {schedule.decay} over tokens to {rate(schedule.minimum)}"


def _pacing(view: PlanView, part: str, schedule: PacingSchedule) -> str:
    spec, table = view.spec, view.table
    if part == DROP:
        layers = dropped_layers(spec.variant, spec.layers)
        which = f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}"
        what = f"in {which} of {spec.layers}, from 0, "
        unit = "tokens"
    else:
        curriculum = spec.variant.curriculum[part]
        what = f"{curriculum.apply} {'by ' + curriculum.by if curriculum.apply == 'select' else 'samples'}, "
        unit = "percent" if curriculum.by == "percentile" else "tokens" if curriculum.apply != "select" else "in value"
    shape = {1: "linear", 2: "square root"}.get(schedule.root, f"root {schedule.root}")
    end = _first(_column_of(spec, table, part) >= schedule.end)
    if end is None:
        reached = "not reached in this run"
    else:
        tokens = table["cumulative_effective_tokens"].iloc[end] / spec.train_tokens
        reached = f"reached at step {end:,} ({end / len(table):.0%} of the steps, {tokens:.0%} of the tokens)"
    return (
        f"{what}{schedule.start} to {schedule.end} {unit} by {schedule.multiple_of}, {shape} over "
        f"{schedule.total_steps:,} steps; {reached}"
    )


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
    table, spec = view.table, view.spec
    wanted = {"step": "step", "sequence_length": "length"}
    if spec.variant.token_drop is not None:
        wanted["kept_tokens"] = "kept"
    length = spec.variant.length_curriculum
    if length is not None and length.apply == "reshape":
        wanted["rows"] = "rows"
    wanted |= {
        f"{metric}_{part.by}": metric + (" %" if part.by == "percentile" else "")
        for metric, part in spec.variant.selections.items()
    }
    if "pool_size" in table:
        wanted["pool_size"] = "pool"
    wanted |= {"cumulative_effective_tokens": "eff. tokens", "learning_rate": "rate"}
    notes = {len(table) - 1: "last", **view.events}
    lines = [[*wanted.values(), ""]]
    for step in shown_steps(view, rows):
        row = table.iloc[step]
        lines.append([*(_cell(name, row[name]) for name in wanted), notes.get(step, "")])
    return ruled(columns(lines, left=[len(wanted)]))


def _cell(name: str, value: float) -> str:
    if name == "learning_rate":
        return rate(float(value), aligned=True)
    return short(value) if name == "cumulative_effective_tokens" else f"{int(value):,}"
