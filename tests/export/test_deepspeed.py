"""The exported folder: whole, with what can be made from the data that is there, and never over other files."""

import json
from pathlib import Path

import numpy as np
import pytest

from dataeff.analyze.deepspeed_format import is_deepspeed_index, open_deepspeed_index, write_metric
from dataeff.errors import DataeffError
from dataeff.export import deepspeed
from dataeff.files import write_manifest
from dataeff.inquiry.options import deepspeed_arguments
from dataeff.tokens.indexed_dataset import IndexedDataset, write_indexed_arrays
from tests.analyze.native_index import write_native
from tests.inquiry.asking import Asked

RUN = "gpt-composed-50-s1234"
VALUES = np.random.default_rng(3).integers(0, 50, 400)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(deepspeed_arguments, deepspeed.run, capsys)


def words(tmp_path: Path, run: str = RUN) -> list[str]:
    return ["--run", run, "--out", str(tmp_path / "out")]


def settings(tmp_path: Path) -> tuple[str, ...]:
    return (f"results={tmp_path / 'results'}",)


def make_data(results: Path) -> Path:
    """Two token shards, samples, an index and a tokenizer, where a study at scale tiny has them."""
    data = results / "data/packages_small"
    for shard in ("00", "01"):
        (data / "bpe4k/tokens").mkdir(parents=True, exist_ok=True)
        arrays = [np.arange(5, dtype=np.uint16), np.arange(int(shard) + 3, dtype=np.uint16)]
        write_indexed_arrays(data / "bpe4k/tokens" / shard, arrays, np.dtype(np.uint16))
    samples = data / "bpe4k/gpt-256/samples"
    samples.mkdir(parents=True)
    for name in ("doc_idx", "sample_idx", "shuffle_idx"):
        np.save(samples / f"{name}.npy", np.arange(4))
    write_native(data / "bpe4k/gpt-256/analyze/vocab_rarity", "vocab_rarity", VALUES)
    write_manifest(data / "bpe4k/gpt-256/analyze/vocab_rarity")
    make_tokenizer(data / "bpe4k/tokenizer/tokenizer.json")
    return data


def make_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat and the dog saw the other cat there"] * 4, trainer)
    path.parent.mkdir(parents=True)
    backend.save(str(path))


def test_with_all_data_nothing_is_missing(ask: Asked, tmp_path: Path) -> None:
    make_data(tmp_path / "results")
    lines = ask(*words(tmp_path), "--merge-tokens", settings=settings(tmp_path))
    assert not any(line.startswith("still missing") for line in lines)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.txt",
        "ds_config.json",
        "index",
        "megatron_flags.sh",
        "samples.dsc",
        "vocabulary",
    ]
    assert "Still missing" not in (out / "README.txt").read_text()


def test_the_index_is_the_native_one(ask: Asked, tmp_path: Path) -> None:
    make_data(tmp_path / "results")
    ask(*words(tmp_path), settings=settings(tmp_path))
    index = open_deepspeed_index(tmp_path / "out/index/vocab_rarity", "vocab_rarity")
    assert index.values.tolist() == VALUES.tolist()
    metrics = json.loads((tmp_path / "out/ds_config.json").read_text())["data_efficiency"]["data_sampling"]
    for key in ("index_to_sample_path", "index_to_metric_path"):
        path = metrics["curriculum_learning"]["curriculum_metrics"]["voc"][key]
        assert Path(f"{path}.idx").is_file()


def test_merged_tokens_are_all_shards_in_order(ask: Asked, tmp_path: Path) -> None:
    data = make_data(tmp_path / "results")
    ask(*words(tmp_path), "--merge-tokens", settings=settings(tmp_path))
    merged = IndexedDataset(data / "bpe4k/tokens/all")
    shards = [IndexedDataset(data / "bpe4k/tokens" / shard) for shard in ("00", "01")]
    assert [row.tolist() for row in merged] == [row.tolist() for shard in shards for row in shard]
    assert f"--data-path {data / 'bpe4k/tokens/all'}" in (tmp_path / "out/megatron_flags.sh").read_text()


