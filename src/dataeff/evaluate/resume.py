"""What a killed evaluation has done: every finished (task, shots) in a file of its own, reused where nothing changed.

A file is named by task and shots and holds the key of what it was made from (spec, weights, items); one with another
key, or one that cannot be read, is made again. The folder goes when the results stand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zstandard

from dataeff.errors import DataeffError
from dataeff.evaluate.records import Record
from dataeff.evaluate.scores import TaskScore
from dataeff.files import atomic_path, canonical_digest
from dataeff.study.faults import validate

VERSION = 1
"""Raised when records of an unchanged spec come out differently."""


@dataclass(frozen=True)
class TaskResult:
    """One task at one number of shots: its score and a record per item."""

    score: TaskScore
    records: list[Record]


@dataclass(frozen=True)
class Finished:
    """The state folder of one model and one group of tasks."""

    folder: Path
    spec_digest: str
    model_digest: str

    def load(self, name: str, shots: int, data_sha256: str) -> TaskResult | None:
        """What is done of a task at `shots`; None where nothing is, or another model, spec or data gave it."""
        path = self._path(name, shots)
        if not path.is_file():
            return None
        try:
            found = json.loads(zstandard.decompress(path.read_bytes()))
            if found["key"] != self._key(name, shots, data_sha256):
                return None
            return TaskResult(validate(TaskScore, found["score"], str(path)), found["records"])
        except (ValueError, LookupError, TypeError, zstandard.ZstdError, DataeffError) as error:
            print(f"evaluate: {path} is damaged ({error}); {name} {shots}-shot is scored again", flush=True)
            return None

    def save(self, name: str, shots: int, result: TaskResult) -> None:
        key = self._key(name, shots, result.score.data_sha256)
        content = {"key": key, "score": result.score.model_dump(mode="json"), "records": result.records}
        with atomic_path(self._path(name, shots)) as temporary:
            temporary.write_bytes(zstandard.compress(json.dumps(content, ensure_ascii=False).encode(), 3))

    def _path(self, name: str, shots: int) -> Path:
        return self.folder / f"{name}-{shots}shot.json.zst"

    def _key(self, name: str, shots: int, data_sha256: str) -> str:
        made_from: Sequence[str | int] = (VERSION, self.spec_digest, self.model_digest, data_sha256, name, shots)
        return canonical_digest(made_from)
