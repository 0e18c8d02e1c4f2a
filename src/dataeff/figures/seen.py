"""What the curricula that choose samples have shown to a model: difficulties over training, and samples as text.

Read once from plans, difficulty indexes and token files, and then small enough to be kept: a collected folder has
none of these, only the gathered seen/{grid}.json, from which its figures are made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.figures.difficulty import selection_indexes
from dataeff.figures.pacing import read_column
from dataeff.files import read_json
from dataeff.study.base import FamilyName
from dataeff.study.load import validate
from dataeff.study.specs import GridSpec
from dataeff.study.types import Run

POINTS = 60
"""Places of a run at which its samples are looked at."""
FEWEST_SAMPLES, MOST_SAMPLES = 64, 512
"""At each place, of consecutive steps; short runs have fewer places, so that a tenth of them is more than chance."""
RANKS = {"easiest": 0.0, "1%": 1.0, "median": 50.0, "99%": 99.0, "hardest": 100.0}
"""Of the samples that are shown as text, by percentile of difficulty."""
SHOWN_CHARACTERS = 200


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(_Part):
    """Tenth, median and ninetieth percentile of difficulties."""

    low: float
    median: float
    high: float


class SeenPoint(Spread):
    """Of the samples of the steps from `step` (0-based) on."""

    step: int
    effective_tokens: int
    samples: int


class SeenCourse(_Part):
    """One run's course by one metric; `variants` share it: their orders are the same."""

    family: FamilyName
    metric: str
    variants: list[str]
    data: str
    points: list[SeenPoint]


class ShownSample(_Part):
    """A training sample as text, its beginning: control characters as their codes, ends of lines as ⏎."""

    rank: str
    sample: int
    value: int
    text: str


class MetricFacts(_Part):
    """The corpus by one metric; no `shown` where the token files are gone."""

    family: FamilyName
    metric: str
    samples: int
    corpus: Spread
    shown: list[ShownSample]


class Seen(_Part):
    metrics: list[MetricFacts]
    courses: list[SeenCourse]


def gathered_path(results: Path, spec: GridSpec) -> Path:
    return results / "seen" / f"{spec.grid}.json"


def read_or_gather(spec: GridSpec, results: Path, data: Path) -> Seen | None:
    """What was gathered when the folder was collected, or what its plans and indexes tell; None without a curriculum
    that chooses samples, or without the orders of its runs.
    """
    path = gathered_path(results, spec)
    seen = validate(Seen, read_json(path), str(path)) if path.is_file() else gather(spec, results, data)
    return seen if seen.courses else None


def gather(spec: GridSpec, results: Path, data: Path) -> Seen:
    folders = selection_indexes(spec, data)
    courses: dict[str, SeenCourse] = {}
    for run in _chosen_runs(spec):
        for metric in spec.variants[run.family][run.variant].selections:
            plan = results / "plan" / run.name
            if not (plan / "order.json").is_file():
                continue
            points = list(_points(plan, DifficultyIndex.open(folders[run.family, metric])))
            found = SeenCourse(family=run.family, metric=metric, variants=[], data=str(run.data), points=points)
            courses.setdefault(found.model_dump_json(), found).variants.append(run.variant)
    used = {(course.family, course.metric) for course in courses.values()}
    metrics = [
        _metric_facts(family, metric, folder)
        for (family, metric), folder in folders.items()
        if (family, metric) in used
    ]
    return Seen(metrics=metrics, courses=list(courses.values()))


def _chosen_runs(spec: GridSpec) -> list[Run]:
    """Of every variant that chooses samples one run, the first at the largest data fraction."""
    chosen: dict[tuple[FamilyName, str], Run] = {}
    for run in spec.runs:
        key = (run.family, run.variant)
        if spec.variants[run.family][run.variant].selections and (key not in chosen or run.data > chosen[key].data):
            chosen[key] = run
    return list(chosen.values())


def _points(plan: Path, index: DifficultyIndex) -> Iterator[SeenPoint]:
    from dataeff.order import SampleOrder

    order = SampleOrder.load(plan / "order.json")
    tokens = read_column(plan / "steps.parquet", "cumulative_effective_tokens")
    points = min(POINTS, max(1, order.steps * order.batch_size // FEWEST_SAMPLES), order.steps)
    ends = np.linspace(0, order.steps, points + 1).round().astype(np.int64).tolist()
    for start, stop in pairwise(ends):
        steps = min(max(1, MOST_SAMPLES // order.batch_size), stop - start)
        ids = np.concatenate([ids for _, ids in zip(range(steps), order.iterate(start), strict=False)])
        spread = _spread(np.asarray(index.values[ids], dtype=np.float64))
        yield SeenPoint(step=start, effective_tokens=int(tokens[start]), samples=len(ids), **spread.model_dump())


def _spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = np.percentile(values, [10, 50, 90])
    return Spread(low=round(float(low), 3), median=round(float(median), 3), high=round(float(high), 3))


def _at(index: DifficultyIndex, percentile: float) -> int:
    """The id of the sample at this rank of difficulty."""
    return int(index.order[round(percentile / 100 * (len(index) - 1))])


def _metric_facts(family: FamilyName, metric: str, folder: Path) -> MetricFacts:
    index = DifficultyIndex.open(folder)
    low, median, high = (float(index.values[_at(index, percentile)]) for percentile in (10, 50, 90))
    return MetricFacts(
        family=family,
        metric=metric,
        samples=len(index),
        corpus=Spread(low=low, median=median, high=high),
        shown=_shown(index, folder),
    )


def _shown(index: DifficultyIndex, folder: Path) -> list[ShownSample]:
    """The samples of RANKS, decoded by the tokenizer beside their token files."""
    from dataeff.analyze.inspect import Found, decoded, find_places

    places = find_places(Found(index, folder, "native"), None, [])
    tokenizer = folder.parent.parent.parent / "tokenizer"
    if places.samples is None or not tokenizer.is_dir():
        return []
    chosen = {rank: _at(index, percentile) for rank, percentile in RANKS.items()}
    texts = decoded(places, tokenizer, list(chosen.values()), SHOWN_CHARACTERS)
    return [
        ShownSample(rank=rank, sample=sample, value=int(index.values[sample]), text=text)
        for (rank, sample), text in zip(chosen.items(), texts, strict=True)
    ]
