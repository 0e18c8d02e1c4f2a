"""The one schema of evaluation results: what `evaluate` writes and tables, figures and report read.

A value that is not finite cannot be written or read: the types refuse it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field

from dataeff.files import read_json, write_json
from dataeff.provenance import Machine
from dataeff.study.faults import validate
from dataeff.study.types import Frozen, Run, Sha256

Result = TypeVar("Result", bound="Identity")


class Identity(Frozen):
    """Which run a result belongs to, and the spec and weights that it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run: Run
    name: str
    spec_digest: Sha256
    model_digest: Sha256


class TaskScore(Frozen):
    """One task at one number of shots. `value` and `standard_error` are lm-eval's, between 0 and 1."""

    metric: str
    value: float
    standard_error: float
    items: int
    chance: float = Field(description="the expected value of choosing blindly")
    task_version: int
    data_sha256: Sha256 = Field(description="of the items and the few-shot examples together")
    truncated_prompts: int = Field(description="items that lost the left end of their prompt to the context's length")
    about: str


class Scores(Identity):
    """{k}shot/scores.json"""

    kind: Literal["evaluate"] = "evaluate"
    shots: int
    tasks: dict[str, TaskScore]
    average: float = Field(description="plain mean of the tasks' values")
    software: dict[str, str]
    hardware: Machine
    commit: str | None


class Loss(Frozen):
    """Mean held-out loss: in nats per predicted token, and in bits per byte of the text."""

    loss: float
    bits_per_byte: float
    tokens: int
    bytes: int


class DomainLoss(Loss):
    documents: int


class HeldoutScores(Identity):
    """heldout.json"""

    domains: dict[str, DomainLoss]
    overall: Loss = Field(description="over all the domains' tokens together")
    software: dict[str, str]
    hardware: Machine
    commit: str | None


class MaskedLoss(Frozen):
    """Mean held-out losses of sentence pairs: in nats per masked piece, and in nats per pair of their order."""

    loss: float
    sentence_order_loss: float
    sentence_order_accuracy: float
    tokens: int = Field(description="masked pieces: those that are predicted")
    pairs: int
    bytes: int = Field(description="of the text that the pairs were made from")


class MaskedDomainLoss(MaskedLoss):
    documents: int


class MaskedHeldoutScores(Identity):
    """heldout.json of a masked model."""

    domains: dict[str, MaskedDomainLoss]
    overall: MaskedLoss = Field(description="over all the domains' pieces and pairs together")
    software: dict[str, str]
    hardware: Machine
    commit: str | None


def write_scores(path: Path, result: Identity) -> None:
    """Writes a results file in its schema."""
    write_json(path, result.model_dump(mode="json", by_alias=True))


def read_scores(path: Path) -> Scores:
    """A {k}shot/scores.json; DataeffError that names the file and key where it does not follow the schema."""
    return _read(path, Scores)


def read_heldout(path: Path) -> HeldoutScores | MaskedHeldoutScores:
    """A heldout.json; DataeffError that names the file and key where it does not follow the schema.

    What a masked model's holds is told by the pairs that it counts.
    """
    raw = read_json(path)
    overall = raw.get("overall") if isinstance(raw, dict) else None
    if isinstance(overall, dict) and "pairs" in overall:
        return validate(MaskedHeldoutScores, raw, str(path))
    return validate(HeldoutScores, raw, str(path))


def _read(path: Path, kind: type[Result]) -> Result:
    return validate(kind, read_json(path), str(path))


__all__ = [
    "DomainLoss",
    "HeldoutScores",
    "Identity",
    "Loss",
    "MaskedDomainLoss",
    "MaskedHeldoutScores",
    "MaskedLoss",
    "Scores",
    "TaskScore",
    "read_heldout",
    "read_scores",
    "write_scores",
]
