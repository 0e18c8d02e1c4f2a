"""What the table of published numbers says in words: in how many comparisons the signs agree, and the notes.

Every count is taken from the table's rows. A lower loss is better, so its sign is turned round and held against the
first published average of the family; a difference of exactly 0 has no sign and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

from dataeff.families.traits import TRAITS
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec
from dataeff.tables.prompted import as_published, counted
from dataeff.tables.quality import Measure, average
from dataeff.tables.quality import notes as seed_notes
from dataeff.tables.results import RunResult, percent
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM

Row = dict[str, Any]

MARKS = {"yes": "", "derived": "*", "no": "†"}
"""By how a published number was checked, the best first."""
FEW_SEEDS = "°"
GLUE_TABLE = "glue"
DELTAS = {"same": "delta", "full": "delta_full"}
"""Section -> the end of its keys."""


@dataclass(frozen=True)
class Quality:
    """A published average of a family, by the papers' field; `ours` is the same of a run here."""

    family: FamilyName
    field: str
    key: str
    heading: str
    digits: int
    ours: Measure


def _glue_average(result: RunResult) -> float | None:
    """After finetuning, by the papers' rule; None of a run that was not finetuned on tasks of GLUE."""
    # The finetuning table takes its marks from here.
    from dataeff.tables.finetune import average_of

    return average_of(GLUE_TABLE, "published", result)


QUALITIES = [
    Quality("gpt", "avg_0shot", "average_0shot", "0-shot", 1, partial(average, 0)),
    Quality("gpt", "avg_10shot", "average_10shot", "10-shot", 1, partial(average, 10)),
    Quality("bert", "glue_avg", "average_glue", "GLUE", 2, _glue_average),
]


def headline(rows: Sequence[Row]) -> str:
    """The agreement in one line; empty where nothing can be compared."""
    counts = {section: directions(rows, section) for section in DELTAS}
    parts = []
    for section, words in (("same", " differences at the same data"), ("full", " to 100% data")):
        if counts[section]:
            agreeing, of = (sum(column) for column in zip(*counts[section].values(), strict=True))
            parts.append(f"{agreeing} of {of}{words}")
    few = _few_seeds(rows)
    return f"Sign as published: {', '.join(parts)}{f'; {few}: no claim' if few else ''}" if parts else ""


def _few_seeds(rows: Sequence[Row]) -> str:
    """'1 seed', where there are too few for a claim; otherwise empty."""
    seeds = min((row["seeds"] for row in rows), default=SEEDS_FOR_A_CLAIM)
    return "" if seeds >= SEEDS_FOR_A_CLAIM else f"{seeds} seed{'s' if seeds > 1 else ''}"


def directions(rows: Sequence[Row], section: str) -> dict[str, tuple[int, int]]:
    """What is compared -> (in how many rows the signs agree, of how many)."""
    found: dict[str, list[bool]] = {}
    for heading, family, published_key, our_key, better in _comparisons():
        for row in rows:
            # At 100% of the data the two baselines are one: such a row counts once.
            if row["family"] != family or (section == "full" and row["data"] == percent(Fraction(1))):
                continue
            published = row[f"published_{published_key}_{DELTAS[section]}"]
            # Two equal averages of the same scores can differ by what a float rounds off.
            ours = better * round(row[f"our_{our_key}_{DELTAS[section]}"] or 0, 9)
            if published and ours:
                found.setdefault(heading, []).append((published > 0) == (ours > 0))
    return {heading: (sum(agree), len(agree)) for heading, agree in found.items()}


def _comparisons() -> list[tuple[str, FamilyName, str, str, int]]:
    """(heading, family, published key, our key, +1 or -1: the sign of a better one)."""
    found = [(quality.heading, quality.family, quality.key, quality.key, 1) for quality in QUALITIES]
    first: dict[FamilyName, Quality] = {}
    for quality in QUALITIES:
        first.setdefault(quality.family, quality)
    return found + [
        (f"held-out loss against {quality.heading}", family, quality.key, "heldout_loss", -1)
        for family, quality in first.items()
    ]


