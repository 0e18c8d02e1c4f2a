"""Small datasets in the layouts of the harness's own tasks, fetched as local data are, and tasks on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from dataeff.evaluate.datasets import fetch_dataset
from dataeff.study.specs import DatasetSpec, EvaluateSpec
from dataeff.study.tasks import Dataset, HarnessTask, LocalData

Row = dict[str, Any]
WORDS = [word for name in sorted(topics) for word in topics[name].split() if word.isalpha()]


def text(start: int, count: int) -> str:
    return " ".join(WORDS[start % 20_000 : start % 20_000 + count])


def winogrande(count: int, start: int = 0) -> list[Row]:
    return [
        {
            "sentence": f"{text(number * 31 + start, 6)} _ {text(number * 37 + start, 5)}.",
            "option1": text(number * 3 + start, 1),
            "option2": text(number * 5 + start, 2),
            "answer": str(number % 2 + 1),
        }
        for number in range(count)
    ]


def openbookqa(count: int, start: int = 0) -> list[Row]:
    return [
        {
            "id": str(number),
            "question_stem": text(number * 41 + start, 8),
            "choices": {"label": list("ABCD"), "text": [text(number * 7 + at * 50 + start, at + 1) for at in range(4)]},
            "answerKey": "ABCD"[number % 4],
        }
        for number in range(count)
    ]


def lambada(count: int) -> list[Row]:
    return [{"text": text(number * 53, 12)} for number in range(count)]


def wikitext(count: int) -> list[Row]:
    return [
        {"page": f" = {text(number, 2)} = \n {text(number * 59, 60 + 40 * number)} @-@ end . \n"}
        for number in range(count)
    ]


def triviaqa(count: int, start: int = 0) -> list[Row]:
    return [
        {
            "question": f"{text(number * 61 + start, 7)}",
            "answer": {"value": text(number + start, 1), "aliases": [text(number + start, 1), text(number + start, 2)]},
        }
        for number in range(count)
    ]


ROWS: dict[str, dict[str, list[Row]]] = {
    "winogrande": {"train": winogrande(12, 5000), "validation": winogrande(14)},
    "openbookqa": {"train": openbookqa(12, 5000), "test": openbookqa(14)},
    "lambada": {"test": lambada(13)},
    "wikitext": {"test": wikitext(4)},
    "triviaqa": {"train": triviaqa(8, 5000), "validation": triviaqa(6)},
}


def fetched(root: Path, name: str, rows: dict[str, list[Row]] | None = None) -> tuple[Dataset, Path]:
    """A dataset of `rows` (of ROWS where none are given) and the manifest of it as fetched."""
    folder = root / "source" / name
    folder.mkdir(parents=True)
    splits = ROWS[name] if rows is None else rows
    for split, content in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    dataset = Dataset(
        about=f"rows like those of {name}",
        licence="none",
        fetch=LocalData(kind="path", path=str(folder), splits=list(splits)),
    )
    manifest = root / f"{name}.json"
    fetch_dataset(DatasetSpec(name=name, dataset=dataset), root / "cache", manifest)
    return dataset, manifest


def task(name: str, data: str, metric: str, **changes: Any) -> HarnessTask:
    fields: dict[str, Any] = {
        "kind": "harness",
        "about": f"{name} on made-up rows",
        "group": "made_up",
        "task": name,
        "version": 1.0,
        "data": data,
        "metric": metric,
    }
    return HarnessTask(**{**fields, **changes})


TASKS = {
    "winogrande": task("winogrande", "winogrande", "acc", chance=0.5, published_as="winogrande"),
    "openbookqa": task("openbookqa", "openbookqa", "acc_norm", chance=0.25),
    "lambada": task("lambada_openai", "lambada", "acc"),
    "lambada_perplexity": task("lambada_openai", "lambada", "perplexity", higher_is_better=False, averaged=False),
    "wikitext": task("wikitext", "wikitext", "word_perplexity", version=2.0, shots=[0], higher_is_better=False),
    "triviaqa": task("triviaqa", "triviaqa", "exact_match", version=3.0),
}


def group_spec(
    datasets: dict[str, Dataset], names: Sequence[str], shots: Sequence[int] = (0, 3), **changes: Any
) -> EvaluateSpec:
    """A spec of these tasks at `shots`, 10 items of each."""
    fields: dict[str, Any] = {
        "group": "made_up",
        "harness": version("lm_eval"),
        "tasks": {name: TASKS[name] for name in names},
        "datasets": {TASKS[name].data: datasets[TASKS[name].data] for name in names},
        "shots": list(shots),
        "items": 10,
        "batch_size": 4,
    }
    return EvaluateSpec(**{**fields, **changes})
