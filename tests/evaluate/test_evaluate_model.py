from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.model import FILES, open_model


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "run"))


def test_a_finished_run_opens_in_float32_and_eval_mode(model: Path) -> None:
    opened = open_model(model, batch_size=4)
    assert opened.name == "gpt-baseline-50-s7"
    assert opened.run.name == opened.name
    assert opened.sequence_length == 256
    assert str(opened.lm.model.dtype) == "torch.float32"
    assert not opened.lm.model.training


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="no such folder; this is no finished run"):
        open_model(tmp_path / "absent", 4)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(DataeffError, match=f"lacks {name}"):
        open_model(copied, 4)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "run.json"])
def test_a_half_written_file_is_an_error(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataeffError, match=r"cannot be opened|not JSON"):
        open_model(copied, 4)


def test_weights_that_lack_a_layer_are_an_error(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    del weights["transformer.h.1.ln_1.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataeffError, match=r"lacks 1 of the model's weights \(transformer\.h\.1\.ln_1\.weight\)"):
        open_model(copied, 4)


@pytest.mark.parametrize("vocabulary", [4000, 4352])
def test_a_model_of_another_vocabulary_is_an_error(make_model: Callable[..., Path], vocabulary: int) -> None:
    folder = make_model(f"vocabulary-{vocabulary}", vocabulary=vocabulary)
    with pytest.raises(DataeffError, match=f"4096 tokens but its model {vocabulary}"):
        open_model(folder, 4)


def test_a_record_without_a_run_is_an_error(copied: Path) -> None:
    (copied / "run.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(DataeffError, match=r"run\.json: run: this key is missing"):
        open_model(copied, 4)
