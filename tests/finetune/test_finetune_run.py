"""The whole stage on small data: what it writes, that it can be stopped anywhere, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from dataeff import finetune
from dataeff.errors import DataeffError
from dataeff.finetune.metrics import measure
from dataeff.finetune.scores import FinetuneScores, read_finetune_scores
from dataeff.study.specs import FinetuneSpec, write_spec
from dataeff.study.tasks import FinetuneTask
from tests.finetune.conftest import fetched, marked_rows, recipe_of, spec_of, task_of, words

Row = dict[str, Any]
SPEC = spec_of(recipe=recipe_of(learning_rates=[1e-3, 3e-3], seeds=[1, 2, 3, 4]))


@pytest.fixture(scope="module")
def finished(model: Path, marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    finetune.run(SPEC, model, marked, folder / "state", folder / "out")
    return folder


def scores_of(folder: Path) -> FinetuneScores:
    return read_finetune_scores(folder / "out" / "scores.json")


def records_of(folder: Path) -> list[Row]:
    content = zstandard.decompress((folder / "out" / "predictions.jsonl.zst").read_bytes(), max_output_size=1 << 28)
    return [json.loads(line) for line in content.decode().splitlines()]


def without_times(scores: FinetuneScores) -> FinetuneScores:
    trials = [trial.model_copy(update={"seconds": 0.0}) for trial in scores.trials]
    return scores.model_copy(update={"trials": trials, "seconds": 0.0})


def test_what_it_writes(finished: Path) -> None:
    scores = scores_of(finished)
    assert (scores.name, scores.task, scores.table, scores.metric) == (
        "bert-baseline-50-s7",
        "marked",
        "offline",
        "accuracy",
    )
    asked = [(rate, seed) for rate in (1e-3, 3e-3) for seed in (1, 2, 3, 4)]
    assert [(trial.learning_rate, trial.seed) for trial in scores.trials] == asked
    assert {len(trial.epochs) for trial in scores.trials} == {2}
    assert {trial.steps for trial in scores.trials} == {20}
    column = scores.columns["Marked"]
    assert (scores.train_items, column.items, column.selection_items, column.cut_items) == (160, 60, 30, 0)
    assert scores.spec_digest == SPEC.digest
    assert not (finished / "state").exists()
    assert sorted(path.name for path in (finished / "out").iterdir()) == ["predictions.jsonl.zst", "scores.json"]


def test_its_values_follow_from_its_predictions(finished: Path) -> None:
    records = records_of(finished)
    for trial in scores_of(finished).trials:
        mine = [
            record
            for record in records
            if (record["learning_rate"], record["seed"], record["epoch"])
            == (trial.learning_rate, trial.seed, trial.published_epoch)
        ]
        assert [record["row"] for record in mine] == list(range(60))
        outputs = np.array([record["outputs"] for record in mine], dtype=np.float32)
        labels = np.array([record["label"] for record in mine])
        assert measure("accuracy", labels, outputs) == trial.epochs[trial.published_epoch - 1].decides


def test_a_second_time_gives_the_same(finished: Path, model: Path, marked: Path, tmp_path: Path) -> None:
    finetune.run(SPEC, model, marked, tmp_path / "state", tmp_path / "out")
    assert without_times(scores_of(tmp_path)) == without_times(scores_of(finished))
    assert records_of(tmp_path) == records_of(finished)


def test_killed_it_goes_on_with_what_is_not_done(finished: Path, model: Path, marked: Path, tmp_path: Path) -> None:
    """A process is killed (SIGKILL) after its first training; the next one runs the others and ends the same."""
    write_spec(tmp_path / "spec.yaml", SPEC)
    arguments = {"spec": "spec.yaml", "model": model, "dataset": marked, "state": "state", "out": "out"}
    options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dataeff", "finetune", *options], cwd=tmp_path, stdout=log, stderr=log
        )
        until = time.monotonic() + 240
        while not list((tmp_path / "state").glob("[!.]*.npz")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "out").exists()
    done = [path for path in (tmp_path / "state").iterdir() if not path.name.startswith(".")]
    assert 1 <= len(done) < 8
    before = {path.name: path.stat().st_mtime_ns for path in done}
    kept = finetune_again(SPEC, model, marked, tmp_path)
    assert f"{len(before)} of 8 trainings are done" in kept
    assert without_times(scores_of(tmp_path)) == without_times(scores_of(finished))
    assert records_of(tmp_path) == records_of(finished)


def finetune_again(spec: FinetuneSpec, model: Path, dataset: Path, folder: Path) -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        finetune.run(spec, model, dataset, folder / "state", folder / "out")
    return printed.getvalue()


def test_a_failing_run_leaves_no_results(model: Path, marked: Path, tmp_path: Path) -> None:
    """The trainings that were done stay for the next try."""
    spec = spec_of(recipe=recipe_of(learning_rates=[1e-3, 1e20], clip=1e30, epochs=1))
    with pytest.raises(DataeffError, match=r"bert-baseline-50-s7 on marked: learning rate 1e\+20, seed 1"):
        finetune.run(spec, model, marked, tmp_path / "state", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "state").iterdir())) == 2


def test_a_damaged_model_is_an_error_of_the_first_loss(model: Path, marked: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, tmp_path / "diverged"))
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.query.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataeffError, match="training loss not finite in epoch 1; look at the run's own training"):
        finetune.run(SPEC, folder, marked, tmp_path / "state", tmp_path / "out")


def test_a_model_of_another_vocabulary_is_an_error(model: Path, marked: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "other"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"more{number}": len(vocabulary) + number for number in range(100)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DataeffError, match="its tokenizer has 164 tokens but its model 128: different vocabularies"):
        finetune.run(SPEC, folder, marked, tmp_path / "state", tmp_path / "out")


def test_weights_that_lack_the_pooler_are_an_error(model: Path, marked: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, tmp_path / "headless"))
    weights = load_file(folder / "model.safetensors")
    del weights["bert.pooler.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataeffError, match=r"lacks 1 of the model's weights \(bert\.pooler\.dense\.weight\)"):
        finetune.run(SPEC, folder, marked, tmp_path / "state", tmp_path / "out")


def test_another_dataset_is_refused(model: Path, marked: Path, tmp_path: Path) -> None:
    spec = spec_of(task_of(data="other"))
    with pytest.raises(DataeffError, match="dataset 'marked'; task 'marked' is trained on 'other'"):
        finetune.run(spec, model, marked, tmp_path / "state", tmp_path / "out")


def test_data_that_are_not_here_are_named(model: Path, tmp_path: Path) -> None:
    manifest = fetched(tmp_path, "marked", {"train": marked_rows("train", 4), "validation": marked_rows("v", 4)})
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(DataeffError, match=r"dataset marked .* is missing; .*fetch-eval"):
        finetune.run(SPEC, model, manifest, tmp_path / "state", tmp_path / "out")


def _regression(random: np.random.Generator) -> Row:
    label = float(random.uniform(0, 5))
    return {"one": words(random, 3), "two": words(random, 4), "score": round(label, 3)}


def _choice(random: np.random.Generator) -> Row:
    options = [words(random, 2) for _ in range(3)]
    return {
        "passage": words(random, 12),
        "question": words(random, 3),
        "options": options,
        "answer": "ABC"[int(random.integers(3))],
    }


REGRESSION = task_of(data="made", inputs=["one", "two"], label="score", head="regression", labels=1, metric="spearman")
CHOICE = task_of(
    data="made",
    inputs=["passage", "question"],
    head="choice",
    choices="options",
    label="answer",
    labels=3,
    label_names=["A", "B", "C"],
    evaluation={"Dev": "validation", "Test": "test"},
)


@pytest.mark.parametrize(("task", "row"), [(REGRESSION, _regression), (CHOICE, _choice)], ids=["regression", "choice"])
def test_other_heads(
    model: Path, tmp_path: Path, task: FinetuneTask, row: Callable[[np.random.Generator], Row]
) -> None:
    random = np.random.default_rng(1)
    splits = {split: [row(random) for _ in range(12)] for split in ("train", "validation", "test")}
    manifest = fetched(tmp_path, "made", splits)
    spec = spec_of(task, recipe_of(epochs=1), name="made", train_items=8, evaluation_items=10)
    finetune.run(spec, model, manifest, tmp_path / "state", tmp_path / "out")
    scores = scores_of(tmp_path)
    assert scores.train_items == 8
    assert {column.items for column in scores.columns.values()} == {10}
    for column in scores.honest_rule.columns.values():
        assert -1 <= column.value <= 1
    shape = np.array(records_of(tmp_path)[0]["outputs"]).shape
    assert shape == (() if task.head == "regression" else (3,))
    assert scores.cut_train_items == 0
