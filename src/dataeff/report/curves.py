"""The data of the interactive curves: held-out loss at each probe against what was spent on it until then.

The axes are effective tokens, raw tokens and training time. A variant at an amount of data has a course a seed and,
with two seeds or more, their mean and range at each probe: probes stand at the same shares of a run, so that those of
two seeds are of one place. Runs whose timings hold no seconds at the probes have no course over time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.claims import Claims
from dataeff.figures.part import Part, by_data, parts_of, variants_of
from dataeff.figures.style import Style, variant_styles
from dataeff.figures.training import Probes, probes_of
from dataeff.study.specs import GridSpec
from dataeff.tables.results import BASELINE, Group, RunResult, percent

FEW_VARIANTS = 4
"""Up to so many are all drawn when the page opens; of more, the baseline and those of the headline claims."""
LOSS_DIGITS = 5
POINTS = {"s": "rect", "^": "triangle", "D": "rectRot", "o": "circle", "X": "crossRot", "P": "cross", "*": "star"}
"""The library's names of the figures' marks; it draws the rest as triangles."""

Floats = NDArray[np.float64]


def curves_of(spec: GridSpec, runs: Sequence[RunResult], results: Path, claims: Claims) -> list[dict[str, Any]]:
    """One entry a family."""
    styles = variant_styles(spec)
    return [_family(part, results, styles, claims) for part in parts_of(runs)]


def _family(part: Part, results: Path, styles: Mapping[str, Style], claims: Claims) -> dict[str, Any]:
    probes, groups = probes_of(part, results), part.groups
    variants = variants_of(groups, groups)
    return {
        "family": part.family,
        "title": part.words.family,
        "unit": part.words.loss_unit,
        "data": [percent(data) for data in by_data(groups)],
        "variants": {name: _look(styles[name]) for name in variants},
        "chosen": _chosen(variants, part, claims),
        "groups": [_group(group, probes, results) for group in groups],
    }


def _look(style: Style) -> dict[str, Any]:
    return {
        "colour": style.colour,
        "mark": POINTS.get(style.marker, "triangle"),
        "filled": style.filled,
        "turn": {"v": 180, "<": 270, ">": 90}.get(style.marker, 0),
    }


def _chosen(variants: Sequence[str], part: Part, claims: Claims) -> list[str]:
    """What is drawn when the page opens."""
    if len(variants) <= FEW_VARIANTS:
        return list(variants)
    named = {BASELINE} | {claim.variant for claim in claims.claims if claim.headline and claim.family == part.family}
    chosen = [name for name in variants if name in named]
    return chosen if len(chosen) > 1 else list(variants)


def _group(group: Group, probes: Mapping[str, Probes], results: Path) -> dict[str, Any]:
    courses = [_course(result, probes[result.run.name], results) for result in group.results]
    return {
        "variant": group.variant,
        "data": percent(group.data),
        "runs": [
            {"name": result.run.name, "seed": result.run.seed, "x": _axes(course), "loss": _losses(course.loss)}
            for result, course in zip(group.results, courses, strict=True)
        ],
        "band": _band(courses),
    }


@dataclass(frozen=True)
class Course:
    """One run at its probes; `seconds` is None of a run whose timings do not tell."""

    effective: Floats
    raw: Floats
    seconds: Floats | None
    loss: Floats


def _course(result: RunResult, probe: Probes, results: Path) -> Course:
    steps, raw = _spent(results / "pretrain" / result.run.name / "metrics.jsonl")
    at = {point.step: point.training_seconds for point in result.timings.heldout_points}
    seconds = np.array([at[step] for step in steps]) if all(step in at for step in steps) else None
    return Course(probe.effective_tokens, raw, seconds, probe.loss)


def _spent(path: Path) -> tuple[list[int], Floats]:
    """The steps of the probes, and the raw tokens read until then."""
    with path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream if '"heldout_loss"' in line]
    return [row["step"] for row in rows], np.array([row["raw_tokens"] for row in rows], dtype=np.float64)


def _axes(course: Course) -> dict[str, list[float] | None]:
    return {
        "effective": _counts(course.effective),
        "raw": _counts(course.raw),
        "seconds": None if course.seconds is None else _seconds(course.seconds),
    }


def _band(courses: Sequence[Course]) -> dict[str, Any] | None:
    """Mean and range over seeds; None of a single one, or where a run has another number of probes."""
    if len(courses) < 2 or len({len(course.loss) for course in courses}) > 1:
        return None
    losses = np.stack([course.loss for course in courses])
    seconds = [course.seconds for course in courses if course.seconds is not None]
    mean = Course(
        effective=np.mean([course.effective for course in courses], axis=0),
        raw=np.mean([course.raw for course in courses], axis=0),
        seconds=np.mean(seconds, axis=0) if len(seconds) == len(courses) else None,
        loss=losses.mean(axis=0),
    )
    return {
        "x": _axes(mean),
        "mean": _losses(mean.loss),
        "low": _losses(losses.min(axis=0)),
        "high": _losses(losses.max(axis=0)),
    }


def _losses(values: Floats) -> list[float]:
    return [round(float(value), LOSS_DIGITS) for value in values]


def _counts(values: Floats) -> list[float]:
    return [round(float(value)) for value in values]


def _seconds(values: Floats) -> list[float]:
    return [round(float(value), 1) for value in values]
