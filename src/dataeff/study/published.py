"""The papers' published results (config/papers/*.csv) by the names that runs have here."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

from dataeff.errors import DataeffError, unknown_name
from dataeff.study.types import FamilyName, Frozen, Run

FILES: dict[FamilyName, str] = {"gpt": "gpt3_1p3b_cases.csv", "bert": "bert_large_cases.csv"}
VARIANTS = {
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


class PublishedResult(Frozen):
    """One published number. `verified`: whether it was read at its source, recalled, or derived from another."""

    family: FamilyName
    variant: str
    percent: int
    field: str
    value: float
    verified: Literal["yes", "no", "derived"]
    source: str


def read_published(folder: Path) -> list[PublishedResult]:
    """Every number of the papers' main tables; none where there is no such folder (a configuration of one's own)."""
    return [row for family, name in FILES.items() if (folder / name).is_file() for row in _read(folder / name, family)]


def _read(path: Path, family: FamilyName) -> list[PublishedResult]:
    rows = []
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["method"] not in VARIANTS:
                raise unknown_name("method", row["method"], VARIANTS, str(path))
            try:
                rows.append(
                    PublishedResult(
                        family=family,
                        variant=VARIANTS[row["method"]],
                        percent=int(row["data_pct"]),
                        field=row["field"],
                        value=float(row["value"]),
                        verified=row["verified"],  # type: ignore[arg-type]
                        source=row["source"],
                    )
                )
            except ValueError as error:
                raise DataeffError(f"{path}: {dict(row)}: not a published number ({error})") from None
    return rows


def published_of(rows: list[PublishedResult], runs: list[Run]) -> list[PublishedResult]:
    """The numbers of these runs' variants and data fractions, and of the baselines that they are compared with."""
    wanted = {(run.family, run.variant, round(run.data * 100)) for run in runs}
    families = {run.family for run in runs}
    return [
        row
        for row in rows
        if (row.family, row.variant, row.percent) in wanted or (row.family in families and row.variant == "baseline")
    ]