def test_megatrons_vocabulary_gives_the_same_tokens(ask: Asked, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    data = make_data(tmp_path / "results")
    ask(*words(tmp_path), settings=settings(tmp_path))
    folder = tmp_path / "out/vocabulary"
    ours = Tokenizer.from_file(str(data / "bpe4k/tokenizer/tokenizer.json"))
    theirs = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "the cat there saw Ünlike\n others"
    assert theirs.encode(text).ids == ours.encode(text).ids
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(ours.get_vocab_size()))
    assert vocabulary["<|endoftext|>"] == ours.token_to_id("<|endoftext|>")
    # Megatron drops the first line and what follows the last line feed.
    assert (folder / "merges.txt").read_text().startswith("#version")
    assert (folder / "merges.txt").read_text().endswith("\n")


def test_without_data_the_configuration_is_whole_and_what_is_missing_is_said(ask: Asked, tmp_path: Path) -> None:
    lines = ask(*words(tmp_path), settings=settings(tmp_path))
    missing = [line for line in lines if line.startswith("still missing")]
    assert [line.split(" (")[0] for line in missing] == [
        "still missing: the tokens",
        "still missing: the samples",
        "still missing: the index of vocab_rarity",
        "still missing: the tokenizer bpe4k",
    ]
    assert "Still missing" in (tmp_path / "out/README.txt").read_text()
    assert (tmp_path / "out/ds_config.json").is_file()


def test_an_index_of_ones_own(ask: Asked, tmp_path: Path) -> None:
    write_native(tmp_path / "native", "vocab_rarity", VALUES)
    write_metric(tmp_path / "native", tmp_path / "own/vocab_rarity")
    ask(*words(tmp_path), "--index-dir", str(tmp_path / "own"), settings=settings(tmp_path))
    text = (tmp_path / "out/ds_config.json").read_text()
    assert f"{tmp_path}/own/vocab_rarity/vocab_rarity_index_to_sample_percentile_merged" in text
    assert not (tmp_path / "out/index").exists()


def test_a_metric_without_an_index(ask: Asked, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(DataeffError, match=r"own/vocab_rarity/.*\.bin: no such file; gpt-composed-50-s1234 selects by"):
        ask(*words(tmp_path), "--index-dir", str(tmp_path / "own"))
    assert not (tmp_path / "out").exists()


def test_another_export_is_replaced_and_other_files_are_not(ask: Asked, tmp_path: Path) -> None:
    make_data(tmp_path / "results")
    ask(*words(tmp_path), settings=settings(tmp_path))
    ask(*words(tmp_path, "gpt-baseline-100-s1234"), settings=settings(tmp_path))
    assert not (tmp_path / "out/samples.dsc").exists()
    assert not is_deepspeed_index(tmp_path / "out/index/vocab_rarity", "vocab_rarity")
    (tmp_path / "out/checkpoints").mkdir()
    with pytest.raises(DataeffError, match=r"--out .*out: it holds checkpoints, which an export would remove"):
        ask(*words(tmp_path), settings=settings(tmp_path))
    assert (tmp_path / "out/checkpoints").is_dir()


def test_an_index_below_the_output_would_be_lost(ask: Asked, tmp_path: Path) -> None:
    write_native(tmp_path / "native", "vocab_rarity", VALUES)
    write_metric(tmp_path / "native", tmp_path / "out/vocabulary/vocab_rarity")
    with pytest.raises(DataeffError, match="it lies in --out"):
        ask(*words(tmp_path), "--index-dir", str(tmp_path / "out/vocabulary"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpus", "3"], "batch_size 8 is not a multiple of micro-batch 2 x 3 GPUs"),
        (["--gpus", "16"], "batch_size 8 is not a multiple of micro-batch 1 x 16 GPUs"),
        (["--micro-batch", "16"], "batch_size 8 is not a multiple of micro-batch 16 x 1 GPUs"),
        (["--micro-batch", "0"], "--micro-batch 0: at least 1"),
    ],
)
def test_a_batch_that_cannot_be_spread(ask: Asked, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        ask(*words(tmp_path), *more)


def test_the_micro_batch_is_at_most_the_batch(ask: Asked, tmp_path: Path) -> None:
    """Scale tiny takes 16 rows at once, of which BERT's batch has as many and GPT's 8."""
    for run, size in ((RUN, 8), ("bert-baseline-100-s1", 16)):
        ask(*words(tmp_path, run))
        config = json.loads((tmp_path / "out/ds_config.json").read_text())
        assert config["train_micro_batch_size_per_gpu"] == config["train_batch_size"] == size


def test_an_unknown_run(ask: Asked, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="did you mean 'composed'"):
        ask(*words(tmp_path, "gpt-compose-50-s1"))
