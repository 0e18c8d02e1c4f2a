"""What a sample of either family is once it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """`tokens` [n, width], of which the first `lengths` [n] of a row are real and the rest is padding.

    For sentence pairs only: `types` [n, width], 0 for the first segment and 1 for the second, and `swapped` [n],
    whether the segments are in the opposite order of the text.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int32]
    types: NDArray[np.int8] | None = None
    swapped: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Token ids that frame a sentence pair: [CLS] first [SEP] second [SEP] [PAD] ..."""

    cls: int
    sep: int
    pad: int
