"""`dataeff tune VARIANT`: finds the start and the duration of one pacing of a variant by short trainings.

First the smallest start, then the largest duration, for which the validation perplexity does not fluctuate over the
first few multiples of the learning rate's warm-up; ends are full. That is DeepSpeed's curriculum tutorial for lengths;
that arXiv 2212.03597 (3.1, 3.2) and 2108.06084 do so for every pacing, and their limit, is recalled and not verified.
Bounded, printed with its evidence, and continued where it was stopped.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.inquiry.options import study_arguments as study_arguments
from dataeff.pretrain.owner import owned
from dataeff.tune.chosen import CRITERION, PACING, grid_name, write_evidence, write_pacing
from dataeff.tune.data import snakemake_command
from dataeff.tune.evidence import LIMIT, Evidence
from dataeff.tune.pacings import DURATIONS
from dataeff.tune.search import Candidate, Found, search
from dataeff.tune.task import Task, prepare
from dataeff.tune.told import announced, notes, nothing, table, told

MULTIPLES, PROBES, MOST_TRAININGS = 4, 4, 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("variant", metavar="VARIANT", help="its pacing is tuned; all else of it stays as it is")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the pacing, and all evidence")
    parser.add_argument("--family", default="gpt", help="default gpt")
    parser.add_argument("--metric", help="which pacing: seqlen, vocab_rarity, token_drop ... (default: the only one)")
    parser.add_argument("--seed", type=int, help="default: the study's first")
    parser.add_argument("--name", help=f"of the variant in {PACING} (default VARIANT_tuned)")
    group = parser.add_argument_group("how it searches")
    for option, default, what in (
        ("--multiples", MULTIPLES, "so many times the learning rate's warm-up are trained"),
        ("--probes", PROBES, "of the held-out text per warm-up"),
        ("--max-trainings", MOST_TRAININGS, "none is begun beyond these; the one without the pacing counts"),
    ):
        group.add_argument(option, type=int, default=default, metavar="N", help=f"{what} (default {default})")
    group.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        metavar="X",
        help=f"a perplexity above X times the best before is a fluctuation (default {LIMIT}, {CRITERION})",
    )
    group.add_argument("--starts", type=int, nargs="+", metavar="N", help="tokens, percent or values to start with")
    group.add_argument(
        "--durations", type=_share, nargs="+", metavar="FRACTION", help=f"default {' '.join(map(str, DURATIONS))}"
    )
    study_arguments(parser)
    parser.set_defaults(data=None)


def _share(text: str) -> Fraction:
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"'{text}' is no fraction; write 1/2 or 0.5") from None


def run(args: Namespace) -> None:
    if args.out.exists() and not args.out.is_dir():
        raise DataeffError(f"--out {args.out}: it is a file; name a folder")
    task = prepare(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with owned(args.out / "tune.owner", wait_seconds=0):
        print("\n".join(announced(task)), flush=True)
        try:
            without = task.trainings.evidence(None)
            found = _searched(task, without)
        except KeyboardInterrupt:
            print(f"stopped; finished trainings are kept in {args.out}, and the same command goes on", flush=True)
            raise
        _conclude(args, task, without, found)


def _searched(task: Task, without: Evidence) -> Found:
    trainings = task.trainings
    print(told(task, without), flush=True)

    def is_stable(candidate: Candidate) -> bool:
        evidence = trainings.evidence(candidate)
        print(told(task, evidence), flush=True)
        return evidence.is_stable(task.limit)

    return search(task.starts, task.durations, task.bound - 1, is_stable)


def _conclude(args: Namespace, task: Task, without: Evidence, found: Found) -> None:
    trainings, tuned = task.trainings, task.trainings.tuned
    run, candidate = trainings.run, found.candidate
    name = args.name or f"{run.variant}_tuned"
    chosen: dict[str, Any] | None = None
    if candidate is not None:
        chosen = {
            "variant": name,
            "start": candidate.start,
            "start_in_config": str(tuned.share(candidate.start)),
            "over": str(candidate.over),
        }
    evidence = write_evidence(args.out, _facts(task, found), task.limit, without, trainings.done[1:], chosen)
    print("\n".join(["", *table(task), *notes(task)]), flush=True)
    if candidate is None:
        (args.out / PACING).unlink(missing_ok=True)
        raise DataeffError(nothing(task, found, evidence))
    about = f"{run.variant} with the pacing of {tuned.metric} that a search chose at scale {trainings.study.scale_name}"
    again = snakemake_command([grid_name(run)], [*args.configfile, args.out / PACING], args.config)
    path = write_pacing(args.out, run, tuned, candidate, name, about, again)
    before = f"{tuned.words(tuned.start)} over {tuned.pacing.over} before"
    print(f"chosen: {trainings.words(candidate)} of the nominal steps ({before})")
    if not found.complete:
        print("the bound ended the search: a longer duration may be stable too; raise --max-trainings to know")
    print(f"written: {path} (variant {name}, grid {grid_name(run)}), {evidence}\nnext: {again}")


def _facts(task: Task, found: Found) -> dict[str, Any]:
    trainings = task.trainings
    return {
        "run": trainings.run.name,
        "scale": trainings.study.scale_name,
        "pacing_of": trainings.tuned.metric,
        "unit": trainings.tuned.unit,
        "limit": task.limit,
        "limit_source": CRITERION if task.limit == LIMIT else "--limit",
        "warmup_multiples": trainings.watch.multiples,
        "probes": trainings.watch.points,
        "starts": task.starts,
        "durations": [str(over) for over in task.durations],
        "max_trainings": task.bound,
        "complete": found.complete,
    }
