"""Runs on several amounts of data whose true saving is known, and grids of them as result files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from dataeff import keyed
from dataeff.evaluate.scores import Loss, MaskedLoss
from dataeff.files import read_json, write_json
from dataeff.provenance import Machine
from dataeff.study.base import FamilyName
from dataeff.study.published import published_of, read_published
from dataeff.study.specs import GridSpec
from dataeff.study.types import Run
from dataeff.tables.results import RunResult, Timings, TrainingRecord, Utilisation
from tests.result_factory import ROOT, grid_spec, project_variants, write_results

FRACTIONS = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), Fraction(1))
SEEDS = (1234, 1235, 1236)
SLOPE = 0.3
"""Nats that a factor of e in data is worth."""
FULL_TOKENS = 2_000_000
FULL_SECONDS = 100.0


def true_loss(data: Fraction, share: float = 1.0) -> float:
    """A straight line in log data: a variant of this share needs that part of the baseline's data for any loss."""
    return 4.0 + SLOPE * math.log(share / float(data))


def noise(run: Run, size: float) -> float:
    """Of a seed alone, so that it cancels in pairs, and a tenth of it of the run."""
    common = keyed.generator(run.seed, "loss of a seed").normal(0, size)
    return float(common + keyed.generator(run.seed, f"loss of {run.name}").normal(0, size / 10))


def made(run: Run, loss: float, seconds: float | None = None) -> RunResult:
    """A run that ended with this loss."""
    tokens = round(FULL_TOKENS * run.data)
    record = TrainingRecord(
        name=run.name,
        spec_digest="0" * 64,
        plan_digest="0" * 64,
        parameters=1000,
        steps=100,
        raw_tokens=tokens * (1 if run.variant == "baseline" else 2),
        effective_tokens=tokens,
        epochs=1.0,
        software={},
        hardware=Machine(cpu="a processor", cores=2, gpu=None).model_dump(),
        commit=None,
    )
    timings = Timings(
        training_seconds=seconds or FULL_SECONDS * float(run.data),
        raw_tokens_per_second=1.0,
        peak_memory_bytes=1,
        world_size=1,
        threads=2,
        utilisation=Utilisation(device="cpu", model_flops=1e12 * float(run.data)),
    )
    heldout: Loss | MaskedLoss = Loss(loss=loss, bits_per_byte=loss / 2, tokens=10, bytes=30)
    if run.family == "bert":
        heldout = MaskedLoss(
            loss=loss, sentence_order_loss=0.7, sentence_order_accuracy=0.5, tokens=10, pairs=10, bytes=30
        )
    return RunResult(run, record, timings, "0" * 64, heldout, {}, {}, {}, {}, {})


def runs_of(
    shares: Mapping[str, float],
    seeds: Sequence[int] = SEEDS,
    fractions: Sequence[Fraction] = FRACTIONS,
    family: FamilyName = "gpt",
    spread: float = 0.0,
) -> list[RunResult]:
    """Every variant on every amount of data; `shares`: what of the baseline's data each needs, in truth."""
    found = []
    for variant, share in shares.items():
        for data in fractions:
            for seed in seeds:
                run = Run(family=family, variant=variant, data=data, seed=seed)
                found.append(made(run, true_loss(data, share) + noise(run, spread)))
    return found


def spec_of(runs: Sequence[RunResult]) -> GridSpec:
    """A grid of these runs."""
    listed = [result.run for result in runs]
    spec = grid_spec()
    families: list[FamilyName] = list(dict.fromkeys(run.family for run in listed))
    model = spec.models["gpt"]
    return spec.model_copy(
        update={
            "runs": listed,
            "variants": {family: project_variants(family) for family in families},
            "train_tokens": dict.fromkeys(families, spec.train_tokens["gpt"]),
            "tokenizers": {family: "bpe4k" if family == "gpt" else "wordpiece4k" for family in families},
            "models": dict.fromkeys(families, model),
            "published": published_of(read_published(ROOT / "config" / "papers"), listed),
        }
    )


def written(root: Path, runs: Sequence[RunResult]) -> tuple[GridSpec, Path, Path]:
    """(grid, results/{scale}, results/data/{corpus}): the same runs as result files."""
    spec = spec_of(runs)
    results, data, _ = write_results(root, spec)
    for result in runs:
        path = results / "evaluate" / result.run.name / "heldout.json"
        document = read_json(path)
        document["overall"]["loss"] = result.heldout.loss
        write_json(path, document)
    return spec, results, data
