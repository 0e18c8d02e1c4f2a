"""A search that is ready to begin: what is searched, in which lists, how far; checked before anything is trained."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dataeff.errors import DataeffError
from dataeff.inquiry.price import counts_of
from dataeff.study.outside import find_run, results_folder, study_of
from dataeff.study.specs import plan_spec
from dataeff.tune.cut import check_warmup
from dataeff.tune.data import RunData, check_made
from dataeff.tune.pacings import DURATIONS, Tuned, find_pacing, starts_of
from dataeff.tune.search import most_candidates
from dataeff.tune.trainings import Trainings, Watch

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Task:
    """A search that is ready to begin. `bound`: trainings at most, the one without the pacing included."""

    trainings: Trainings
    starts: list[int]
    durations: list[Fraction]
    bound: int
    limit: float

    @property
    def all_trainings(self) -> int:
        """How many it may take where nothing bounds it."""
        return 1 + most_candidates(self.starts, self.durations)


def prepare(args: Namespace) -> Task:
    """What the options ask for; one DataeffError for the first thing that makes it impossible."""
    _check(args)
    grids = study_of(args)
    seed = grids.runs[0].seed if args.seed is None else args.seed
    asked = find_run(args, f"{args.family}-{args.variant}-100-s{seed}")
    study, run = asked.study, asked.run
    spec, where = plan_spec(study, run), f"variants.{run.family}.{run.variant}"
    tuned = find_pacing(study.variant(run), args.metric, spec.sequence_length, where)
    check_warmup(spec, f"scales.{study.scale_name}.families.{run.family}")
    watch = Watch(args.multiples, args.multiples * args.probes)
    trainings = Trainings(study, run, tuned, results_folder(args, study), watch, args.out)
    data = trainings.all_data()
    check_made(data, grids, run, args)
    parameters = counts_of(study, run).total
    starts = args.starts or starts_of(tuned, parameters, lambda percent: _value_at(data[0], tuned, percent))
    durations = args.durations or list(DURATIONS)
    _check_lists(tuned, starts, durations)
    task = Task(trainings, sorted(set(starts)), sorted(set(durations)), args.max_trainings, args.limit)
    trainings.most = min(task.bound, task.all_trainings)
    return task


def _check(args: Namespace) -> None:
    for option, least in (("multiples", 1), ("probes", 1), ("max_trainings", 2)):
        if getattr(args, option) < least:
            shown = option.replace("_", "-")
            raise DataeffError(f"--{shown} {getattr(args, option)}: at least {least} is needed")
    if args.multiples * args.probes < 2:
        raise DataeffError("--multiples 1 --probes 1: one probe shows no fluctuation; ask for two or more in all")
    if args.name is not None and (args.name == args.variant or not _NAME.fullmatch(args.name)):
        raise DataeffError(
            f"--name {args.name}: lower-case letters, digits and _ are needed, and not the name of the variant itself"
        )
    if not args.limit >= 1:
        raise DataeffError(f"--limit {args.limit:g}: at least 1 is needed; below it a falling perplexity would fail")


def _value_at(data: RunData, tuned: Tuned, percent: int) -> int:
    """The value of the hardest of so many easiest percent of the samples."""
    from dataeff.analyze.difficulty import DifficultyIndex

    index = DifficultyIndex.open(data.indexes[tuned.metric])
    return int(index.values[index.order[max(index.pool_size_at_percentile(percent), 1) - 1]])


def _check_lists(tuned: Tuned, starts: Sequence[int], durations: Sequence[Fraction]) -> None:
    for start in starts:
        if not 0 < start <= tuned.end:
            raise DataeffError(f"--starts {start}: above 0 and at most the pacing's end, {tuned.end}, is needed")
    for over in durations:
        if not 0 < over <= 1:
            raise DataeffError(f"--durations {over}: above 0 and at most 1 is needed, a share of the nominal steps")
    if not starts:
        raise DataeffError(
            f"the pacing of {tuned.metric} ends at {tuned.end}, which leaves no start to try; give --starts"
        )
