"""A shard's documents become its sequences, each with the end-of-text token at its end and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataeff import progress
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.study.specs import TokensSpec
from dataeff.study.types import BpeTokenizer
from dataeff.tokens import encode as stage
from dataeff.tokens.encode import Encoded, encode
from dataeff.tokens.indexed_dataset import IndexedDataset
from dataeff.tokens.tokenizer import load, train

TEXTS = ["The first text.", "", "Another: wörld 漢字 <|endoftext|> !", "x", "", "The last text, the longest of all."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_documents(
        folder / "00.jsonl", [Document(" ".join(f"The {n}th text of {n * n} words." for n in range(200)), "test")]
    )
    train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=300)), [folder / "00.jsonl"], folder / "bpe")
    return folder / "bpe"


def shard(folder: Path, texts: list[str]) -> Path:
    write_documents(folder / "00.jsonl.zst", [Document(text, "test") for text in texts])
    return folder / "00.jsonl.zst"


@pytest.mark.parametrize("batch_characters", [1, 20, 1_000_000])
def test_one_sequence_per_document(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_characters: int
) -> None:
    monkeypatch.setattr(stage, "BATCH_CHARACTERS", batch_characters)
    result = encode(shard(tmp_path, TEXTS), tokenizer, tmp_path / "tokens" / "00")
    encoder, dataset = load(tokenizer), IndexedDataset(tmp_path / "tokens" / "00")
    filled = [text for text in TEXTS if text]
    assert [dataset[number].tolist() for number in range(len(dataset))] == [
        [*encoder.encode(text), encoder.eos_id] for text in filled
    ]
    assert (dataset.tokens == encoder.eos_id).sum() == len(filled)
    assert [encoder.decode(dataset[number][:-1]) for number in range(len(dataset))] == filled
    assert result == Encoded(4, 2, sum(map(len, filled)), dataset.token_count)


def test_progress_tells_the_time_left(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "BATCH_CHARACTERS", 1)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    encode(shard(tmp_path, ["a" * 30, "b" * 10]), tokenizer, tmp_path / "00")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tokens 00: 75% of 40 characters")
    assert lines[0].endswith(" left")
    assert lines[1].startswith("tokens 00: 100%")


def test_a_damaged_shard_leaves_nothing(tokenizer: Path, tmp_path: Path) -> None:
    path = shard(tmp_path, TEXTS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataeffError, match=r"00\.jsonl\.zst"):
        encode(path, tokenizer, tmp_path / "tokens" / "00")
    assert not (tmp_path / "tokens" / "00.bin").exists()
    assert not (tmp_path / "tokens" / "00.idx").exists()
