"""`dataeff preview`: what would run again after an edit, why, and the GPU-hours that it takes; nothing is written.

What would run is Snakemake's answer (dry_run.py), the hours are those of `dataeff study cost`. It may be asked while a
study runs in the same folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.inquiry.options import price_arguments
from dataeff.inquiry.price import Price, costs_of, price_of
from dataeff.inquiry.text import hours, plural
from dataeff.monitor.causes import Group, counted, trace
from dataeff.monitor.dry_run import RULE
from dataeff.study.load import Study

_SHOWN_NAMES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="as for snakemake (default: the default grid)")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder that holds config/ (default: this one)")
    parser.add_argument("--configfile", nargs="+", action="extend", default=[], metavar="FILE", help="as for snakemake")
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as for snakemake: scale=paper"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    price_arguments(parser)


def run(args: argparse.Namespace) -> None:
    price = price_of(args)
    answer = _ask(args)
    study = Study.model_validate(answer["study"])
    jobs, groups = answer["jobs"], trace(answer["jobs"], answer["edited"], study.results, RULE)
    costs = gpu_hours(study, _trainings(jobs), price)
    if args.json:
        print(json.dumps(_as_json(groups, jobs, costs), indent=1))
    else:
        print("\n".join(shown(groups, jobs, costs, price)))


def _ask(args: argparse.Namespace) -> dict[str, Any]:
    """The answer of a dry run in the study's folder; its own words where it fails."""
    arguments = [*args.targets]
    for option in ("configfile", "config"):
        arguments += [f"--{option}", *getattr(args, option)] if getattr(args, option) else []
    with TemporaryDirectory(prefix="dataeff-preview-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        write_json(request, {"arguments": arguments, "answer": str(answer)})
        command = [sys.executable, "-m", "dataeff.monitor.dry_run", str(request)]
        done = subprocess.run(command, cwd=args.root, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found: dict[str, Any] = read_json(answer)
            return found
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    own = [line.removeprefix("dataeff: error: ") for line in said if line.startswith("dataeff: error: ")]
    raise DataeffError(own[-1] if own else "snakemake's dry run failed:\n" + "\n".join(said[-12:]))


def _trainings(jobs: Sequence[dict[str, Any]]) -> list[str]:
    return [job["wildcards"]["run"] for job in jobs if job["rule"] == "pretrain"]


def gpu_hours(study: Study, runs: Sequence[str], price: Price) -> dict[str, float]:
    """Of each training, from its start; a checkpoint that it may continue from is not counted off."""
    found = costs_of(study, [study.find_run(name) for name in runs], recompute=price.recompute)
    return {cost.run.name: price.gpu_hours(cost.flops.total) for cost in found}


def _hours_of(numbers: Sequence[int], jobs: Sequence[dict[str, Any]], costs: dict[str, float]) -> float:
    return sum(costs[name] for name in _trainings([jobs[number] for number in numbers]))


def shown(groups: Sequence[Group], jobs: Sequence[dict[str, Any]], costs: dict[str, float], price: Price) -> list[str]:
    numbers = sorted({number for group in groups for number in group.jobs})
    if not numbers:
        return ["Nothing would run: all that was asked for is there and made from this configuration."]
    lines = []
    for group in groups:
        lines += [f"{group.cause.text}{_names(group.about)}", f"    {_work(group.jobs, jobs, costs)}", ""]
    total = f"In all {plural(len(numbers), 'job')}: {_work(numbers, jobs, costs)}"
    if sum(len(group.jobs) for group in groups) > len(numbers):
        total += " (a job with several causes stands under each, and here once)"
    lines.append(total)
    if costs:
        lines.append(
            f"GPU-hours: {price.gpu.name} at {price.utilisation:.0%} of its peak, trainings alone, each from the start"
        )
    return lines


def _names(about: Sequence[str]) -> str:
    rest = f" and {len(about) - _SHOWN_NAMES} more" if len(about) > _SHOWN_NAMES else ""
    return f" ({', '.join(about[:_SHOWN_NAMES])}{rest})" if about else ""


def _work(numbers: Sequence[int], jobs: Sequence[dict[str, Any]], costs: dict[str, float]) -> str:
    parts = []
    for rule, count in counted(numbers, jobs).items():
        cost = f" ({hours(_hours_of(numbers, jobs, costs))} GPU-hours)" if rule == "pretrain" else ""
        parts.append(f"{count} {rule}{cost}")
    return ", ".join(parts)


def _as_json(groups: Sequence[Group], jobs: Sequence[dict[str, Any]], costs: dict[str, float]) -> dict[str, Any]:
    numbers = sorted({number for group in groups for number in group.jobs})
    return {
        "jobs": len(numbers),
        "rules": counted(numbers, jobs),
        "gpu_hours": _hours_of(numbers, jobs, costs),
        "causes": [
            {
                "cause": group.cause.text,
                "about": list(group.about),
                "jobs": len(group.jobs),
                "rules": counted(group.jobs, jobs),
                "gpu_hours": _hours_of(group.jobs, jobs, costs),
            }
            for group in groups
        ],
    }
