"""A claim: one of the papers' statements held against the runs of a grid, as data; what claims.json holds.

The sentence, the verdict and the reason are made from the same numbers that stand beside them, so that a page, a
terminal and a program read one result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dataeff.files import read_json, write_json
from dataeff.study.load import validate

FILE = "claims.json"

Verdict = Literal["holds", "does not hold", "cannot be told"]


class Claim(BaseModel):
    """One judged statement. `value`, `low` and `high` (a 95% interval) are of `measure`, in `unit`.

    An open end of an interval, or a value that lies beyond what was measured, is None and said in `text`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    family: str
    variant: str
    text: str
    published: str = ""
    source: str = ""
    verdict: Verdict
    reason: str
    measure: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int
    runs: list[str]
    headline: bool = False


class Claims(BaseModel):
    """All claims of a grid, the headline ones first. `notes` say how they were judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    grid: str
    scale: str
    claims: list[Claim]
    notes: list[str] = []


def write_claims(folder: Path, claims: Claims) -> None:
    write_json(folder / FILE, claims.model_dump(mode="json"))


def read_claims(folder: Path) -> Claims:
    """The claims as `write_claims` left them in a tables folder."""
    path = Path(folder) / FILE
    return validate(Claims, read_json(path), str(path))
