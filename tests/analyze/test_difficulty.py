"""The difficulty index: from token files to values, order and pools."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze import map as map_stage
from dataeff.analyze.difficulty import DifficultyIndex, analyze, frequency
from dataeff.analyze.metrics import MetricContext, vocab_rarity
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, sha256_file, write_json
from dataeff.samples import build, open_samples
from dataeff.study.specs import AnalyzeSpec, SamplesSpec, TokensSpec
from dataeff.study.types import BpeTokenizer
from dataeff.tokens.encode import encode
from dataeff.tokens.tokenizer import train

LENGTH = 16


def spec(metric: str = "vocab_rarity", length: int = LENGTH) -> AnalyzeSpec:
    return AnalyzeSpec(family="gpt", sequence_length=length, metric=metric)


class Corpus:
    """Two shards of text, taken as far as the sample index."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.samples, self.tokenizer = folder, folder / "samples", folder / "bpe"
        words = [f"word{n % 37} and {'rare' * (n % 5)} {n * n}" for n in range(600)]
        shards = [folder / "0.jsonl", folder / "1.jsonl"]
        write_documents(shards[0], [Document(" ".join(words[n : n + 15]), "test") for n in range(0, 300, 15)])
        write_documents(shards[1], [Document(" ".join(words[n : n + 40]), "test") for n in range(300, 600, 40)])
        train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=300)), shards, self.tokenizer)
        self.tokens = [folder / "tokens" / shard.stem for shard in shards]
        for shard, prefix in zip(shards, self.tokens, strict=True):
            encode(shard, self.tokenizer, prefix)
        build(SamplesSpec(family="gpt", sequence_length=LENGTH, seed=7), self.tokens, self.samples)
        self.frequency = folder / "frequency.npy"
        frequency(self.samples, self.tokens, self.tokenizer, self.frequency, threads=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"))


def test_index(corpus: Corpus, tmp_path: Path) -> None:
    analyze(spec(), corpus.samples, corpus.tokens, corpus.frequency, tmp_path / "out", threads=2)
    index = DifficultyIndex.open(tmp_path / "out")
    opened = open_samples(corpus.samples, corpus.tokens)
    context = MetricContext.of(LENGTH, np.load(corpus.frequency))
    expected = vocab_rarity(opened.batch(np.arange(len(opened))), context)
    assert len(index) == len(opened) > 100
    assert index.metric == "vocab_rarity"
    assert index.values.tolist() == expected.tolist()
    assert index.order.tolist() == sorted(range(len(opened)), key=lambda id: (expected[id], id))
    assert (index.values.dtype, index.order.dtype) == (np.uint8, np.uint32)
    assert len(set(expected.tolist())) < len(expected)  # equal values occur, so their order is tested
    facts = json.loads((tmp_path / "out" / "index.json").read_text())
    assert len(facts.pop("samples_digest")) == 64
    assert facts == {
        "metric": "vocab_rarity",
        "unit": "nats",
        "min": int(expected.min()),
        "max": int(expected.max()),
        "distinct": len(set(expected.tolist())),
        "family": "gpt",
        "sequence_length": LENGTH,
        "samples": len(opened),
        "frequency_sha256": sha256_file(corpus.frequency),
    }
    assert check_manifest(tmp_path / "out") is None


@pytest.mark.parametrize(("part_windows", "threads"), [(1, 3), (10, 1), (100, 2)])
def test_parts_and_threads_change_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_windows: int, threads: int
) -> None:
    analyze(spec(), corpus.samples, corpus.tokens, corpus.frequency, tmp_path / "whole", threads=1)
    monkeypatch.setattr(map_stage, "BLOCK_WINDOWS", part_windows)
    frequency(corpus.samples, corpus.tokens, corpus.tokenizer, tmp_path / "frequency.npy", threads)
    analyze(spec(), corpus.samples, corpus.tokens, corpus.frequency, tmp_path / "parts", threads)
    assert (tmp_path / "frequency.npy").read_bytes() == corpus.frequency.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["frequency.npy", "parts", "whole"]
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes(), file.name


def test_an_unknown_metric_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="unknown metric 'rarity'; did you mean 'vocab_rarity'"):
        analyze(spec("rarity"), corpus.samples, corpus.tokens, corpus.frequency, tmp_path / "out")