def notes(spec: GridSpec, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["The papers have no number for any run of this grid, or none that it could be compared with."]
    families: list[FamilyName] = sorted({row["family"] for row in rows}, reverse=True)
    models = " and ".join(TRAITS[family].published_model for family in families)
    first = (
        f"Published: arXiv 2212.03597 and 2211.11586, each run pretrained once; {models}. Ours: scale "
        f"'{spec.scale_name}'. Compare the signs of differences, not their sizes."
    )
    return [
        *_about_signs(rows),
        first,
        *_about_marks(rows),
        *_about_tasks(spec, families),
        *_remarks(spec, rows),
        *_missing(spec),
    ]


def _about_signs(rows: Sequence[Row]) -> list[str]:
    parts, few = [], _few_seeds(rows)
    for section, words in (("same", "the same data"), ("full", "100% data (of the rows on less)")):
        counts = directions(rows, section).items()
        each = ", ".join(f"{heading} {agreeing} of {of}" for heading, (agreeing, of) in counts)
        parts += [f"to the baseline on {words}: {each}"] if each else []
    return (
        [
            f"Differences with the published sign, {'; '.join(parts)}. Higher averages and lower losses are better; a "
            "difference of 0 has no sign and is not counted. A coin would agree in half of them; at "
            f"{few + ' and ' if few else ''}this scale the count is no claim about the papers' results."
        ]
        if parts
        else []
    )


def _about_marks(rows: Sequence[Row]) -> list[str]:
    used = {row[key] for row in rows for key in row if key.endswith("_mark")}
    texts = {
        MARKS["no"]: "recalled, not checked at its source; or a difference to such a number.",
        MARKS["derived"]: "derived from other published numbers.",
    }
    lines = [f"{mark}: {text}" for mark, text in texts.items() if mark in used]
    # The first of these is about levels and differences of ours alone, which this table says in its own words.
    seeds = seed_notes([row["seeds"] for row in rows])[1:]
    return [*lines, *(f"{FEW_SEEDS}: {line}" if line.startswith("n =") else line for line in seeds)]


def _about_tasks(spec: GridSpec, families: Sequence[FamilyName]) -> list[str]:
    lines = []
    ours, theirs = counted(spec.tasks), as_published(spec.tasks)
    of_others = len(ours) != len(theirs) or set(theirs) != set(spec.published.tasks)
    if any(TRAITS[family].prompted for family in families) and of_others:
        shared = [task for task in spec.published.tasks if task in theirs]
        lines.append(
            f"The published averages are over {len(spec.published.tasks)} tasks ({', '.join(spec.published.tasks)}). "
            f"Ours are over others ({', '.join(ours) or 'none'}; in both: {', '.join(shared) or 'none'}): what "
            "is asked of the models differs."
        )
    tuned = any(task.table == GLUE_TABLE for task in spec.finetuning.values())
    if not all(TRAITS[family].prompted for family in families) and not tuned:
        lines.append("GLUE: no run here is fine-tuned on it; beside its published average stands the held-out loss.")
    return lines


def _remarks(spec: GridSpec, rows: Sequence[Row]) -> list[str]:
    """What is known about single published numbers of these rows."""
    shown = {(row["family"], row["variant"], row["data"]) for row in rows}
    data = {(run.family, run.variant, round(run.data * 100)): percent(run.data) for run in spec.runs}
    headings = {quality.field: quality.heading for quality in QUALITIES}
    return [
        f"{result.variant} {data[result.place]}, published {headings.get(result.field, result.field)}: {result.note}."
        for result in spec.published.results
        if result.note and (result.family, result.variant, data.get(result.place)) in shown
    ]


def _missing(spec: GridSpec) -> list[str]:
    counts = ", ".join(f"{count} of {kind}" for kind, count in spec.published.not_reproduced.items())
    return [f"Published results of other models that are not reproduced here: {counts}."] if counts else []
