"""What a search leaves behind: the pacing as a variant for `--configfile`, and all evidence as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dataeff.files import write_json, write_text
from dataeff.study.types import Run
from dataeff.tune.evidence import Evidence
from dataeff.tune.pacings import TOKEN_DROP, Tuned
from dataeff.tune.search import Candidate

PACING, EVIDENCE = "pacing.yaml", "evidence.json"
CRITERION = "recalled from arXiv 2212.03597 and 2108.06084, not verified against their text"


def grid_name(run: Run) -> str:
    return f"tuned_{run.variant}"


def write_pacing(
    folder: Path, run: Run, tuned: Tuned, candidate: Candidate, name: str, about: str, command: str
) -> Path:
    """A variant that states its difference to the one that was tuned, and a grid of the two, which `command` trains."""
    pacing: dict[str, Any] = {"pacing": {"start": str(tuned.share(candidate.start)), "over": str(candidate.over)}}
    part = {TOKEN_DROP: pacing} if tuned.metric == TOKEN_DROP else {"curriculum": {tuned.metric: pacing}}
    body = {
        "variants": {run.family: {name: {"about": about, "extends": [run.variant], **part}}},
        "grids": {grid_name(run): [{"family": run.family, "variants": [run.variant, name]}]},
    }
    path = folder / PACING
    head = f"# Written by `dataeff tune`; the evidence is in {EVIDENCE} beside it.\n"
    head += f"#     {command}\n"
    write_text(path, head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110))
    return path


def write_evidence(
    folder: Path,
    facts: dict[str, Any],
    limit: float,
    without: Evidence,
    candidates: Sequence[Evidence],
    chosen: dict[str, Any] | None,
) -> Path:
    path = folder / EVIDENCE
    write_json(
        path,
        {
            **facts,
            "chosen": chosen,
            "without_pacing": _judged(without, limit),
            "candidates": [_judged(evidence, limit) for evidence in candidates],
        },
    )
    return path


def _judged(evidence: Evidence, limit: float) -> dict[str, Any]:
    ratio, step = evidence.worst() or (None, None)
    judgement = {"verdict": evidence.verdict(limit), "worst_ratio": ratio, "worst_at_step": step}
    return {**judgement, **evidence.model_dump(mode="json")}
