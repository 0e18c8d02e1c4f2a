"""The schema of a finetuning's results: every value of every training, and what two rules make of them.

Values are fractions: an accuracy or F1 between 0 and 1, a correlation between -1 and 1. A value that is not finite
cannot be written or read. `seconds` alone differ between two runs of one spec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dataeff.evaluate.scores import Identity
from dataeff.files import read_json
from dataeff.provenance import Machine
from dataeff.study.base import Frozen, Sha256
from dataeff.study.faults import validate
from dataeff.study.tasks import Metric


class EpochValues(Frozen):
    """What a model reached after one epoch."""

    training_loss: float = Field(description="mean over the epoch's steps")
    values: dict[str, float] = Field(description="by column, over all items of its split")
    decides: float = Field(description="what the published rule chooses the epoch by: one column's value or all items'")
    selection: float = Field(description="the same of the selection part alone: what the honest rule chooses by")
    scored: dict[str, float] = Field(description="by column, over the items that nothing is chosen by")


class Trial(Frozen):
    """One training, of one peak learning rate and seed; epochs count from 1."""

    learning_rate: float
    seed: int
    steps: int
    seconds: float
    epochs: list[EpochValues]
    published_epoch: int
    honest_epoch: int


class PublishedColumn(Frozen):
    value: float = Field(description="of the seed whose deciding value is the median")
    deviation: float | None = Field(description="sample standard deviation over seeds; none for one seed")


class PublishedRate(Frozen):
    """One learning rate by the published rule: the best epoch of each seed, then the seed that is the median."""

    learning_rate: float
    seed: int
    decides: float
    columns: dict[str, PublishedColumn]


class PublishedRule(Frozen):
    """The published rule: the learning rate whose median is the highest, on the items that the score is of."""

    learning_rate: float
    rates: list[PublishedRate]

    @property
    def best(self) -> PublishedRate:
        return next(rate for rate in self.rates if rate.learning_rate == self.learning_rate)


class HonestColumn(Frozen):
    value: float = Field(description="mean over seeds")
    half_width: float | None = Field(description="of the 95% t interval over seeds; none below three seeds")
    by_seed: dict[int, float]


class HonestRule(Frozen):
    """Epochs and learning rate chosen on the selection part, scored on items that it does not hold."""

    learning_rate: float
    selection: float = Field(description="mean over seeds on the selection part at the chosen learning rate")
    columns: dict[str, HonestColumn]


class ColumnItems(Frozen):
    """What a column is measured on."""

    split: str
    items: int
    selection_items: int = Field(description="of these, those that the honest rule chooses by; the others are scored")
    cut_items: int = Field(description="items that lost tokens to the recipe's length")


class FinetuneScores(Identity):
    """scores.json of one run and task"""

    kind: Literal["finetune"] = "finetune"
    task: str
    about: str
    table: str
    stands_in_for: str | None
    metric: Metric
    data_sha256: Sha256
    train_items: int
    cut_train_items: int
    columns: dict[str, ColumnItems]
    trials: list[Trial]
    published_rule: PublishedRule
    honest_rule: HonestRule
    seconds: float = Field(description="of all its trainings with their evaluations, in whichever process")
    software: dict[str, str]
    hardware: Machine
    commit: str | None


def read_finetune_scores(path: Path) -> FinetuneScores:
    """A scores.json of `finetune`; DataeffError that names the file and key where it does not follow the schema."""
    return validate(FinetuneScores, read_json(path), str(path))
