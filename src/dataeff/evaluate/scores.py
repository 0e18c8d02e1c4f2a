"""The one schema of evaluation results: what `evaluate` writes and tables, figures and report read.

A value that is not finite cannot be written or read: the types refuse it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field

from dataeff.files import read_json, write_json
from dataeff.provenance import Machine
from dataeff.study.base import Frozen, Sha256
from dataeff.study.faults import validate
from dataeff.study.types import Run

Result = TypeVar("Result", bound="Subject")


class Subject(Frozen):
    """Which model a result belongs to, and the spec and weights that it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    name: str
    spec_digest: Sha256
    model_digest: Sha256


class Identity(Subject):
    """A run of the study."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    run: Run


class TaskScore(Frozen):
    """One task at one number of shots. `value` is lm-eval's; the items file beside it gives it again."""

    group: str
    task: str = Field(description="its name in the harness, in evaluate/tasks/ or as a kind of items of held-out text")
    harness: str = Field(description="version of lm-eval that scored it")
    task_version: float
    metric: str
    aggregation: str = Field(description="how the items' values make the task's: a name of evaluate/rescore.py")
    value: float = Field(description="of accuracies a share between 0 and 1")
    standard_error: float | None = Field(description="from the items alone; none where a task has a single one")
    higher_is_better: bool
    chance: float | None = Field(description="the expected value of answering blindly; none: there is no such value")
    averaged: bool = Field(description="whether it counts in the average over tasks")
    published_as: str | None = Field(description="the row of the papers' 19 tasks that it is, if it is one")
    scoring: Literal["today", "papers"]
    items: int
    truncated_prompts: int = Field(description="items that lost the left end of their prompt to the context's length")
    own_split_items: int = Field(
        default=0, description="items whose examples are of the very split that is scored; never the item itself"
    )
    dataset: str | None = Field(description="that the items come from; none: from the held-out text")
    data_sha256: Sha256 = Field(description="of the items and the few-shot examples together")
    about: str


class Scores(Subject):
    """{group}/{k}shot/scores.json. `run` is None of a model that is no run of the study."""

    schema_version: Literal[2] = Field(default=2, alias="schema")
    run: Run | None
    kind: Literal["evaluate"] = "evaluate"
    group: str
    shots: int
    tasks: dict[str, TaskScore]
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


def write_scores(path: Path, result: Subject) -> None:
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
    "Subject",
    "TaskScore",
    "read_heldout",
    "read_scores",
    "write_scores",
]
