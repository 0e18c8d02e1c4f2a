"""The example of docs/finetune.md: a task in local files of GLUE's layout, from the configuration to its scores."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff import finetune
from dataeff.evaluate.datasets import fetch_dataset
from dataeff.finetune.scores import read_finetune_scores
from dataeff.study.specs import DatasetSpec, finetune_specs
from tests import factory


def documented() -> dict[str, Any]:
    [block] = re.findall(r"```yaml\n(.*?)```", (factory.ROOT / "docs" / "finetune.md").read_text(), re.DOTALL)
    found: dict[str, Any] = yaml.safe_load(block)
    return found


def write_tsv(path: Path, count: int) -> None:
    """RTE's columns; a quotation mark is a character like any other."""
    labels = ["entailment", "not_entailment"]
    lines = [f'{number}\tHe said "wa{number}.\twb{number} fell.\t{labels[number % 2]}' for number in range(count)]
    path.write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n")


def test_a_task_in_glues_layout(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = factory.load(factory.config(**documented()))
    specs = finetune_specs(study)
    assert list(specs) == ["my_rte"]
    spec = specs["my_rte"]
    assert (spec.recipe.learning_rates, spec.recipe.seeds, spec.recipe.batch_size) == ([5e-4], [1, 2, 3], 32)
    monkeypatch.chdir(tmp_path)
    folder = Path("data/my_rte")
    folder.mkdir(parents=True)
    write_tsv(folder / "train.tsv", 40)
    write_tsv(folder / "dev.tsv", 10)
    fetch_dataset(DatasetSpec(name="my_rte", dataset=spec.dataset), tmp_path / "cache", tmp_path / "my_rte.json")
    finetune.run(spec, model, tmp_path / "my_rte.json", tmp_path / "state", tmp_path / "out")
    scores = read_finetune_scores(tmp_path / "out" / "scores.json")
    assert (scores.table, scores.train_items, scores.columns["My RTE"].items) == ("mine", 40, 10)
    assert len(scores.trials) == 3
    assert scores.honest_rule.columns["My RTE"].half_width is not None
