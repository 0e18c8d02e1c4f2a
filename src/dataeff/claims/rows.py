"""The rows of the papers' tables that statements are made of, in words: each with its case number and its average.

The numbers are those of config/papers/ (a test holds the two together). One that was recalled, not read at its source,
says so wherever it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataeff.study.base import FamilyName
from dataeff.tables.results import BASELINE

DE, LTD = "arXiv 2212.03597", "arXiv 2211.11586"
RECALLED = " (recalled, not checked at its source)"
TITLES: dict[FamilyName, str] = {"gpt": "GPT-3 1.3B", "bert": "BERT-large"}
AVERAGES: dict[FamilyName, str] = {"gpt": "0-shot average", "bert": "GLUE average"}


@dataclass(frozen=True)
class Row:
    """A variant on a percentage of the data; `read`: whether its average was read at its source."""

    variant: str
    percent: int
    case: int
    value: str
    read: bool = True
    remark: str = ""

    @property
    def number(self) -> str:
        return self.value if self.read else f"{self.value}{RECALLED}"


BASELINES: dict[FamilyName, Row] = {"gpt": Row(BASELINE, 100, 1, "42.5"), "bert": Row(BASELINE, 100, 1, "87.29")}
BETTER: dict[FamilyName, list[Row]] = {
    "gpt": [
        Row("cl_seqtru", 100, 2, "43.4"),
        Row("cl_seqres", 100, 3, "43.0"),
        Row("cl_voc", 100, 4, "42.3", remark="; 10-shot average 44.5 against 44.0"),
        Row("cl_seqtru_voc", 100, 5, "43.6"),
        Row("cl_seqres_voc", 100, 6, "43.0"),
        Row("ltd", 100, 7, "43.7"),
        Row("composed", 100, 8, "43.8"),
    ],
    "bert": [
        Row("cl_seqtru", 100, 2, "87.31"),
        Row("cl_seqreo", 100, 3, "87.48"),
        Row("cl_voc", 100, 4, "87.36"),
        Row("cl_seqtru_voc", 100, 5, "87.6"),
        Row("ltd", 100, 7, "88.17", read=False),
        Row("composed", 100, 8, "87.69", read=False),
    ],
}
"""Better than the baseline on as much data, by one of the papers' averages at least."""
LESS: dict[FamilyName, list[Row]] = {
    "gpt": [
        Row("composed", 50, 15, "42.8"),
        Row("cl_seqtru_voc", 67, 10, "42.7"),
        Row("ltd", 50, 14, "42.7"),
    ],
    "bert": [
        Row("composed", 50, 15, "87.44", read=False),
        Row("cl_seqtru_voc", 67, 10, "87.29"),
        Row("ltd", 50, 14, "87.32"),
    ],
}
"""The least data on which the papers report the full baseline's quality or better."""


def cases(family: FamilyName, *numbers: int) -> str:
    """Where rows stand."""
    return f"{DE}, {TITLES[family]} table, cases {', '.join(map(str, numbers))}"


def averages(family: FamilyName, row: Row) -> str:
    """A row's average beside that of the full baseline."""
    return (
        f"{AVERAGES[family]} {row.number} on {row.percent}% of the data, {BASELINES[family].value} of the baseline on "
        f"100%{row.remark}"
    )
