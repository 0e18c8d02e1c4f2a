from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.model import FILES, ask_model, open_model
from dataeff.files import write_manifest


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


def test_a_tokenizer_of_the_same_size_but_another_one_is_an_error(copied: Path) -> None:
    """Two tokens change places: nothing but the run's own record of its files can tell."""
    write_manifest(copied)
    open_model(copied, 4)
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False))
    said = r"tokenizer\.json (does not match|has).* not as its training left it .*another model's file"
    with pytest.raises(DataeffError, match=said):
        open_model(copied, 4)
    with pytest.raises(DataeffError, match=said):
        ask_model(copied, 4)


def test_a_record_without_a_run_is_an_error(copied: Path) -> None:
    (copied / "run.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(DataeffError, match=r"run\.json: run: this key is missing"):
        open_model(copied, 4)


# --- models that are no runs of the study ---------------------------------------------------------------------


@pytest.fixture
def foreign(model: Path, tmp_path: Path) -> Path:
    """The same weights as anyone would have them: no run.json."""
    folder = Path(shutil.copytree(model, tmp_path / "small-gpt2"))
    (folder / "run.json").unlink()
    return folder


def test_a_run_is_asked_as_itself_and_any_other_folder_by_its_name(model: Path, foreign: Path) -> None:
    ours, theirs = ask_model(model, 4), ask_model(foreign, 4)
    assert ours.run is not None
    assert (ours.name, theirs.run, theirs.name) == ("gpt-baseline-50-s7", None, "small-gpt2")
    assert ours.digest == theirs.digest
    assert str(theirs.lm.model.dtype) == "torch.float32"
    assert not theirs.lm.model.training
    assert ours.lm.max_length == theirs.lm.max_length == 256


def test_a_run_that_lacks_its_record_is_no_foreign_model(foreign: Path) -> None:
    (foreign / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(DataeffError, match=r"lacks run\.json; this is no finished run"):
        ask_model(foreign, 4)


def test_weights_in_parts_have_one_digest(foreign: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(foreign)
    (foreign / "model.safetensors").unlink()
    network.save_pretrained(foreign, max_shard_size="200KB")
    parts = sorted(file.name for file in foreign.glob("*.safetensors"))
    assert len(parts) > 1
    first = ask_model(foreign, 4)
    assert len(first.digest) == 64
    assert first.digest == ask_model(foreign, 4).digest


def test_a_foreign_folder_must_be_whole(foreign: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(foreign / "model.safetensors")
    whole = (foreign / "model.safetensors").read_bytes()
    save_file(
        {name: tensor for name, tensor in weights.items() if "h.1.attn" not in name},
        foreign / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(DataeffError, match=r"the weights lack 4 of the model's \(transformer\.h\.1\.attn"):
        ask_model(foreign, 4)
    (foreign / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataeffError, match=r"cannot be opened .* put a whole model and its tokenizer there"):
        ask_model(foreign, 4)
    (foreign / "model.safetensors").unlink()
    with pytest.raises(DataeffError, match="it lacks weights"):
        ask_model(foreign, 4)
    (foreign / "config.json").unlink()
    with pytest.raises(DataeffError, match=r"it lacks config\.json, weights"):
        ask_model(foreign, 4)


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(make_model: Callable[..., Path]) -> None:
    folder = make_model("narrow", vocabulary=3000)
    (folder / "run.json").unlink()
    with pytest.raises(DataeffError, match="its tokenizer has 4096 tokens but its model 3000: different vocabularies"):
        ask_model(folder, 4)


def test_a_name_of_the_hub_is_taken_from_its_cache_or_refused(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DataeffError, match=r"own/small: neither a folder nor .* `hf download own/small` where"):
        ask_model(Path("own/small"), 4)
    cached, revision = tmp_path / "hub" / "models--own--small", "a" * 40
    shutil.copytree(foreign, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert ask_model(Path("own/small"), 4).name == "own/small"


def test_a_path_that_is_no_folder_is_no_name_of_the_hub(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", Path("results/tiny/pretrain/gpt-baseline-100-s1234")):
        with pytest.raises(DataeffError, match="no such folder; this is no finished run, finish `pretrain`"):
            ask_model(path, 4)
