"""What `dataeff doctor` found of one thing: in order, to be known, or in the way of the study, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    level: Level
    what: str
    said: str
    remedy: str = ""

    @property
    def line(self) -> str:
        end = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<8} {self.what}: {self.said}{end}"


def ok(what: str, said: str) -> Finding:
    return Finding("ok", what, said)


def warning(what: str, said: str, remedy: str) -> Finding:
    return Finding("warning", what, said, remedy)


def problem(what: str, said: str, remedy: str) -> Finding:
    return Finding("problem", what, said, remedy)
