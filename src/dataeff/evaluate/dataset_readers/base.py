"""What the readers share: the keyed split of items that come in one piece, and the order they stand in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from dataeff.keyed import key

Row = dict[str, Any]
Reader = Callable[[dict[str, bytes]], dict[str, list[Row]]]

SEED = 1234
_WHOLE = 1 << 64


def split_by_key(
    rows: Iterable[Row],
    purpose: str,
    group: Callable[[Row], str],
    validation: float = 0.2,
    together: Callable[[Row], str] | None = None,
) -> dict[str, list[Row]]:
    """Rows as train and validation, by a hash of each row's group: no passage has items in both.

    `validation` is the share of groups expected there. Each split stands in a keyed order, so that its first rows are
    a fair sample; rows with one `together` stay in a row, as they came.
    """
    placed: dict[str, list[tuple[int, int, Row]]] = {"train": [], "validation": []}
    for position, row in enumerate(rows):
        split = "validation" if _uniform(purpose, "split", group(row)) < validation else "train"
        unit = together(row) if together else json.dumps(row, ensure_ascii=False, sort_keys=True)
        placed[split].append((key(SEED, f"{purpose}:order:{unit}"), position, row))
    return {split: [row for _, _, row in sorted(entries, key=lambda e: e[:2])] for split, entries in placed.items()}


def in_random_order(texts: list[str], unit: str) -> list[str]:
    """The texts in an order that the unit (what they belong to) decides: right answers must have no usual place."""
    return sorted(texts, key=lambda text: key(SEED, f"choices:{unit}:{text}"))


def right_choice(scores: dict[str, int]) -> str:
    """The one choice of a BIG-bench item that scores."""
    [right] = [text for text, score in scores.items() if score == 1]
    return right


def _uniform(purpose: str, what: str, text: str) -> float:
    return key(SEED, f"{purpose}:{what}:{text}") / _WHOLE


def examples(files: dict[str, bytes]) -> list[Row]:
    """The examples of the one file of a BIG-bench task."""
    [content] = files.values()
    found: list[Row] = json.loads(content)["examples"]
    return found
