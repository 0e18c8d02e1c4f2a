"""The papers' published results (config/papers/*.csv) under the names that runs have here.

Only what can stand beside a run of a grid is kept: the numbers of one variant at one percentage of the data. Each
carries its source and whether it was read there (`verified`), since some are recalled and could not be checked.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from dataeff.errors import DataeffError, unknown_name
from dataeff.study.base import FamilyName, Frozen
from dataeff.study.faults import validate
from dataeff.study.types import Run

Place = tuple[FamilyName, str, int]
"""Family, variant and percent of the data: what a published number belongs to."""

CASES: dict[FamilyName, str] = {"gpt": "gpt3_1p3b_cases.csv", "bert": "bert_large_cases.csv"}
METHODS = {
    "baseline": "baseline",
    "CL_seqtru": "cl_seqtru",
    "CL_seqres": "cl_seqres",
    "CL_seqreo": "cl_seqreo",
    "CL_voc": "cl_voc",
    "CL_seqtru_voc": "cl_seqtru_voc",
    "CL_seqres_voc": "cl_seqres_voc",
    "CL_seqreo_voc": "cl_seqreo_voc",
    "random-LTD": "ltd",
    # Of the Random-LTD paper, which does not scale the peak learning rate with the data fraction.
    "random-LTD (blog Table 3)": "ltd_flat_lr",
    "CL_seqtru_voc+random-LTD": "composed",
}
RANDOM_LTD: dict[str, tuple[str, list[Place]]] = {
    "GPT-3 1.3B 0-shot, 300B baseline / 200B random-LTD": (
        "avg_0shot",
        [("gpt", "baseline", 100), ("gpt", "ltd_flat_lr", 67)],
    ),
    "GPT-3 1.3B 0-shot, 300B random-LTD": ("avg_0shot", [("gpt", "ltd_flat_lr", 100)]),
    "BERT-large GLUE, 1049B baseline / 524B random-LTD": (
        "glue_avg",
        [("bert", "baseline", 100), ("bert", "ltd", 50)],
    ),
}
"""Items of random_ltd.csv -> the field, and what the item's numbers (apart by a slash) belong to."""
PARETO = {"baseline 0-shot": "baseline", "ours 0-shot": "composed"}
"""Items of pareto_gpt3_1p3b.csv that are quality at a percentage of the data."""
FIELDS = ("avg_0shot", "avg_10shot", "glue_avg", "hours_64xV100")


class PublishedResult(Frozen):
    """One published number. `verified`: whether it was read at its source, recalled, or derived from another."""

    family: FamilyName
    variant: str
    percent: int
    field: str
    value: float
    verified: Literal["yes", "no", "derived"]
    source: str
    note: str = ""

    @property
    def place(self) -> Place:
        return self.family, self.variant, self.percent


class PublishedResults(Frozen):
    """What the papers published, as far as runs can stand beside it."""

    results: list[PublishedResult] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list, description="what the papers' averages are over (GPT)")
    not_reproduced: dict[str, int] = Field(
        default_factory=dict, description="results of models that this study has not, counted"
    )


def read_published(folder: Path) -> PublishedResults:
    """All that the files hold; nothing where there is no such folder (a configuration of one's own)."""
    if not folder.is_dir():
        return PublishedResults()
    found: dict[tuple[Place, str], PublishedResult] = {}
    for path, result in [*_cases(folder), *_random_ltd(folder), *_pareto(folder)]:
        # Some numbers stand in two files, which must not drift apart.
        first = found.setdefault((result.place, result.field), result)
        if first.value != result.value:
            raise DataeffError(
                f"{path}: {result.field} of {' '.join(map(str, result.place))} is {result.value}, another file of "
                f"{folder} has {first.value}; correct one of the two"
            )
    return PublishedResults(
        results=list(found.values()),
        tasks=[row["task"] for _, row in _lines(folder / "gpt3_19_tasks_reference.csv")],
        not_reproduced=_not_reproduced(folder),
    )


