"""What stands behind a number on the page: its runs, and every file that they left.

A link is made to a file that exists. A results folder that was thinned lacks some (logs, say): these are named without
a link.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dataeff.study.types import Run
from dataeff.tables.results import RunResult, percent


def link(path: Path, page_folder: Path) -> str:
    """The path as seen from the page."""
    return Path(os.path.relpath(path, page_folder)).as_posix()


def link_to(path: Path, page_folder: Path) -> str | None:
    return link(path, page_folder) if path.exists() else None


def runs_behind(row: Mapping[str, Any], runs: Iterable[Run]) -> list[dict[str, Any]]:
    """The runs of a table's row: of its family and variant and, if it is of one amount of data, that amount."""
    if "variant" not in row:
        return []
    data = row.get("data")
    return [
        {"name": run.name, "data": percent(run.data), "seed": run.seed}
        for run in runs
        if (run.family, run.variant) == (row.get("family"), row["variant"]) and data in (None, percent(run.data))
    ]


def run_facts(result: RunResult, results: Path, page_folder: Path) -> dict[str, Any]:
    """One row of "what ran", with links to the run's own files as seen from the page."""
    training = result.training
    return {
        "name": training.name,
        "variant": result.run.variant,
        "data": percent(result.run.data),
        "seed": result.run.seed,
        "steps": training.steps,
        "raw": training.raw_tokens,
        "effective": training.effective_tokens,
        "epochs": training.epochs,
        "loss": result.heldout.loss,
        "seconds": result.timings.training_seconds,
        "digest": training.spec_digest[:12],
        "commit": (training.commit or "none")[:12],
        "links": {name: link_to(path, page_folder) for name, path in _files(result, results).items()},
    }


def _files(result: RunResult, results: Path) -> dict[str, Path]:
    name = result.training.name
    evaluated, finetuned = results / "evaluate" / name, results / "finetune" / name
    prompted = {
        f"{group} {shots}-shot": evaluated / group / f"{shots}shot" / "scores.json"
        for shots, tasks in result.tasks.items()
        for group in dict.fromkeys(score.group for score in tasks.values())
    }
    return {
        "spec": results / "specs" / "pretrain" / f"{name}.yaml",
        "plan": results / "plan" / name / "plan.json",
        "run": results / "pretrain" / name / "run.json",
        "timings": results / "pretrain" / name / "timings.json",
        "metrics": results / "pretrain" / name / "metrics.jsonl",
        "log": results / "logs" / "pretrain" / f"{name}.log",
        "held-out": evaluated / "heldout.json",
        **prompted,
        **{task: finetuned / task / "scores.json" for task in result.finetuned},
    }
