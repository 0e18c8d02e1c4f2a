"""The `finetune` stage: a finished encoder trained on one task, once for each learning rate and seed of the recipe.

From the run's folder and the task's fetched data, in one process that reads and tokenises the data once. A training
that is finished is kept in the state folder, so that a stopped stage goes on with those not done. The results appear
together or not at all.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import FetchedDataset, read_dataset
from dataeff.evaluate.scores import write_scores
from dataeff.files import atomic_directory
from dataeff.finetune.aggregate import honest_rule, published_rule
from dataeff.finetune.scores import FinetuneScores, Trial
from dataeff.progress import Progress, clock
from dataeff.provenance import provenance
from dataeff.study.specs import FinetuneSpec

if TYPE_CHECKING:
    from dataeff.finetune.data import Items
    from dataeff.finetune.heads import Encoder
    from dataeff.finetune.measured import Measured
    from dataeff.finetune.state import State
    from dataeff.finetune.train import Trained, Trainer

SCORES, PREDICTIONS = "scores.json", "predictions.jsonl.zst"


def run(spec: FinetuneSpec, model: Path, dataset: Path, state: Path, out: Path, *, threads: int = 1) -> None:
    """Writes out/scores.json and out/predictions.jsonl.zst, from a run's folder and a dataset's manifest.

    `state` keeps finished trainings until then. `threads` of the CPU are used; they are no part of the spec.
    """
    from dataeff.finetune.heads import open_encoder
    from dataeff.finetune.measured import Measured
    from dataeff.finetune.state import State
    from dataeff.finetune.train import Trainer

    started = time.monotonic()
    fetched = _dataset(spec, dataset)
    encoder = open_encoder(model, threads)
    splits = _splits(spec, fetched, encoder)
    measured = Measured.of(spec.name, spec.task, splits)
    name = f"finetune: {encoder.name} on {spec.name}"
    trainer = Trainer.of(name, encoder, spec.task, spec.recipe, splits)
    print(
        f"{name}: {len(splits[spec.task.train]):,} items to train on, {trainer.steps:,} steps a training; opened on "
        f"{encoder.device} after {time.monotonic() - started:.0f} s",
        flush=True,
    )
    made_from = {
        "spec_digest": spec.digest,
        "model_digest": encoder.digest,
        "data_sha256": fetched.data_sha256,
    }
    trained = _train(spec, trainer, State(Path(state), made_from))
    trials = [measured.trial(one) for one in trained]
    with atomic_directory(Path(out)) as folder:
        write_scores(folder / SCORES, _scores(spec, encoder, fetched, splits, measured, trials))
        _write_predictions(folder / PREDICTIONS, measured, trained, trials)
    shutil.rmtree(state, ignore_errors=True)
    print(f"{name} done in {clock(time.monotonic() - started)}", flush=True)


def _dataset(spec: FinetuneSpec, manifest: Path) -> FetchedDataset:
    fetched = read_dataset(Path(manifest))
    if fetched.name != spec.task.data:
        raise DataeffError(
            f"{manifest}: dataset '{fetched.name}'; task '{spec.name}' is trained on '{spec.task.data}': give that one"
        )
    return fetched


def _splits(spec: FinetuneSpec, fetched: FetchedDataset, encoder: Encoder) -> dict[str, Items]:
    """The items of every split that the task names."""
    from dataeff.finetune.data import read_items

    longest = min(spec.recipe.max_length, encoder.longest)
    limits: dict[str, int | None] = dict.fromkeys(spec.task.evaluation.values(), spec.evaluation_items)
    limits[spec.task.train] = spec.train_items
    return {
        split: read_items(spec.task, fetched, split, limit, encoder.tokenizer, longest)
        for split, limit in limits.items()
    }


def _train(spec: FinetuneSpec, trainer: Trainer, state: State) -> list[Trained]:
    """Every training of the recipe in its order, those that the state holds as they are."""
    wanted = [(rate, seed) for rate in spec.recipe.learning_rates for seed in spec.recipe.seeds]
    found = {pair: state.find(*pair) for pair in wanted}
    missing = [pair for pair in wanted if found[pair] is None]
    if len(missing) < len(wanted):
        print(f"{trainer.name}: {len(wanted) - len(missing)} of {len(wanted)} trainings are done", flush=True)
    progress = Progress(trainer.name, len(missing) * trainer.steps, "steps")
    for number, (rate, seed) in enumerate(missing):
        done = number * trainer.steps
        trained = trainer.run(rate, seed, lambda step, done=done: progress.show(done + step))  # type: ignore[misc]
        state.keep(trained)
        found[rate, seed] = trained
        print(
            f"{trainer.name}: learning rate {rate:g}, seed {seed}: loss {trained.epochs[-1].training_loss:.4f} in the "
            f"last of {len(trained.epochs)} epochs, {clock(trained.seconds)}",
            flush=True,
        )
    return [one for one in found.values() if one is not None]


def _scores(
    spec: FinetuneSpec,
    encoder: Encoder,
    fetched: FetchedDataset,
    splits: dict[str, Items],
    measured: Measured,
    trials: Sequence[Trial],
) -> FinetuneScores:
    task, train = spec.task, splits[spec.task.train]
    return FinetuneScores(
        run=encoder.run,
        name=encoder.name,
        spec_digest=spec.digest,
        model_digest=encoder.digest,
        task=spec.name,
        about=task.about,
        table=task.table,
        stands_in_for=task.stands_in_for,
        metric=task.metric,
        data_sha256=fetched.data_sha256,
        train_items=len(train),
        cut_train_items=train.cut,
        columns=measured.columns(),
        trials=list(trials),
        published_rule=published_rule(trials),
        honest_rule=honest_rule(trials),
        seconds=sum(trial.seconds for trial in trials),
        **dict(provenance()),
    )


def _write_predictions(path: Path, measured: Measured, trained: Sequence[Trained], trials: Sequence[Trial]) -> None:
    with path.open("wb") as stream, zstandard.ZstdCompressor(10).stream_writer(stream) as writer:
        for one, trial in zip(trained, trials, strict=True):
            for record in measured.predictions(one, trial):
                writer.write((json.dumps(record) + "\n").encode())


__all__ = ["FinetuneScores", "run"]
