"""The reader is right: lm-eval's own command line against ours, on one folder, one task file and one dataset."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff import evaluate
from dataeff.evaluate.definitions import read_definition
from dataeff.evaluate.records import read_records
from dataeff.evaluate.scores import read_scores
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import TASKS, group_spec

SPLITS = ("training_split", "validation_split", "test_split")
ITEMS = 8


def task_file(folder: Path, name: str, made_up: MadeUp) -> str:
    """A user's own YAML of the task on local rows, as the harness's guide has it; its name in the command line."""
    task, own = TASKS[name], f"own_{name}"
    source = made_up.datasets[task.data].fetch
    definition = read_definition(task.task, "here")
    files = {split: f"{getattr(source, 'path')}/{split}.jsonl" for split in source.splits}  # type: ignore[union-attr] # noqa: B009
    document: dict[str, Any] = {
        "include": str(definition.path),
        "task": own,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        **{key: None for key in SPLITS if definition.content.get(key) not in files},
    }
    if definition.example_split == definition.evaluated_split:
        # What the harness needs to leave an item out of its own examples; ours adds it to every such task.
        document["fewshot_split"] = definition.evaluated_split
    (folder / f"{own}.yaml").write_text(yaml.safe_dump(document))
    return own


def command_line(model: Path, names: list[str], shots: int, tasks: Path, work: Path) -> tuple[Any, dict[str, Any]]:
    """(results, samples by task) as `lm_eval run` writes them, without a network and apart from the home folder."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype=float32,logits_cache=False", "--tasks", ",".join(names)]
    command += ["--include_path", str(tasks), "--num_fewshot", str(shots), "--limit", str(ITEMS)]
    command += ["--batch_size", "4", "--device", "cpu", "--output_path", str(work / "out"), "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(work / "home")}
    subprocess.run(command, check=True, env={**os.environ, **offline}, capture_output=True, timeout=500)
    (results,) = (work / "out").rglob("results_*.json")
    samples = {}
    for name in names:
        (file,) = (work / "out").rglob(f"samples_{name}_*.jsonl")
        found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        samples[name] = sorted(found, key=lambda sample: int(sample["doc_id"]))
    return json.loads(results.read_text()), samples


@pytest.mark.parametrize(
    ("shots", "names"),
    [
        (3, ["winogrande", "openbookqa"]),
        pytest.param(0, ["winogrande", "openbookqa", "lambada", "wikitext", "triviaqa"], marks=pytest.mark.slow),
        pytest.param(3, ["winogrande", "openbookqa", "lambada", "triviaqa"], marks=pytest.mark.slow),
    ],
)
def test_items_and_metrics_equal_those_of_the_harness_s_command_line(
    shots: int, names: list[str], made_up: MadeUp, long_model: Path, tmp_path: Path
) -> None:
    """On an untrained GPT-2 as a user would have it: no run of the study, just a folder."""
    folder = Path(shutil.copytree(long_model, tmp_path / "gpt2"))
    (folder / "run.json").unlink()
    spec = group_spec(made_up.datasets, names, shots=(shots,), items=ITEMS)
    evaluate.run(spec, folder, [], made_up.of(spec), tmp_path / "state", tmp_path / "ours")
    place = tmp_path / "ours" / f"{shots}shot"
    ours, scores = read_records(place / "items.jsonl.zst"), read_scores(place / "scores.json").tasks

    (tmp_path / "tasks").mkdir()
    own = {name: task_file(tmp_path / "tasks", name, made_up) for name in names}
    results, samples = command_line(folder, list(own.values()), shots, tmp_path / "tasks", tmp_path)
    for name in names:
        theirs = samples[own[name]]
        assert [record["prompt_sha256"] for record in ours[name]] == [sample["prompt_hash"] for sample in theirs]
        for record, sample in zip(ours[name], theirs, strict=True):
            for response, (other,) in zip(record["responses"], sample["resps"], strict=True):
                assert_equal(response, other)
            for metric, value in record["metrics"].items():
                assert_equal(value, sample[metric])
        values = results["results"][own[name]]
        key = next(key for key in values if key.startswith(f"{scores[name].metric},"))
        assert scores[name].value == pytest.approx(values[key], rel=1e-6)
        error = values[key.replace(",", "_stderr,", 1)]
        if isinstance(error, float):
            assert scores[name].standard_error == pytest.approx(error, rel=1e-6)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Texts and flags exactly, log-likelihoods to the float32 that they are sums of."""
    if isinstance(ours, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif isinstance(ours, bool | str):
        assert str(ours) == str(theirs)
    else:
        assert ours == pytest.approx(float(theirs), rel=1e-6, abs=1e-5)
