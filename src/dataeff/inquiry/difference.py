"""`dataeff study diff A B`: what differs between two runs: the configuration, the variants in plain words, and what
that leads to.

The configuration is what the runs' specs are cut from, leaf by leaf, so that nothing that trains differently is left
out; hardware is no part of a run. The runs may be at two scales (`--config-b scale=paper`).
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from dataeff.inquiry.price import Price, RunCost, cost_of, price_of
from dataeff.inquiry.shown import KEPT_ROWS, drops_samples, shown_table
from dataeff.inquiry.text import columns, hours, labelled, rate, scientific, short
from dataeff.inquiry.words import Words, differing_words, words_of
from dataeff.plan import peak_learning_rate, schedules, steps_table
from dataeff.study.load import Study
from dataeff.study.outside import AskedRun, find_run
from dataeff.study.specs import PlanSpec, plan_spec
from dataeff.study.types import Run

if TYPE_CHECKING:
    import pandas as pd

ABSENT = "absent"
NAMED = ("tokenizer", "corpus")
"""What is said by its name where the names differ, and leaf by leaf where they do not."""
UNPLANNED = {
    "seed": "other samples at every step and other initial weights",
    "token_drop.route": "other tokens or samples go past the layers",
    "averaging": "other weights are evaluated and exported",
    "dropout": "other activations are dropped in training",
}
"""What a difference of these leads to, which the columns of a plan do not show."""
WITHOUT = {
    "window": "attention of the other sees whole samples",
    KEPT_ROWS: "all rows of the other go through every layer",
}
"""What a run does that has no such column; one without a column of a metric takes all samples."""
Leaves = dict[str, str]


@dataclass(frozen=True)
class Side:
    """One of the two runs: its configuration by dotted key, its spec and steps table, and what it takes."""

    asked: AskedRun
    leaves: Leaves
    spec: PlanSpec
    table: pd.DataFrame
    cost: RunCost

    @property
    def name(self) -> str:
        return self.asked.run.name

    @property
    def words(self) -> Words:
        return words_of(self.spec, self.asked.study.family(self.asked.run).model.dropout)


def run(args: Namespace) -> None:
    price = price_of(args)
    a, b = find_run(args, args.a), find_run(args, args.b, args.config_b)
    print("\n".join(report(side_of(a, price), side_of(b, price), price)))


def side_of(asked: AskedRun, price: Price) -> Side:
    spec = plan_spec(asked.study, asked.run)
    table = steps_table(spec)
    cost = cost_of(asked.study, asked.run, table, recompute=price.recompute)
    return Side(asked, configuration(asked.study, asked.run), spec, shown_table(spec, table), cost)


def configuration(study: Study, run: Run) -> Leaves:
    """Everything that decides what a run trains on and how, by dotted key."""
    scale = study.family(run)
    tree = {
        "family": run.family,
        "data": str(run.data),
        "seed": run.seed,
        **study.variant(run).model_dump(mode="json", exclude={"about"}),
        **scale.model_dump(mode="json", exclude={"tokenizer", "metrics"}),
        "tokenizer": {"name": scale.tokenizer, **study.tokenizers[scale.tokenizer].model_dump(mode="json")},
        "corpus": {"name": study.scale.corpus, **study.corpus.model_dump(mode="json", exclude={"about"})},
    }
    return dict(_leaves(tree))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((f"{prefix}{key}", _shown(value)))
    return found


def _shown(value: Any) -> str:
    """A value as a person would write it: 110,000 and 0.384, where the configuration holds 48/125."""
    if isinstance(value, str) and "/" in value:
        try:
            exact = Fraction(value)
        except ValueError:
            return value
        return str(float(exact)) if exact == Fraction(str(float(exact))) and len(str(float(exact))) <= 6 else value
    if isinstance(value, list | bool):
        return json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def report(a: Side, b: Side, price: Price) -> list[str]:
    """The lines that say what differs."""
    scales = [side.asked.study.scale_name for side in (a, b)]
    titles = [f"{side.name} at scale {scale}" for side, scale in zip((a, b), scales, strict=True)]
    found = differences(a.leaves, b.leaves)
    lines = [f"A  {titles[0]}", f"B  {titles[1]}", "", "Configuration (A -> B)"]
    lines += labelled(found) if found else ["  nothing differs"]
    said = differing_words(
        *(words_of(side.spec, side.asked.study.family(side.asked.run).model.dropout) for side in (a, b))
    )
    lines += ["", "In words (B instead of A)", *labelled(said)] if said else []
    return [*lines, "", "Consequences", *consequences(a, b, price)]


def differences(a: Leaves, b: Leaves) -> list[tuple[str, str]]:
    """(key, 'A -> B') of each leaf that differs; a branch that only one of them has is one line."""
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    other_names = [f"{prefix}." for prefix in NAMED if f"{prefix}.name" in keys]
    keys = [key for key in keys if key.endswith(".name") or not key.startswith(tuple(other_names))]
    found: dict[str, str] = {}
    for key in keys:
        branch = _lone_branch(key, a if key not in a else b)
        if branch is None:
            found[key] = f"{a.get(key, ABSENT)} -> {b.get(key, ABSENT)}"
        else:
            found[branch] = " -> ".join(_branch(leaves, branch) for leaves in (a, b))
    return list(found.items())


def _lone_branch(key: str, without: Leaves) -> str | None:
    """The highest key above `key` below which the leaves `without` it hold nothing."""
    if key in without:
        return None
    parts = key.split(".")
    for length in range(1, len(parts)):
        above = ".".join(parts[:length])
        if above != "curriculum" and not any(leaf.startswith(f"{above}.") for leaf in without):
            return above
    return None


def _branch(leaves: Leaves, branch: str) -> str:
    """All leaves below a key in one line, by the last part of their names."""
    below = {key.rsplit(".", 1)[1]: value for key, value in leaves.items() if key.startswith(f"{branch}.")}
    return ", ".join(f"{name} {value}" for name, value in below.items()) or ABSENT


def consequences(a: Side, b: Side, price: Price) -> list[str]:
    """What the difference leads to: sums that differ, with their ratio; then where the plans part."""
    sums: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("steps", a.cost.steps, b.cost.steps, "{:,}".format),
        *_durations(a, b),
        ("raw tokens", a.cost.raw_tokens, b.cost.raw_tokens, short),
        ("effective tokens", a.cost.effective_tokens, b.cost.effective_tokens, short),
        ("FLOPs", a.cost.flops.total, b.cost.flops.total, scientific),
        ("GPU-hours", price.gpu_hours(a.cost.flops.total), price.gpu_hours(b.cost.flops.total), hours),
        ("peak learning rate", peak_learning_rate(a.spec), peak_learning_rate(b.spec), rate),
    ]
    rows = [
        [name, show(of_a), show(of_b), f"x {_ratio(of_b / of_a)}"]
        for name, of_a, of_b, show in sums
        if show(of_a) != show(of_b)
    ]
    parting = [line for column in _columns(a, b) if (line := _parting(a, b, column))]
    lines = _unplanned(a.leaves, b.leaves)
    if not rows and not parting:
        return [*lines, "  none in the plan: every step has the same length, kept tokens, difficulty and learning rate"]
    lines += [f"  {line}" for line in columns([["", "A", "B", ""], *rows])] if rows else []
    lines += ["", "First step that differs", *labelled(parting)] if parting else []
    if any(row[0] == "GPU-hours" for row in rows):
        lines += [
            "",
            f"GPU-hours on {price.gpu.name} ({price.gpu.peak_teraflops:g} TFLOP/s) at {price.utilisation:.0%}",
        ]
    return lines


def _unplanned(a: Leaves, b: Leaves) -> list[str]:
    """A line for each difference that no column shows; a route is one where both runs drop tokens."""
    differs = {key for key in {**a, **b} if a.get(key) != b.get(key)}
    found = {key: any(leaf == key or leaf.startswith(f"{key}.") for leaf in differs) for key in UNPLANNED}
    found["token_drop.route"] = "token_drop.route" in differs & set(a) & set(b)
    return [f"  {text} ({key})" for key, text in UNPLANNED.items() if found[key]]


def _durations(a: Side, b: Side) -> list[tuple[str, float, float, Callable[[float], str]]]:
    """The steps that each pacing of both runs takes."""
    of_a, of_b = schedules(a.spec), schedules(b.spec)
    return [
        (f"steps of {part.replace('_', ' ')}", of_a[part].total_steps, of_b[part].total_steps, "{:,}".format)
        for part in of_a
        if part in of_b
    ]


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _columns(a: Side, b: Side) -> list[str]:
    """The plan's columns in which two runs can part, in the order of a step."""
    curricula = [name for side in (a, b) for name in map(str, side.table) if name.endswith(("_percentile", "_value"))]
    kept = ["kept_tokens"] if any(side.spec.variant.token_drop for side in (a, b)) else []
    kept += [KEPT_ROWS] if any(drops_samples(side.spec) for side in (a, b)) else []
    window = ["window"] if any(side.spec.variant.window for side in (a, b)) else []
    return list(dict.fromkeys(["sequence_length", *window, *kept, "rows", *curricula, "learning_rate"]))


def _parting(a: Side, b: Side, column: str) -> tuple[str, str] | None:
    """A column's name and the first step at which it differs, with both values."""
    name = column.replace("_", " ")
    for one, other, letter in ((a, b, "B"), (b, a, "A")):
        if column not in one.table:
            without = WITHOUT.get(column, "the other takes all samples")
            return name, f"step 0: only {letter} has one ({other.table[column].iloc[0]:,}); {without}"
    common = min(len(a.table), len(b.table))
    ours, theirs = a.table[column].to_numpy()[:common], b.table[column].to_numpy()[:common]
    differs = ours != theirs
    if not differs.any():
        return None
    step = int(differs.argmax())
    show = "{:.6g}".format if column == "learning_rate" else "{:,}".format
    return name, f"step {step:,}: {show(ours[step])} and {show(theirs[step])}"
