"""What the finished runs of a grid measured, read from their result files into one typed object per run.

The only reader (with prompted.py) of run.json, timings.json, heldout.json and scores.json for tables, figures and the
report: a missing file, a missing key and scores of another model's weights are errors that name the file. What a family
does not measure (bits per byte and prompted tasks of a masked model) is None or absent, never a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dataeff.errors import DataeffError
from dataeff.evaluate.rescore import TaskItems
from dataeff.evaluate.scores import (
    DomainLoss,
    Loss,
    MaskedDomainLoss,
    MaskedHeldoutScores,
    MaskedLoss,
    TaskScore,
    read_heldout,
)
from dataeff.families.traits import TRAITS
from dataeff.files import read_json
from dataeff.finetune.scores import FinetuneScores, read_finetune_scores
from dataeff.study.base import FamilyName
from dataeff.study.load import AnyModel, validate
from dataeff.study.specs import GridSpec
from dataeff.study.types import Run
from dataeff.tables.prompted import Prompted, read_prompted

BASELINE = "baseline"
"""The variant that the others are compared with."""
CPU = "cpu"
"""The device of a run without a graphics card, in timings.json."""


class _Document(BaseModel):
    """A result file: the keys that are read here are needed, further ones are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class TrainingRecord(_Document):
    """run.json"""

    name: str
    spec_digest: str
    plan_digest: str
    parameters: int
    steps: int
    raw_tokens: int
    effective_tokens: int
    epochs: float
    software: dict[str, Any]
    hardware: dict[str, Any]
    commit: str | None


class Utilisation(_Document):
    """What a run computed (matrix products of its plan, recomputed ones not counted) and what on: `cpu`, or a card."""

    device: str
    model_flops: float


class HeldoutPoint(_Document):
    """Training seconds up to a held-out probe."""

    step: int
    training_seconds: float


class Timings(_Document):
    """timings.json; the only numbers here that two runs of one spec do not share. What older runs lack is None."""

    training_seconds: float = Field(gt=0)
    raw_tokens_per_second: float
    peak_memory_bytes: int
    world_size: int | None = None
    threads: int | None = None
    utilisation: Utilisation | None = None
    heldout_points: list[HeldoutPoint] = Field(default_factory=list)

    @property
    def model_flops(self) -> float | None:
        return None if self.utilisation is None else self.utilisation.model_flops

    @property
    def device_hours(self) -> float | None:
        """Hours of one card, or of one core where a run was on the CPU: of all processes together."""
        if self.utilisation is None or self.world_size is None:
            return None
        hours = self.training_seconds * self.world_size / 3600
        if self.utilisation.device != CPU:
            return hours
        return None if self.threads is None else hours * self.threads


