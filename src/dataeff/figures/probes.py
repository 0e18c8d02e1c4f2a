"""What the held-out probes of the runs measured as they trained: read run by run, gathered over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dataeff.errors import DataeffError
from dataeff.figures.part import Part
from dataeff.files import read_json
from dataeff.tables.results import Group, HeldoutPoint

ORDER_ACCURACY = "heldout_sentence_order_accuracy"
Clock = Literal["effective_tokens", "training_seconds"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probes:
    """The held-out probes of one run: tokens so far, the loss in the family's unit, and of a masked model the share of
    segment pairs whose order is told right. `training_seconds` is None of a run that did not note them;
    `averaged_loss` is that of the weights' average, if the run exports one.
    """

    steps: NDArray[np.int64]
    effective_tokens: Floats
    raw_tokens: Floats
    loss: Floats
    order_accuracy: Floats | None = None
    training_seconds: Floats | None = None
    averaged_loss: float | None = None

    def at(self, clock: Clock) -> Floats | None:
        return self.effective_tokens if clock == "effective_tokens" else self.training_seconds


@dataclass(frozen=True)
class Course:
    """The probes of a group by one clock: the means over its seeds, and the lowest and highest of them."""

    variant: str
    place: Floats
    mean: Floats
    low: Floats
    high: Floats
    averaged_loss: float | None = None


def read_probes(path: Path) -> Probes:
    """The rows of a metrics.jsonl that hold a held-out loss; the last row always does."""
    try:
        with path.open(encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream if '"heldout_loss"' in line]
        columns = {
            name: np.array([row[name] for row in rows], dtype=np.float64)
            for name in ("step", "effective_tokens", "raw_tokens", "heldout_loss", ORDER_ACCURACY)
            if name != ORDER_ACCURACY or any(name in row for row in rows)
        }
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; run `pretrain` of this run again") from None
    except (json.JSONDecodeError, KeyError) as error:
        raise DataeffError(f"{path}: a row cannot be read ({error!r}); run `pretrain` of this run again") from None
    if not rows:
        raise DataeffError(f"{path}: no row has a held-out loss; run `pretrain` of this run again")
    steps = columns["step"].astype(np.int64)
    effective, raw, loss = (columns[name] for name in ("effective_tokens", "raw_tokens", "heldout_loss"))
    return Probes(steps, effective, raw, loss, columns.get(ORDER_ACCURACY))


def probes_of(part: Part, results: Path) -> dict[str, Probes]:
    """By the run's name."""
    found = {}
    for result in part.runs:
        folder = results / "pretrain" / result.run.name
        averaging = read_json(folder / "run.json").get("averaging") or {}
        probes = read_probes(folder / "metrics.jsonl")
        found[result.run.name] = replace(
            probes,
            training_seconds=_seconds(probes.steps, result.timings.heldout_points),
            averaged_loss=averaging.get("heldout_loss"),
        )
    return found


def _seconds(steps: NDArray[np.int64], points: Sequence[HeldoutPoint]) -> Floats | None:
    """Training seconds up to each probe; None unless every one of them is known."""
    seconds = {point.step: point.training_seconds for point in points}
    if not all(step in seconds for step in steps.tolist()):
        return None
    return np.array([seconds[step] for step in steps.tolist()], dtype=np.float64)


def course_of(group: Group, probes: Mapping[str, Probes], clock: Clock) -> Course | None:
    """None where a run of the group does not know the clock.

    Probes are taken at equal shares of a run, so that the n-th ones of all seeds are compared; of a run with fewer (its
    steps differ a little where a sample's length is drawn) as many as the shortest has, counted from the end.
    """
    found = [probes[result.run.name] for result in group.results]
    places = [place for probe in found if (place := probe.at(clock)) is not None]
    if len(places) < len(found):
        return None
    count = min(map(len, places))
    losses = np.stack([probe.loss[-count:] for probe in found])
    averages = [probe.averaged_loss for probe in found if probe.averaged_loss is not None]
    return Course(
        group.variant,
        np.mean([place[-count:] for place in places], axis=0),
        losses.mean(axis=0),
        losses.min(axis=0),
        losses.max(axis=0),
        float(np.mean(averages)) if averages else None,
    )
