"""What every family makes of a step's samples: arrays with one entry a row, which a model's forward takes in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataeff.transfer import to_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LengthRule = Literal["truncate", "reshape"] | None


@dataclass(frozen=True, slots=True)
class Cut:
    """What the plan says of one step: its length, how samples are cut to it, and whether difficulty selects them.

    `seed` and `step` (0-based) key whatever is drawn for the step. `window`: the size of attention's blocks,
    where that is scheduled.
    """

    length: int
    rule: LengthRule
    selects: bool
    seed: int
    step: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class StepBatch:
    """The rows of a step, over all micro-batches and ranks, so that nothing made of them depends on either.

    `arrays` [rows, ...] by name. `counts`: by part of the loss, what its sum over all rows is divided by. `facts`:
    what metrics.jsonl tells of the step beside what every family tells. `on_host`: names of arrays that stay in the
    host's memory, since what the host does next depends on what they hold.
    """

    arrays: Mapping[str, NDArray[Any]]
    counts: Mapping[str, int]
    facts: Mapping[str, int] = field(default_factory=dict)
    on_host: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        return len(next(iter(self.arrays.values())))

    def part(self, rows: NDArray[np.integer[Any]] | slice, device: torch.device | str) -> dict[str, Tensor]:
        """Some of the rows, as tensors on the device but for those `on_host`. The host does not wait for the copies."""
        import torch

        parts = {name: torch.from_numpy(array[rows]) for name, array in self.arrays.items()}
        return {name: part if name in self.on_host else to_device(part, device) for name, part in parts.items()}
