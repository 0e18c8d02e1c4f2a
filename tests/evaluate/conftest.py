"""Held-out prose (Python's reference manual, as pydoc ships it), a BPE of 4,096 and untrained models."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import zstandard

from dataeff.files import read_yaml
from dataeff.study.faults import validate
from dataeff.study.load import TasksFile
from dataeff.study.specs import EvaluateSpec, HeldoutSpec, ItemsSpec
from dataeff.study.tasks import Dataset, HeldoutTask
from tests.evaluate.local_data import ROWS, fetched

ROOT = Path(__file__).resolve().parents[2]
END = "<|endoftext|>"


def _write_domain(path: Path, domain: str, texts: list[str]) -> None:
    lines = "".join(json.dumps({"text": text, "meta": {"pile_set_name": domain}}) + "\n" for text in texts)
    path.write_bytes(zstandard.compress(lines.encode()))


@pytest.fixture(scope="session")
def write_domain() -> Callable[[Path, str, list[str]], None]:
    """Writes one domain's held-out file as the corpus stage does."""
    return _write_domain


@pytest.fixture
def diverged(model: Path, tmp_path: Path) -> Path:
    """A copy of the model with one weight that is not a number."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(model, tmp_path / "diverged"))
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.mlp.c_fc.weight"][0, 0] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of prose and one of code whose docstrings hold sentences too."""
    folder = tmp_path_factory.mktemp("heldout")
    texts = [topics[name].strip() for name in sorted(topics)]
    _write_domain(folder / "language.jsonl.zst", "Language Reference", texts[0::2])
    _write_domain(folder / "library.jsonl.zst", "Library (prose)", texts[1::2])
    code = '"""The code is never an item here."""\n\nprint("größer als 7 → ok")\n'
    _write_domain(folder / "github.jsonl.zst", "Github", [code * 20, code])
    return folder


@pytest.fixture(scope="session")
def tasks() -> dict[str, HeldoutTask]:
    """Those of config/tasks.yaml whose items are made from held-out text."""
    path = ROOT / "config" / "tasks.yaml"
    found = validate(TasksFile, read_yaml(path), str(path)).tasks
    return {name: task for name, task in found.items() if isinstance(task, HeldoutTask)}


@pytest.fixture(scope="session")
def items(heldout: Path, tasks: dict[str, HeldoutTask], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One folder of items per task of config/tasks.yaml."""
    from dataeff.evaluate.items import build

    root = tmp_path_factory.mktemp("items")
    for name, task in tasks.items():
        build(ItemsSpec(tasks={name: task}), heldout, root / name)
    return [root / name for name in tasks]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes an untrained GPT-2 with its tokenizer and run.json; `vocabulary` and `positions` may be set."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([topics[name] for name in sorted(topics)], trainer)

    def make(name: str, vocabulary: int = 4096, positions: int = 256) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, unk_token=END)
        tokenizer.save_pretrained(folder)
        set_seed(1)
        sizes = {"n_positions": positions, "n_embd": 32, "n_layer": 2, "n_head": 2}
        config = GPT2Config(vocab_size=vocabulary, **sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.3)
        GPT2LMHeadModel(config).save_pretrained(folder)
        run = {"family": "gpt", "variant": "baseline", "data": "1/2", "seed": 7}
        (folder / "run.json").write_text(json.dumps({"run": run, "name": "gpt-baseline-50-s7", "steps": 3}))
        return folder

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Path]) -> Path:
    return make_model("model")


@pytest.fixture(scope="session")
def spec(tasks: dict[str, HeldoutTask]) -> EvaluateSpec:
    return EvaluateSpec(
        group="probes",
        harness=version("lm_eval"),
        tasks=tasks,
        datasets={},
        shots=[0, 2],
        items=12,
        batch_size=4,
    )


@pytest.fixture(scope="session")
def heldout_spec() -> HeldoutSpec:
    return HeldoutSpec(heldout_bytes_per_domain=5000, batch_size=4)


@dataclass(frozen=True)
class MadeUp:
    """Datasets in the layouts of the harness's tasks, each with the manifest of it as fetched."""

    datasets: dict[str, Dataset]
    manifests: dict[str, Path]

    def of(self, spec: EvaluateSpec) -> list[Path]:
        return [self.manifests[name] for name in spec.datasets]


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    root = tmp_path_factory.mktemp("made_up")
    found = {name: fetched(root, name) for name in ROWS}
    return MadeUp({name: pair[0] for name, pair in found.items()}, {name: pair[1] for name, pair in found.items()})


@pytest.fixture(scope="session")
def long_model(make_model: Callable[..., Path]) -> Path:
    """Its context has room for what a generation writes."""
    return make_model("long", positions=512)
