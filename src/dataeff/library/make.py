"""Makes a plan from a few arguments: no configuration files, no Snakemake, no study.

`curriculum`, `token_drop` and `learning_rate` are the words of config/variants and config/scales, as objects of
dataeff.study.types or as dicts, checked in the same way. Difficulty may be anybody's: one number per sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from dataeff.errors import DataeffError, unknown_name
from dataeff.library.plan import Plan, refuse_buckets
from dataeff.plan import TrainingPlan, build_plan
from dataeff.study.faults import validate
from dataeff.study.specs import PlanSpec
from dataeff.study.types import LearningRate, MetricCurriculum, Run, TokenDrop, Variant

if TYPE_CHECKING:
    from dataeff.analyze.difficulty import DifficultyIndex

Difficulty = ArrayLike | str | PathLike[str]
Clock = Literal["effective_tokens", "layer_tokens", "raw_tokens"]
_HERE = "make_plan"
# A spec has a learning rate; where none is asked for, its column is left out of the plan.
_NONE_ASKED = LearningRate(peak=1.0, minimum=1.0)


def make_plan(
    *,
    samples: int,
    sequence_length: int,
    batch_size: int,
    train_tokens: int,
    layers: int,
    seed: int,
    curriculum: Mapping[str, MetricCurriculum | Mapping[str, Any]] | None = None,
    token_drop: TokenDrop | Mapping[str, Any] | None = None,
    learning_rate: LearningRate | Mapping[str, Any] | None = None,
    difficulty: Mapping[str, Difficulty] | None = None,
    lr_clock: Clock = "effective_tokens",
    max_epochs: float = 4,
) -> Plan:
    """The plan of a run over `samples` samples: equal arguments, equal plan, on every rank and machine.

    `sequence_length`: tokens that the model sees of a full sample; `batch_size`: samples of an optimizer step over
    all ranks and micro-batches; `train_tokens`: effective tokens (a dropped token counts for the layers that see it)
    at which the run ends; `layers`: transformer layers of the model. Keywords of the methods:

        curriculum={"seqlen": {"apply": "truncate", "pacing": {"start": "1/8", "end": 1, "over": "0.4"}},
                    "rarity": {"apply": "select", "pacing": {"start": 10, "end": 100, "over": "0.4", "root": 2}}}
        token_drop={"pacing": {"start": "1/4", "end": 1, "over": "0.7", "multiple_of": 16}}
        learning_rate={"peak": 6e-4, "minimum": 6e-5, "warmup_tokens": 1_000_000}

    `difficulty`: for each metric that selects samples, an array of one number per sample, or the folder that
    `dataeff analyze` wrote for it. `lr_clock`: what warm-up and decay follow. `max_epochs`: how often the samples may
    be read before the run is refused. Raises DataeffError.
    """
    counts = _counts(
        samples=samples,
        sequence_length=sequence_length,
        batch_size=batch_size,
        train_tokens=train_tokens,
        layers=layers,
    )
    samples = counts.pop("samples")
    if not 0 < max_epochs < float("inf"):
        raise DataeffError(f"{_HERE}: max_epochs: a number above 0 is needed; found {max_epochs!r}")
    if learning_rate is None and lr_clock != "effective_tokens":
        raise DataeffError(
            f"{_HERE}: lr_clock is '{lr_clock}', but there is no learning_rate; pass one or leave it out"
        )
    parts = {"curriculum": curriculum or {}, "token_drop": token_drop, "lr_clock": lr_clock}
    rate = _NONE_ASKED if learning_rate is None else learning_rate
    spec = PlanSpec(
        run=validate(Run, {"family": "gpt", "variant": "own", "data": 1, "seed": seed}, _HERE),
        variant=validate(Variant, parts, _HERE),
        **counts,
        learning_rate=validate(LearningRate, rate, _HERE, inside="learning_rate"),
        learning_rate_factor=Fraction(1),
        published_steps={},
        max_epochs=Fraction(str(max_epochs)),
    )
    refuse_buckets(spec, _HERE)
    indexes, folders = _difficulty(spec, difficulty or {}, samples)
    training = build_plan(spec, samples, indexes, folders)
    return Plan(training if learning_rate is not None else _without_rate(training), spec)


def _counts(**given: Any) -> dict[str, int]:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise DataeffError(f"{_HERE}: {name}: a whole number of at least 1 is needed; found {value!r}")
    return {name: int(value) for name, value in given.items()}


def _difficulty(
    spec: PlanSpec, given: Mapping[str, Difficulty], samples: int
) -> tuple[dict[str, DifficultyIndex], dict[str, Path]]:
    """Indexes of the selecting metrics, and the folders of those that lie in one."""
    from dataeff.analyze.difficulty import DifficultyIndex

    needed = set(spec.variant.selections)
    for metric in sorted(set(given) - needed):
        raise unknown_name("metric", metric, needed, f"{_HERE}: difficulty: only metrics that select samples are used")
    for metric in sorted(needed - set(given)):
        raise DataeffError(
            f"{_HERE}: difficulty: nothing for '{metric}', which curriculum.{metric} selects samples by; pass "
            f"difficulty={{'{metric}': one number per sample, or a folder of `dataeff analyze`}}"
        )
    folders = {metric: Path(value) for metric, value in given.items() if isinstance(value, str | PathLike)}
    indexes = {metric: DifficultyIndex.open(folder) for metric, folder in folders.items()}
    arrays = {metric: value for metric, value in given.items() if metric not in folders}
    return indexes | {metric: _index_of(metric, values, samples) for metric, values in arrays.items()}, folders


def _index_of(metric: str, given: Any, samples: int) -> DifficultyIndex:
    """The index of numbers that are already there: the same order as `dataeff analyze` makes of equal ones.

    Fractions are ordered as they are. Levels of a pacing are whole, and a number is at most a level where its next
    whole number is.
    """
    from dataeff.analyze.difficulty import DifficultyIndex
    from dataeff.samples.arrays import id_type

    where, values = f"{_HERE}: difficulty.{metric}", np.asarray(given)
    if values.shape != (samples,) or values.dtype.kind not in "iuf":
        raise DataeffError(
            f"{where}: an array of {values.dtype} of shape {values.shape}; one number for each of the {samples} "
            f"samples is needed"
        )
    # Of floats, 2**63 itself is one that fits no signed word; a NaN fails every comparison.
    if values.dtype.kind != "i" and not bool((np.abs(values) < 2**63).all()):
        worst = int(np.argmin(np.abs(values) < 2**63))
        raise DataeffError(f"{where}: sample {worst} has {values[worst]}; finite numbers below 2**63 are needed")
    whole = np.ceil(values) if values.dtype.kind == "f" else values
    order = np.argsort(values, kind="stable").astype(id_type(samples))
    return DifficultyIndex(metric, whole.astype(np.int64), order)


def _without_rate(training: TrainingPlan) -> TrainingPlan:
    facts = {name: value for name, value in training.facts.items() if name != "peak_learning_rate"}
    return TrainingPlan(training.steps.drop(columns="learning_rate"), training.order, facts)