@dataclass(frozen=True)
class RunResult:
    """One finished run: what it cost, how well its model does.

    `tasks`, `items` (what the tasks' values are computed from), `averages` and `probe_averages` (prompted.py says of
    what) are keyed by shots; a masked model cannot be prompted and has none.
    """

    run: Run
    training: TrainingRecord
    timings: Timings
    model_digest: str
    heldout: Loss | MaskedLoss
    domains: Mapping[str, DomainLoss | MaskedDomainLoss]
    tasks: dict[int, dict[str, TaskScore]]
    items: dict[int, dict[str, TaskItems]]
    averages: dict[int, float]
    finetuned: dict[str, FinetuneScores]
    """By task; empty of a model that continues text, which is prompted instead."""
    probe_averages: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but the seed: one row of a table."""

    family: FamilyName
    variant: str
    data: Fraction
    results: tuple[RunResult, ...]

    @property
    def label(self) -> str:
        return f"{self.variant} {percent(self.data)}"


def bits_per_byte(loss: Loss | MaskedLoss) -> float | None:
    """None of a masked model, which does not predict every byte."""
    return loss.bits_per_byte if isinstance(loss, Loss) else None


def sentence_order_accuracy(loss: Loss | MaskedLoss) -> float | None:
    """How often a masked model knows whether two segments were swapped; None of others."""
    return loss.sentence_order_accuracy if isinstance(loss, MaskedLoss) else None


def percent(data: Fraction) -> str:
    """A data fraction for people: 1/2 is '50%', 2/3 is '66.7%'."""
    return f"{float(data * 100):.3g}%"


def read_runs(spec: GridSpec, results: Path) -> list[RunResult]:
    """Every run of the grid, in its order, from the `results/{scale}` folder."""
    if not spec.runs:
        raise DataeffError(f"grid '{spec.grid}' has no runs; list some under grids.{spec.grid} in config/config.yaml")
    return [_read_run(run, spec, Path(results)) for run in spec.runs]


def _read_run(run: Run, spec: GridSpec, results: Path) -> RunResult:
    pretrain, evaluate = results / "pretrain" / run.name, results / "evaluate" / run.name
    training = _read(pretrain / "run.json", TrainingRecord)
    timings = _read(pretrain / "timings.json", Timings)
    heldout = read_heldout(evaluate / "heldout.json")
    for file, name in (("run.json", training.name), ("heldout.json", heldout.name)):
        if name != run.name:
            raise DataeffError(
                f"{file} of run '{run.name}' below {results} is of run '{name}'; delete it and run again"
            )
    prompted = Prompted({}, {})
    if not isinstance(heldout, MaskedHeldoutScores):
        prompted = read_prompted(evaluate, spec.tasks, spec.shots, run.name, heldout.model_digest)
    return RunResult(
        run=run,
        training=training,
        timings=timings,
        model_digest=heldout.model_digest,
        heldout=heldout.overall,
        domains=dict(heldout.domains),
        tasks=prompted.tasks,
        items=prompted.items,
        averages=prompted.averages,
        finetuned=_read_finetuned(run, spec.finetuning, results, heldout.model_digest),
        probe_averages=prompted.probe_averages,
    )


def _read_finetuned(run: Run, tasks: Iterable[str], results: Path, model_digest: str) -> dict[str, FinetuneScores]:
    """The scores of an encoder on every task of the grid."""
    if TRAITS[run.family].prompted:
        return {}
    folder = results / "finetune" / run.name
    found = {task: read_finetune_scores(folder / task / "scores.json") for task in tasks}
    for task, scores in found.items():
        if scores.name != run.name or scores.task != task or scores.model_digest != model_digest:
            raise DataeffError(
                f"{folder / task / 'scores.json'} is of run '{scores.name}', task '{scores.task}' and weights "
                f"{scores.model_digest[:12]}; heldout.json of '{run.name}' is of weights {model_digest[:12]}: delete "
                f"the folder and run again"
            )
    return found


def _read(path: Path, kind: type[AnyModel]) -> AnyModel:
    return validate(kind, read_json(path), str(path))


def group_by_seed(runs: Sequence[RunResult]) -> list[Group]:
    """The runs, gathered over seeds, in the order in which the grid first names them."""
    gathered: dict[tuple[FamilyName, str, Fraction], list[RunResult]] = {}
    for result in runs:
        gathered.setdefault((result.run.family, result.run.variant, result.run.data), []).append(result)
    return [Group(*identity, tuple(members)) for identity, members in gathered.items()]


def seed_counts(runs: Iterable[Run]) -> list[int]:
    """How many runs there are of each variant and amount of data."""
    return list(Counter((run.family, run.variant, run.data) for run in runs).values())


def references(group: Group, runs: Sequence[RunResult], data: Fraction) -> list[RunResult] | None:
    """For each run of the group, the baseline of the same family and seed at this data fraction.

    None where the group is that baseline itself or the grid lacks one of them: a difference over other seeds
    than the row's own would not be one of pairs.
    """
    if group.variant == BASELINE and group.data == data:
        return None
    baselines = {
        result.run.seed: result
        for result in runs
        if (result.run.family, result.run.variant, result.run.data) == (group.family, BASELINE, data)
    }
    if not all(result.run.seed in baselines for result in group.results):
        return None
    return [baselines[result.run.seed] for result in group.results]


def domains_of(runs: Sequence[RunResult]) -> list[str]:
    """The held-out domains, in the order of the first run; an error unless every run of a family has the same ones.

    A domain too short for sentence pairs can be one of the GPT runs alone.
    """
    first: dict[FamilyName, RunResult] = {}
    for result in runs:
        other = first.setdefault(result.run.family, result)
        if set(result.domains) != set(other.domains):
            raise DataeffError(
                f"heldout.json of {result.run.name} has the domains {sorted(result.domains)}, that of "
                f"{other.run.name} has {sorted(other.domains)}; evaluate both on one corpus"
            )
    return list(dict.fromkeys(domain for result in first.values() for domain in result.domains))
