"""An untrained BERT of 2 layers x 32 in a run's folder, and small data sets of made-up words in local files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataeff import keyed
from dataeff.evaluate.datasets import FetchedDataset, fetch_dataset, read_dataset
from dataeff.families.bert_network import new_network
from dataeff.study.specs import DatasetSpec, FinetuneSpec
from dataeff.study.tasks import Dataset, FinetuneRecipe, FinetuneTask, LocalData
from dataeff.study.types import Model
from tests.families.pieces import write_tokenizer

Row = dict[str, Any]
POSITIONS = 32


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The tensors are too small to share out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an untrained BERT with its tokenizer and run.json."""

    def make(name: str = "bert", family: str = "bert", hidden: int = 32, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        tokenizer = write_tokenizer(folder)
        torch.manual_seed(seed)
        model = Model(layers=2, hidden=hidden, heads=2, sequence_length=POSITIONS, dropout=0.0, init_std=0.1)
        network = new_network(model, vocabulary=tokenizer.padded_vocab_size(), pad_id=tokenizer.pad_id)
        network.save_pretrained(folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        run = {"family": family, "variant": "baseline", "data": "1/2", "seed": 7}
        (folder / "run.json").write_text(json.dumps({"run": run, "name": f"{family}-baseline-50-s7", "steps": 3}))
        return folder

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Path]) -> Path:
    return make_model()


def words(random: np.random.Generator, count: int) -> str:
    return " ".join(f"w{chr(97 + letter)}0" for letter in random.integers(0, 20, count))


def marked_rows(purpose: str, count: int) -> list[Row]:
    """`sentence` and `label`: 1 where it begins with a word that no other sentence has."""
    rows = []
    for number in range(count):
        random = keyed.generator(1, purpose, number)
        label = int(random.integers(2))
        first = "wz0" if label else "wy0"
        rows.append({"sentence": f"{first} {words(random, int(random.integers(2, 12)))}", "label": label})
    return rows


def fetched(folder: Path, name: str, splits: dict[str, list[Row]]) -> Path:
    """The manifest of a dataset of these rows, from local files."""
    source = folder / f"{name}-files"
    source.mkdir(parents=True)
    for split, rows in splits.items():
        (source / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fetch_dataset(DatasetSpec(name=name, dataset=dataset_of(source, list(splits))), folder / "cache", folder / name)
    return folder / name


def dataset_of(source: Path, splits: list[str]) -> Dataset:
    return Dataset(about="made up", licence="CC0", fetch=LocalData(kind="path", path=str(source), splits=splits))


def opened(folder: Path, splits: dict[str, list[Row]], name: str = "marked") -> FetchedDataset:
    return read_dataset(fetched(folder, name, splits))


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 sentences to train on and 60 to score, whose first word is their class."""
    splits = {"train": marked_rows("train", 160), "validation": marked_rows("validation", 60)}
    return fetched(tmp_path_factory.mktemp("data"), "marked", splits)


def task_of(**changes: Any) -> FinetuneTask:
    fields: dict[str, Any] = {
        "about": "made up",
        "data": "marked",
        "table": "offline",
        "recipe": "small",
        "inputs": ["sentence"],
        "evaluation": {"Marked": "validation"},
    }
    return FinetuneTask(**{**fields, **changes})


def recipe_of(**changes: Any) -> FinetuneRecipe:
    fields: dict[str, Any] = {
        "about": "small",
        "epochs": 2,
        "batch_size": 16,
        "learning_rates": [3e-3],
        "seeds": [1, 2],
        "warmup": Fraction(1, 10),
        "max_length": 24,
    }
    return FinetuneRecipe(**{**fields, **changes})


def spec_of(task: FinetuneTask | None = None, recipe: FinetuneRecipe | None = None, **changes: Any) -> FinetuneSpec:
    fields: dict[str, Any] = {
        "name": "marked",
        "task": task or task_of(),
        "recipe": recipe or recipe_of(),
        "dataset": dataset_of(Path("anywhere"), ["train", "validation"]),
        "train_items": None,
        "evaluation_items": None,
    }
    return FinetuneSpec(**{**fields, **changes})
