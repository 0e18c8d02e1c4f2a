"""Which study to look at: the one that Snakemake froze when it was started last, found without Snakemake.

config/ may have been edited since; what runs and what is on the disk is the frozen one's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError, unknown_name
from dataeff.study.load import Study
from dataeff.study.types import Run
from dataeff.study.workflow import CURRENT

_SNAKEMAKE = CURRENT.parent


@dataclass(frozen=True)
class FoundStudy:
    """`root`: the folder that Snakemake was started in; `results`: its results, from here."""

    study: Study
    root: Path
    results: Path
    grid: str

    @property
    def runs(self) -> list[Run]:
        return self.study.grids[self.grid]

    @property
    def scale(self) -> Path:
        """S of the Snakefile."""
        return self.results / self.study.scale_name

    @property
    def data(self) -> Path:
        """D of the Snakefile."""
        return self.results / "data" / self.study.scale.corpus

    @property
    def snakemake(self) -> Path:
        return self.root / _SNAKEMAKE


def find_study(root: Path, results: Path | None, scale: str | None, grid: str | None) -> FoundStudy:
    """The study started last in `root`; where a results folder or a scale is named, the last of those."""
    frozen = _frozen(root, results, scale)
    study = _thawed(frozen)
    name = grid or study.grid
    if name not in study.grids:
        raise unknown_name("grid", name, study.grids, f"--grid (of the study {frozen})")
    # The results folder as it stands now: it may have been moved, or be mounted elsewhere on this machine.
    return FoundStudy(study, root, frozen.parent.parent, name)


def _thawed(frozen: Path) -> Study:
    try:
        return Study.thaw(frozen)
    except DataeffError as error:
        first = str(error).splitlines()[0].removeprefix(f"{frozen}: ")
        raise DataeffError(
            f"{frozen}: the study of another version of dataeff ({first}); `snakemake -n` makes this version's"
        ) from None


def _frozen(root: Path, results: Path | None, scale: str | None) -> Path:
    current = root / CURRENT
    started_last = Path(current.read_text(encoding="utf-8")) if current.is_file() else None
    if started_last is not None and not started_last.is_file() and results is None:
        raise DataeffError(f"{started_last}: no such file, though {current} names it; give its folder with --results")
    if started_last is not None and started_last.is_file():
        same_folder = results is None or results.resolve() == started_last.parent.parent
        if same_folder and scale in (None, _scale_name(started_last)):
            return started_last
    folder = (results or (started_last.parent.parent if started_last else root / "results")) / ".study"
    found = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        if scale in (None, _scale_name(path)):
            return path
    what = f"no study of scale {scale}" if scale and found else "no study was started here yet"
    raise DataeffError(f"{folder}: {what}; start one (`snakemake -n` will do), or name its folder with --results")


def _scale_name(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["scale_name"]
    except (ValueError, LookupError, TypeError):
        raise DataeffError(f"{path}: no study; delete it and run snakemake again") from None
