"""The one error type that a person is meant to read: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class DataeffError(Exception):
    """Bad input. The message names the file or key, the value found and the remedy; the CLI prints it alone."""


def unknown_name(kind: str, name: str, known: Iterable[str], where: str) -> DataeffError:
    """The error for a name that is not among the known ones, with the nearest known one suggested."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}"
    return DataeffError(f"{where}: unknown {kind} '{name}'; {hint}")
