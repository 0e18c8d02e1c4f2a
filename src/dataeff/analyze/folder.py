"""The folder of a standalone analysis: what it is an analysis of, where everything lies in it, and its one owner.

    analyze.json          the token files and every argument that decides the samples
    samples/              Megatron's index files
    total_vocab_freq.npy  the counts of all tokens, if a metric weighs by them
    {metric}/             one index per metric
    .parts/               what is done of an unfinished analysis

A folder is of one computation: other arguments, or token files that have changed, are refused, never mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.pretrain.owner import owned
from dataeff.study.types import FREQUENCY
from dataeff.tokens.indexed_dataset import bin_path, idx_path

ANALYSIS = "analyze.json"


@dataclass(frozen=True, slots=True)
class AnalysisFolder:
    path: Path

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def frequency(self) -> Path:
        return self.path / f"{FREQUENCY}.npy"

    @property
    def all_parts(self) -> Path:
        return self.path / ".parts"

    def parts(self, metric: str) -> Path:
        return self.all_parts / metric

    def metric(self, metric: str) -> Path:
        return self.path / metric

    @contextmanager
    def owned(self) -> Iterator[None]:
        """This process alone works here; a second one is told so at once."""
        self.path.mkdir(parents=True, exist_ok=True)
        with owned(self.path / ".owner", wait_seconds=0):
            yield

    def begin(self, computation: dict[str, Any]) -> None:
        """Makes this the folder of the computation, or sees that it is, as soon as there are samples."""
        path = self.path / ANALYSIS
        others = sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        if others and ANALYSIS not in others:
            raise DataeffError(
                f"{self.path}: it holds {others[0]} and no {ANALYSIS}, so it is no analysis; give a new folder"
            )
        if not self.samples.exists():
            write_json(path, computation)
            return
        found = read_json(path)
        for key, value in computation.items():
            there = found.get(key) if isinstance(found, dict) else None
            if there != value:
                raise DataeffError(
                    f"{path}: this is an analysis with {key} {there!r}, asked for is {value!r}; give another folder, "
                    f"or delete this one"
                )

    def part_count(self, wanted: int) -> int:
        """How many parts the work goes in: as many as an earlier command that was stopped has begun with."""
        path = self.all_parts / "count.json"
        if not path.exists():
            write_json(path, wanted)
        return int(read_json(path))


def token_files(prefixes: Sequence[Path]) -> list[dict[str, Any]]:
    """What is noticed when token files change between two runs on one folder."""
    found = []
    for prefix in prefixes:
        pair = {path.suffix[1:]: file_facts(path) for path in (bin_path(Path(prefix)), idx_path(Path(prefix)))}
        found.append({"prefix": str(Path(prefix).resolve()), **pair})
    return found


def file_facts(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
