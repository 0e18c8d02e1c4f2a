"""Megatron-DeepSpeed's options: those of the released scripts at the papers' scale, in a script that bash takes."""

import re
from pathlib import Path

import pytest

from dataeff.export import deepspeed
from dataeff.inquiry.options import deepspeed_arguments
from tests.export.megatron_options import options_of
from tests.inquiry.asking import Asked


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(deepspeed_arguments, deepspeed.run, capsys)


COMMON = {"--split": "949,50,1", "--clip-grad": "1", "--seed": "1234", "--fp16": "", "--num-layers": "24"}
GPT = {
    "--hidden-size": "2048",
    "--num-attention-heads": "16",
    "--seq-length": "2048",
    "--global-batch-size": "512",
    "--init-method-std": "0.013",
    "--min-lr": "1e-06",
    "--lr-decay-style": "cosine",
    "--lr-warmup-tokens": "3000000000",
    "--adam-beta1": "0.9",
    "--adam-beta2": "0.95",
    "--weight-decay": "0.1",
    "--tokenizer-type": "GPT2BPETokenizer",
}
BERT = {
    "--hidden-size": "1024",
    "--num-attention-heads": "16",
    "--seq-length": "512",
    "--global-batch-size": "1024",
    "--init-method-std": "0.02",
    "--min-lr": "1e-05",
    "--lr-decay-style": "linear",
    "--lr-warmup-iters": "10000",
    "--adam-beta2": "0.999",
    "--weight-decay": "0.01",
    "--tokenizer-type": "BertWordPieceLowerCase",
}


@pytest.mark.parametrize(
    ("percent", "billions", "rate"), [(100, 300, "0.0002"), (67, 200, "0.0003"), (50, 150, "0.0004")]
)
def test_gpt_rows(ask: Asked, tmp_path: Path, percent: int, billions: int, rate: str) -> None:
    found = options_of(ask, f"gpt-composed-{percent}-s1234", tmp_path)
    tokens = str(billions * 10**9)
    expected = {**COMMON, **GPT, "--train-tokens": tokens, "--lr-decay-tokens": tokens, "--lr": rate}
    assert {name: found.get(name) for name in expected} == expected
    assert {"--random-ltd", "--data-efficiency-curriculum-learning"} <= set(found)
    assert found["--train-doc-idx-path"].endswith("/data/pile/gpt2/gpt-2048/samples/doc_idx.npy")
    assert Path(found["--train-desc-path"]).is_file()
    assert "--train-iters" not in found


@pytest.mark.parametrize(
    ("percent", "steps", "rate"), [(100, 2_000_000, "0.0001"), (67, 1_340_000, "0.00015"), (50, 1_000_000, "0.0002")]
)
def test_bert_rows(ask: Asked, tmp_path: Path, percent: int, steps: int, rate: str) -> None:
    found = options_of(ask, f"bert-cl_voc-{percent}-s1234", tmp_path)
    expected = {**COMMON, **BERT, "--train-tokens": str(steps * 1024 * 512), "--lr": rate}
    assert {name: found.get(name) for name in expected} == expected
    assert found["--train-iters"] == str(2 * steps)
    assert found["--train-idx-path"].endswith("/data/pile/bert/bert-512/samples/samples_mapping.npy")
    assert not {"--train-samples", "--lr-warmup-tokens", "--random-ltd", "--train-desc-path"} & set(found)


def test_dropout_is_the_variants(ask: Asked, tmp_path: Path) -> None:
    for variant, dropout in (("ltd", "0.1"), ("ltd_no_dropout", "0")):
        (tmp_path / variant).mkdir()
        found = options_of(ask, f"bert-{variant}-100-s1234", tmp_path / variant)
        assert found["--attention-dropout"] == found["--hidden-dropout"] == dropout


@pytest.mark.parametrize(("final", "least"), [("1/3", "0.001"), ("1", "0.003"), ("7/30", "0.0007"), ("0", "0")])
def test_the_last_rate_is_the_variants(ask: Asked, tmp_path: Path, final: str, least: str) -> None:
    """Parts of the peak of half of the data."""
    settings = (f"variants={{gpt: {{mine: {{extends: cl_voc, final_lr: {final}}}}}}}",)
    found = options_of(ask, "gpt-mine-50-s1", tmp_path, "tiny", settings)
    assert (found["--lr"], found["--min-lr"]) == ("0.003", least)


def test_a_third_of_a_rate_keeps_its_digits(ask: Asked, tmp_path: Path) -> None:
    found = options_of(ask, "gpt-cl_voc_moderate-100-s1", tmp_path, "paper")
    assert (found["--lr"], found["--min-lr"]) == ("0.0002", "6.666666667e-05")


def test_the_shards_of_a_sharded_corpus_are_merged(ask: Asked, tmp_path: Path) -> None:
    found = options_of(ask, "gpt-baseline-100-s1234", tmp_path)
    assert found["--data-path"].endswith("/data/pile/gpt2/tokens/all")


def test_a_baseline_uses_none_of_it(ask: Asked, tmp_path: Path) -> None:
    found = options_of(ask, "gpt-baseline-100-s7", tmp_path, scale="tiny")
    assert not [name for name in found if re.search("ltd|data-efficiency|idx-path|desc-path|fp16|bf16", name)]
    assert found["--seed"] == "7"
    assert found["--split"] == "100,0,0"
    assert found["--eval-iters"] == "0"
    assert int(found["--train-samples"]) == 2 * 220 * 8
