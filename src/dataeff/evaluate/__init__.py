"""The `evaluate` stage: held-out loss by domain and, of a family that can be asked, lm-eval scores by shots.

From a finished run's folder, the held-out text and the items made from it (items.py), in one process with the
model loaded once. All of a run's results appear together or not at all.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import zstandard

from dataeff.evaluate.harness import ShotResult, find_items, run_shots
from dataeff.evaluate.heldout import heldout_scores, in_words
from dataeff.evaluate.items import build
from dataeff.evaluate.model import OpenModel, open_model
from dataeff.evaluate.scores import Scores, write_scores
from dataeff.files import atomic_directory
from dataeff.provenance import provenance
from dataeff.study.specs import EvaluateSpec


def run(spec: EvaluateSpec, model: Path, heldout: Path, items: list[Path], out: Path, *, threads: int = 1) -> None:
    """Writes out/heldout.json and, for a model that lm-eval can score, out/{k}shot/{scores.json,items.jsonl.zst};
    `items` has a folder per task.

    `threads` of the CPU are used; it is no part of the spec, as it changes only the last digits of a loss.
    """
    started = time.monotonic()
    opened = open_model(model, spec.batch_size, threads)
    tasks = {} if opened.lm is None else find_items(spec.tasks, items, max(spec.shots))
    print(
        f"evaluate: {opened.name} opened on {opened.network.device} after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    identity = _identity(spec, opened)
    with atomic_directory(out) as folder:
        scores = heldout_scores(opened, heldout, spec.heldout_bytes_per_domain, spec.batch_size, identity)
        write_scores(folder / "heldout.json", scores)
        print(
            f"evaluate: held-out {in_words(scores.overall)}, {len(scores.domains)} domains, "
            f"after {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if tasks:
            for result in run_shots(opened, tasks, spec.shots, spec.items):
                shots = _write_shots(folder / f"{result.shots}shot", result, identity)
                print(f"evaluate: {result.shots}-shot: average {shots.average:.4f}", flush=True)
    print(f"evaluate: {opened.name} done in {time.monotonic() - started:.0f} s", flush=True)


def _identity(spec: EvaluateSpec, model: OpenModel) -> dict[str, Any]:
    return {
        "run": model.run,
        "name": model.name,
        "spec_digest": spec.digest,
        "model_digest": model.digest,
        **dict(provenance()),
    }


def _write_shots(folder: Path, result: ShotResult, identity: dict[str, Any]) -> Scores:
    folder.mkdir()
    average = fmean(score.value for score in result.tasks.values())
    scores = Scores(**identity, shots=result.shots, tasks=result.tasks, average=average)
    write_scores(folder / "scores.json", scores)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in result.items)
    (folder / "items.jsonl.zst").write_bytes(zstandard.compress(lines.encode(), 10))
    return scores


__all__ = ["build", "run"]