def test_a_metric_of_text_needs_no_frequencies(corpus: Corpus, tmp_path: Path) -> None:
    analyze(spec("flesch"), corpus.samples, corpus.tokens, None, tmp_path / "out", tokenizer=corpus.tokenizer)
    index = DifficultyIndex.open(tmp_path / "out")
    assert int(index.values.min()) > 8460  # a syllable a word at least
    assert json.loads((tmp_path / "out" / "index.json").read_text())["tokenizer_sha256"] == sha256_file(
        corpus.tokenizer / "tokenizer.json"
    )


def test_samples_of_another_length_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="gpt samples of 16 tokens, the spec wants gpt samples of 32"):
        analyze(spec(length=32), corpus.samples, corpus.tokens, corpus.frequency, tmp_path / "out")


@pytest.mark.parametrize(
    "counts", [None, np.zeros(0, dtype=np.int64), np.array([3, -1]), np.ones(385), np.ones((5, 5), int)]
)
def test_a_file_that_is_no_frequencies_is_refused(corpus: Corpus, tmp_path: Path, counts: Any) -> None:
    path = tmp_path / "frequency.npy"
    if counts is not None:
        np.save(path, counts)
    with pytest.raises(DataeffError, match=r"frequency\.npy: .*run `dataeff analyze frequency` again"):
        analyze(spec(), corpus.samples, corpus.tokens, path, tmp_path / "out")


def test_frequencies_of_a_smaller_vocabulary_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    np.save(tmp_path / "frequency.npy", np.ones(100, dtype=np.int64))
    with pytest.raises(DataeffError, match="the frequencies have 100 bins"):
        analyze(spec(), corpus.samples, corpus.tokens, tmp_path / "frequency.npy", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the index alone ---------------------------------------------------------------------------------------------


def write_index(folder: Path, values: list[int]) -> Path:
    folder.mkdir(exist_ok=True)
    array = np.array(values, dtype=np.int64)
    np.save(folder / "value.npy", array)
    np.save(folder / "order.npy", np.argsort(array, kind="stable").astype(np.uint32))
    write_json(folder / "index.json", {"metric": "m", "samples": len(values), "min": min(values), "max": max(values)})
    return folder


@given(st.lists(st.integers(0, 20), min_size=1, max_size=450), st.integers(0, 100), st.integers(-2, 22))
@settings(max_examples=100, deadline=None)
def test_pools(values: list[int], percentile: int, value: int) -> None:
    with TemporaryDirectory() as name:
        index = DifficultyIndex.open(write_index(Path(name) / "i", values))
        by_value = index.pool_size_at_value(value)
        by_percentile = index.pool_size_at_percentile(percentile)
        admitted = set(index.order[:by_value].tolist())
        easiest = index.values[index.order[:by_percentile]]
        hardest = index.values[index.order[by_percentile:]]
    assert admitted == {id for id, found in enumerate(values) if found <= value}
    hundredths = [*(percent * (len(values) // 100) for percent in range(100)), len(values)]
    assert by_percentile == hundredths[percentile]
    assert not len(easiest) or not len(hardest) or easiest.max() <= hardest.min()


@pytest.mark.parametrize("percentile", [-1, 101])
def test_percentiles_go_from_0_to_100(tmp_path: Path, percentile: int) -> None:
    index = DifficultyIndex.open(write_index(tmp_path / "i", [1, 2, 3]))
    with pytest.raises(ValueError, match="from 0 to 100"):
        index.pool_size_at_percentile(percentile)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("value.npy", np.array([3, 1]), "shape"),
        ("order.npy", np.array([1, 2]), "shape"),
        ("order.npy", np.array([1.0, 2.0, 0.0]), "integers"),
        ("value.npy", np.array([9, 1, 2]), "do not run from 1 to 3"),
        ("order.npy", np.array([0, 2, 1]), "do not run from 1 to 3"),
        ("order.npy", np.array([1, 2, 3]), "do not run from 1 to 3"),
        ("index.json", {"metric": "m"}, "not the facts"),
        ("index.json", {"metric": "m", "samples": 0, "min": 0, "max": 0}, "shape"),
        ("index.json", None, "no such file"),
        ("value.npy", None, "no such file"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, file: str, content: Any, message: str) -> None:
    folder = write_index(tmp_path / "i", [3, 1, 2])
    if content is None:
        (folder / file).unlink()
    elif file == "index.json":
        write_json(folder / file, content)
    else:
        np.save(folder / file, content)
    with pytest.raises(DataeffError, match=message):
        DifficultyIndex.open(folder)