def published_of(published: PublishedResults, runs: Iterable[Run]) -> PublishedResults:
    """The part for a grid: the numbers of these runs and of the baselines that theirs differ from.

    Nothing, if a published baseline at 100% of the data is all that the grid has: there would be no difference to show.
    """
    of_runs: set[Place] = {(run.family, run.variant, round(run.data * 100)) for run in runs}
    full: set[Place] = {(family, "baseline", 100) for family, _, _ in of_runs}
    if not any(result.place in of_runs - full for result in published.results):
        return PublishedResults()
    wanted = of_runs | full | {(family, "baseline", percent) for family, _, percent in of_runs}
    return PublishedResults(
        results=[result for result in published.results if result.place in wanted],
        tasks=published.tasks if any(family == "gpt" for family, _, _ in of_runs) else [],
        not_reproduced=published.not_reproduced,
    )


def _lines(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(where, row) of every line of a table; an absent file is named, as is a line that is cut short."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; take it from the repository again") from None
    for where, row in rows:
        if None in row.values() or None in row:
            raise DataeffError(f"{where}: {len(reader.fieldnames or [])} columns are needed; correct the line")
    return rows


def _result(where: str, place: Place, field: str, value: str, row: dict[str, str]) -> PublishedResult:
    family, variant, percent = place
    raw = {"family": family, "variant": variant, "percent": percent, "field": field, "value": value}
    # `verified` may say more in brackets, such as "yes (plot read)".
    facts = {"verified": row["verified"].split(" ")[0], "source": row["source"], "note": row.get("note", "")}
    return validate(PublishedResult, {**raw, **facts}, where)


def _percent(where: str, text: str) -> int:
    if not text.isdecimal():
        raise DataeffError(f"{where}: the percentage of the data is a whole number; found {text!r}")
    return int(text)


def _cases(folder: Path) -> list[tuple[Path, PublishedResult]]:
    """The main tables of arXiv 2212.03597, a line per case and field."""
    found = []
    for family, name in CASES.items():
        for where, row in _lines(folder / name):
            if row["method"] not in METHODS:
                raise unknown_name("method", row["method"], METHODS, where)
            if row["field"] in FIELDS:
                place = (family, METHODS[row["method"]], _percent(where, row["data_pct"]))
                found.append((folder / name, _result(where, place, row["field"], row["value"], row)))
    return found


def _random_ltd(folder: Path) -> list[tuple[Path, PublishedResult]]:
    path, found = folder / "random_ltd.csv", []
    for where, row in _lines(path):
        field, places = RANDOM_LTD.get(row["item"], ("", []))
        values = row["value"].split("/") if places else []
        if len(values) != len(places):
            raise DataeffError(f"{where}: value: {len(places)} numbers are needed; found {row['value']!r}")
        found += [
            (path, _result(where, place, field, value.strip(), row))
            for place, value in zip(places, values, strict=True)
        ]
    return found


def _pareto(folder: Path) -> list[tuple[Path, PublishedResult]]:
    path = folder / "pareto_gpt3_1p3b.csv"
    return [
        (
            path,
            _result(
                where, ("gpt", PARETO[row["item"]], _percent(where, row["x_data_pct"])), FIELDS[0], row["value"], row
            ),
        )
        for where, row in _lines(path)
        if row["item"] in PARETO
    ]


def _not_reproduced(folder: Path) -> dict[str, int]:
    """Published results of models that no family here is, by kind."""
    moe = [row["avg_0shot"] for _, row in _lines(folder / "gpt3_moe_6p7b.csv")]
    counts = Counter({"GPT-3 MoE 6.7B": sum(map(_is_number, moe))})
    for _, row in _lines(folder / "finetune_tables.csv"):
        if _is_number(row["value"]):
            counts["ViT fine-tuning" if row["task"].startswith("ViT") else "GPT-2 fine-tuning"] += 1
    return dict(counts)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
