"""What an encoder makes of a batch of texts: their ids in a row, and how many belong to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Batch(NamedTuple):
    """`sizes` [sequences] in tokens; `document_sizes` [texts] in sequences (0: a text without any token)."""

    ids: NDArray[Any]
    sizes: NDArray[np.int32]
    document_sizes: NDArray[np.int32]

    def tokens_per_document(self) -> NDArray[np.int64]:
        ends = np.concatenate([[0], np.cumsum(self.sizes, dtype=np.int64)])
        documents = np.concatenate([[0], np.cumsum(self.document_sizes, dtype=np.int64)])
        tokens: NDArray[np.int64] = np.diff(ends[documents])
        return tokens


class Encoder(Protocol):
    """A fast way to the ids that the tokenizers library gives, and that library's own way."""

    def encode(self, texts: Sequence[str]) -> Batch: ...

    def reference(self, texts: Sequence[str]) -> Batch: ...
