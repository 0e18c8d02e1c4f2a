"""The data of the interactive curves: held-out loss at each probe against what was spent on it until then.

The axes are effective tokens, raw tokens and training time. A variant at an amount of data has a course a seed and,
with two seeds or more, their mean and range at each probe: probes stand at the same shares of a run, so that those of
two seeds are of one place. Runs whose timings hold no seconds at the probes have no course over time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataeff.claims import Claims
from dataeff.figures.part import Part, by_data, parts_of, variants_of
from dataeff.figures.probes import Floats, Probes, probes_of
from dataeff.figures.style import Style, variant_styles
from dataeff.study.specs import GridSpec
from dataeff.tables.results import BASELINE, Group, RunResult, percent

FEW_VARIANTS = 4
"""Up to so many are all drawn when the page opens; of more, the baseline and those of the headline claims."""
LOSS_DIGITS = 5
POINTS = {"s": "rect", "^": "triangle", "D": "rectRot", "o": "circle", "X": "crossRot", "P": "cross", "*": "star"}
"""The library's names of the figures' marks; it draws the rest as triangles."""


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
        "groups": [_group(group, probes) for group in groups],
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


def _group(group: Group, probes: Mapping[str, Probes]) -> dict[str, Any]:
    courses = [probes[result.run.name] for result in group.results]
    return {
        "variant": group.variant,
        "data": percent(group.data),
        "runs": [
            {
                "name": result.run.name,
                "seed": result.run.seed,
                "x": _axes(course.effective_tokens, course.raw_tokens, course.training_seconds),
                "loss": _losses(course.loss),
            }
            for result, course in zip(group.results, courses, strict=True)
        ],
        "band": _band(courses),
    }


def _axes(effective: Floats, raw: Floats, seconds: Floats | None) -> dict[str, list[float] | None]:
    return {
        "effective": _counts(effective),
        "raw": _counts(raw),
        "seconds": None if seconds is None else _seconds(seconds),
    }


def _band(courses: Sequence[Probes]) -> dict[str, Any] | None:
    """Mean and range over seeds; None of a single one, or where a run has another number of probes."""
    if len(courses) < 2 or len({len(course.loss) for course in courses}) > 1:
        return None
    losses = np.stack([course.loss for course in courses])
    seconds = [course.training_seconds for course in courses if course.training_seconds is not None]
    return {
        "x": _axes(
            np.mean([course.effective_tokens for course in courses], axis=0),
            np.mean([course.raw_tokens for course in courses], axis=0),
            np.mean(seconds, axis=0) if len(seconds) == len(courses) else None,
        ),
        "mean": _losses(losses.mean(axis=0)),
        "low": _losses(losses.min(axis=0)),
        "high": _losses(losses.max(axis=0)),
    }


def _losses(values: Floats) -> list[float]:
    return [round(float(value), LOSS_DIGITS) for value in values]


def _counts(values: Floats) -> list[float]:
    return [round(float(value)) for value in values]


def _seconds(values: Floats) -> list[float]:
    return [round(float(value), 1) for value in values]
