"""Several token files as one dataset by reference: documents and sentences count on from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.tokens.indexed_dataset import IndexedDataset

TokensByType = list[tuple[NDArray[np.bool_], tuple[NDArray[Any], ...]]]


def open_tokens(prefixes: Sequence[Path]) -> list[IndexedDataset]:
    if not prefixes:
        raise DataeffError("no token files given; pass the prefix (the name less .bin) of at least one")
    return [IndexedDataset(prefix) for prefix in prefixes]


def first_sequences(datasets: Sequence[IndexedDataset]) -> NDArray[np.int64]:
    """[files + 1]: the number that each file's first sequence has among all, and how many there are."""
    return np.cumsum([0, *map(len, datasets)], dtype=np.int64)


def tokens_by_type(datasets: Sequence[IndexedDataset]) -> TokensByType:
    """Per type of token: which files have it, and the tokens of every file (of the others: none).

    Compiled code picks one of several arrays only if all have one type; files made by different tools may differ.
    """
    found: TokensByType = []
    for dtype in dict.fromkeys(dataset.dtype for dataset in datasets):
        present = np.array([dataset.dtype == dtype for dataset in datasets])
        none = np.empty(0, dtype=dtype)
        arrays = tuple((dataset.tokens if dataset.dtype == dtype else none).view() for dataset in datasets)
        for array in arrays:
            array.setflags(write=False)
        found.append((present, arrays))
    return found


def describe(datasets: Sequence[IndexedDataset]) -> list[dict[str, Any]]:
    """What ties an index to its token files, whatever folder they lie in."""
    return [
        {"name": dataset.prefix.name, "documents": documents_of(dataset), "tokens": dataset.token_count}
        for dataset in datasets
    ]


def documents_of(dataset: IndexedDataset) -> int:
    return len(dataset.document_index) - 1


@njit(nogil=True)  # type: ignore[untyped-decorator]
def file_of(sequence: Any, firsts: Any) -> Any:
    """Which file holds this sequence; `firsts` as first_sequences gives it."""
    low, high = 0, firsts.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if firsts[middle] <= sequence:
            low = middle
        else:
            high = middle
    return low
