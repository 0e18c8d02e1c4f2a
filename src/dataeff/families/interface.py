"""What a model family gives to the stages. Whatever differs between GPT and BERT is behind this, nothing is beside it.

An object of a family is bound to a tokenizer. Samples are the family's own type: what `open_samples` returns goes
into `step_batch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from dataeff.families.batch import Cut, StepBatch
from dataeff.study.base import FamilyName
from dataeff.study.types import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataeff.tokens.vocabulary import Tokenizer


@dataclass(frozen=True, slots=True)
class Sum:
    """A measure summed over `count` of whatever it is a mean of (predicted tokens, rows)."""

    total: float
    count: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total, self.count + other.count)


Sums = Mapping[str, Sum]
"""By the measure's name; `loss` is always there, in nats per predicted token."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A finished run's network, in float32 and eval mode; `lm` is lm-eval's model of it where tasks can be scored."""

    network: Any
    lm: Any | None


class Family(Protocol):
    """See families/gpt.py and families/bert.py."""

    name: ClassVar[FamilyName]
    predicts_every_byte: ClassVar[bool]
    """Whether the nats of a text are those of all its bytes, so that bits per byte exist."""

    def __init__(self, tokenizer: Tokenizer) -> None: ...

    def build_model(self, model: Model) -> nn.Module:
        """A freshly initialised model; the caller has seeded torch."""

    def open_samples(self, folder: Path, prefixes: Sequence[Path]) -> Any:
        """The samples of an index folder over these token files."""

    def step_batch(self, samples: Any, ids: NDArray[np.int64], step: Cut) -> StepBatch:
        """The rows that a step trains on, from the samples of its global batch."""

    def loss_sums(self, network: Any, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Summed losses in nats by part of the loss, with gradients; their means are added up to be minimised."""

    def probe_batch(self, heldout: Path, sequence_length: int) -> StepBatch:
        """A small fixed piece of every domain's held-out text."""

    def probe_sums(self, network: Any, part: Mapping[str, Tensor]) -> Sums:
        """What the probe measures of some of its rows; without gradients."""

    def score_texts(
        self, network: Any, groups: Sequence[Sequence[str]], sequence_length: int, batch_size: int
    ) -> list[Sums | None]:
        """What the evaluation measures of each group of texts; None for a group that gives nothing to predict."""

    @staticmethod
    def open_finished(folder: Path, batch_size: int) -> Opened:
        """The network of a finished run's folder, on the graphics card if there is one."""
