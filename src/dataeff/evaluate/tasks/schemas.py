"""Winograd schemas by partial scoring: each candidate in place of the pronoun, compared by what follows it."""

from __future__ import annotations

from typing import Any


def contexts(doc: dict[str, Any]) -> list[str]:
    """The text up to the pronoun, with each candidate in the pronoun's place."""
    return [doc["text"][: doc["pronoun_loc"]] + option for option in doc["options"]]


def rest(doc: dict[str, Any]) -> str:
    """What follows the pronoun."""
    return str(doc["text"][doc["pronoun_loc"] + len(doc["pronoun"]) :]).strip()
