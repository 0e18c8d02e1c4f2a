"""The `evaluate` stage for GPT: held-out loss by domain, and lm-eval scores at each number of shots.

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
from dataeff.evaluate.heldout import heldout_loss
from dataeff.evaluate.items import build
from dataeff.evaluate.model import OpenModel, open_model
from dataeff.evaluate.scores import HeldoutScores, Scores, write_scores
from dataeff.files import atomic_directory
from dataeff.provenance import provenance
from dataeff.study.specs import EvaluateSpec


def run(spec: EvaluateSpec, model: Path, heldout: Path, items: list[Path], out: Path, *, threads: int = 1) -> None:
    """Writes out/heldout.json, out/{k}shot/{scores.json,items.jsonl.zst}; `items` has a folder per task.

    `threads` of the CPU are used; it is no part of the spec, as it changes only the last digits of a loss.
    """
    started = time.monotonic()
    tasks = find_items(spec.tasks, items, max(spec.shots))
    opened = open_model(model, spec.batch_size, threads)
    print(
        f"evaluate: {opened.name} opened on {opened.lm.device} after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    identity = _identity(spec, opened)
    with atomic_directory(out) as folder:
        domains, overall = heldout_loss(opened, heldout, spec.heldout_bytes_per_domain, spec.batch_size)
        write_scores(folder / "heldout.json", HeldoutScores(**identity, domains=domains, overall=overall))
        print(
            f"evaluate: held-out loss {overall.loss:.4f} nats per token, "
            f"{overall.bits_per_byte:.4f} bits per byte, {len(domains)} domains, "
            f"after {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if tasks:
            for result in run_shots(opened, tasks, spec.shots, spec.items):
                scores = _write_shots(folder / f"{result.shots}shot", result, identity)
                print(f"evaluate: {result.shots}-shot: average {scores.average:.4f}", flush=True)
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
