"""Which documents samples are made of: the first part of a split, rounded as Megatron rounds."""

from __future__ import annotations

from dataeff.errors import DataeffError
from dataeff.study.types import Split


def training_documents(split: Split | None, documents: int) -> int:
    """How many documents, from the first on, are to train on; all without a split.

    Each share of the documents is rounded by itself (half to even); what the three then miss or exceed is taken off
    every bound, so that the last is exact.
    """
    if split is None:
        return documents
    shares = (split.train, split.validation, split.test)
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + round(share / sum(shares) * documents))
    training = bounds[1] - (bounds[-1] - documents)
    if training < 1:
        raise DataeffError(
            f"split {split.train:g},{split.validation:g},{split.test:g}: leaves no document of {documents} to train "
            f"on; raise its first number or use more documents"
        )
    return training


def parse_split(text: str) -> Split:
    """`949,50,1`, Megatron's way of writing it; numbers that are left out are 0."""
    parts = text.replace("/", ",").split(",")
    try:
        numbers = [float(part) for part in parts]
        return Split(**dict(zip(("train", "validation", "test"), [*numbers, 0.0, 0.0][:3], strict=True)))
    except ValueError:
        raise DataeffError(f"split '{text}': three numbers such as 949,50,1 are needed, the first above 0") from None
