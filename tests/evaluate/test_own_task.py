"""The example of docs/evaluate.md: a task of one's own on local items, from the configuration to its scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff import evaluate
from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import fetch_dataset
from dataeff.evaluate.scores import read_scores
from dataeff.study.specs import DatasetSpec, evaluate_specs
from tests import factory
from tests.evaluate.local_data import text


def documented() -> tuple[str, dict[str, Any]]:
    """The definition and the configuration."""
    content = (factory.ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    definition, configuration = re.findall(r"```yaml\n(.*?)```", content, re.DOTALL)
    return definition, yaml.safe_load(configuration)


def write_items(path: Path, count: int, start: int = 0) -> None:
    rows = [
        {"question": text(start + number * 13, 7), "choices": ["billing", "shipping"], "label": number % 2}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_definition_of_ones_own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    definition, configuration = documented()
    with pytest.raises(DataeffError, match=r"tasks\.tickets\.task: no such file .*my_tasks/tickets\.yaml; write the"):
        factory.load(factory.config(**configuration))
    Path("my_tasks").mkdir()
    Path("my_tasks/tickets.yaml").write_text(definition, encoding="utf-8")
    spec = evaluate_specs(factory.load(factory.config(**configuration)))["ours"]
    folder = Path("data/tickets")
    folder.mkdir(parents=True)
    write_items(folder / "train.jsonl", 8, start=9000)
    write_items(folder / "dev.jsonl", 12)
    fetch_dataset(DatasetSpec(name="tickets", dataset=spec.datasets["tickets"]), Path("cache"), Path("tickets.json"))
    evaluate.run(spec, model, [], [Path("tickets.json")], Path("state"), Path("out"))
    for shots in (0, 2):
        score = read_scores(Path("out") / f"{shots}shot" / "scores.json").tasks["tickets"]
        assert (score.items, score.task, score.metric) == (12, "my_tasks/tickets.yaml", "acc")
