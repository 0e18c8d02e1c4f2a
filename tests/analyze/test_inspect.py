"""What `dataeff inspect` shows: percentiles, bars, samples, a picture; of every form of an index."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze import inspect_command
from dataeff.analyze.deepspeed_format import write_metric
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.inspect import (
    PERCENTILES,
    ROWS,
    WIDTH,
    Bins,
    find_index,
    histogram,
    percentile_table,
    safe_text,
    value_at,
)
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.files import write_json
from dataeff.samples import build
from dataeff.study.specs import SamplesSpec, TokensSpec
from dataeff.study.types import BpeTokenizer
from dataeff.tokens.encode import encode
from dataeff.tokens.tokenizer import train
from tests.analyze.native_index import write_native

LENGTH = 16


def index_of(values: list[int]) -> DifficultyIndex:
    array = np.array(values, dtype=np.int64)
    return DifficultyIndex("vocab_rarity", array, np.argsort(array, kind="stable"))


value_lists = st.one_of(
    st.lists(st.integers(0, 9), min_size=1, max_size=500),
    st.lists(st.integers(0, 10**12), min_size=1, max_size=500),
    st.lists(st.integers(-50, 50), min_size=1, max_size=50),
)


@given(value_lists, st.sampled_from([1, 7, 20, 80]))
@settings(max_examples=100, deadline=None)
def test_bins_hold_every_sample_once(values: list[int], rows: int) -> None:
    bins = Bins.of(index_of(values), rows)
    assert bins.below + bins.counts.sum() + bins.above == len(values)
    assert 1 <= len(bins.counts) <= rows
    for low, high, count in zip(bins.edges, bins.edges[1:], bins.counts.tolist(), strict=False):
        assert count == sum(low <= value < high for value in values)
    assert bins.below == sum(value < bins.edges[0] for value in values) <= len(values) // 200
    assert bins.above == sum(value >= bins.edges[-1] for value in values) <= len(values) // 200


@given(value_lists)
@settings(max_examples=60, deadline=None)
def test_the_bars_fit_a_terminal(values: list[int]) -> None:
    lines = histogram(index_of(values)).splitlines()
    assert len(lines) <= ROWS
    assert max(map(len, lines)) <= WIDTH
    assert sum(float(line.rsplit(" ", 1)[1][:-1]) for line in lines) == pytest.approx(100, abs=0.05 * len(lines) + 0.01)


@given(value_lists)
@settings(max_examples=60, deadline=None)
def test_a_percentile_s_value_covers_that_share_and_no_less_value_does(values: list[int]) -> None:
    index = index_of(values)
    for percentile in PERCENTILES:
        value = value_at(index, percentile)
        assert 100 * sum(other <= value for other in values) >= percentile * len(values)
        assert 100 * sum(other < value for other in values) < percentile * len(values)


def test_the_table_has_a_column_per_metric() -> None:
    lines = percentile_table([index_of([5, 1_000]), index_of([7, 7])]).splitlines()
    assert lines[0].split() == ["vocab_rarity", "vocab_rarity"]
    assert lines[-1].split() == ["100%", "1,000", "7"]
    assert len({len(line) for line in lines}) == 1


def test_text_cannot_steer_the_terminal() -> None:
    assert safe_text("a\x1b[31mred\r\x07\tb\nc\u202e\x9b", 300) == "a\\x1b[31mred\\r\\x07⇥ b⏎ c\\u202e\\x9b"
    assert safe_text("x" * 301, 300) == "x" * 300 + "…"
    assert safe_text("naïve 数", 300) == "naïve 数"


class Analysis:
    """A corpus, its samples, and an index in both forms, as a standalone analysis leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tokenizer, self.prefix = folder, folder / "bpe", folder / "tokens"
        documents = [Document(f"number {n}: {'plain ' * (n % 7)}\x1b[31m words", "test") for n in range(300)]
        write_documents(folder / "0.jsonl", documents)
        train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=300)), [folder / "0.jsonl"], self.tokenizer)
        encode(folder / "0.jsonl", self.tokenizer, self.prefix)
        self.out = folder / "out"
        build(SamplesSpec(family="gpt", sequence_length=LENGTH, seed=7), [self.prefix], self.out / "samples")
        self.samples = len(np.load(self.out / "samples" / "shuffle_idx.npy"))
        values = np.random.default_rng(0).integers(100, 200, self.samples)
        values[[3, 5]] = 1, 999
        write_native(self.out / "vocab_rarity", "vocab_rarity", values)
        write_native(folder / "native" / "mtld", "mtld", values)
        write_metric(folder / "native" / "mtld", self.out / "mtld")
        write_json(self.out / "analyze.json", {"token_files": [{"prefix": str(self.prefix)}], "special_ids": None})


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return Analysis(tmp_path_factory.mktemp("analysis"))


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    parser = ArgumentParser()
    inspect_command.add_arguments(parser)
    inspect_command.run(parser.parse_args([str(argument) for argument in arguments]))
    return capsys.readouterr().out


def test_easiest_and_hardest_as_text(analysis: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, analysis.out / "vocab_rarity", "--tokenizer", analysis.tokenizer, "--samples", 1)
    assert "how rare a sample's tokens are" in told
    assert "values 1 to 999, native form" in told
    assert told.index("easiest: sample 3, vocab_rarity 1, 17 tokens") < told.index(
        "hardest: sample 5, vocab_rarity 999"
    )
    assert "\\x1b" in told
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) <= 80


def test_without_a_tokenizer_it_says_what_is_missing(analysis: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, analysis.out, "--metric", "vocab_rarity")
    assert "shown as token ids: their text needs --tokenizer FOLDER" in told


def test_deepspeeds_form_shows_the_same(analysis: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
    one = shown(capsys, analysis.folder / "native" / "mtld", "--samples", 0)
    other = shown(capsys, analysis.out / "mtld", "--samples", 0)
    assert other == one.replace("native form", "DeepSpeed's form")


def test_places_by_options(analysis: Analysis, capsys: pytest.CaptureFixture[str]) -> None:
    folder = analysis.folder / "native"
    assert "say where they lie: --samples-dir FOLDER" in shown(capsys, folder)
    options = [
        "--samples-dir",
        analysis.out / "samples",
        "--tokens",
        analysis.prefix,
        "--tokenizer",
        analysis.tokenizer,
    ]
    assert "easiest: sample 3" in shown(capsys, folder, *options)
    with pytest.raises(DataeffError, match="--samples-dir and --tokens go together"):
        shown(capsys, folder, *options[:2])


def test_samples_of_another_analysis_are_refused(
    analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_native(tmp_path / "vocab_rarity", "vocab_rarity", [1, 2, 3])
    options = ["--samples-dir", analysis.out / "samples", "--tokens", analysis.prefix]
    with pytest.raises(DataeffError, match="an index of 3 samples"):
        shown(capsys, tmp_path, *options)


def test_which_index(analysis: Analysis, tmp_path: Path) -> None:
    assert find_index(analysis.out, "mtld").form == "DeepSpeed's"
    with pytest.raises(DataeffError, match="indexes of mtld, vocab_rarity; choose one with --metric"):
        find_index(analysis.out)
    with pytest.raises(DataeffError, match="unknown metric 'mtl'; did you mean 'mtld'"):
        find_index(analysis.out, "mtl")
    with pytest.raises(DataeffError, match="an index of 'mtld', asked for is 'flesch'"):
        find_index(analysis.out / "mtld", "flesch")
    with pytest.raises(DataeffError, match="no difficulty index"):
        find_index(tmp_path)
    with pytest.raises(DataeffError, match="no such folder"):
        find_index(tmp_path / "none")


def test_picture(analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    for name in ("one.png", "again.png"):
        shown(capsys, analysis.out / "vocab_rarity", "--samples", 0, "--png", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    pixels = imread(tmp_path / "one.png")
    blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.5)
    assert blue.mean() > 0.05


def test_the_samples_of_a_study_are_found(
    analysis: Analysis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """results/data/{corpus}/{tokenizer}: tokens/ and {family}-{length}/samples, analyze/{metric}."""
    item = tmp_path / "bpe" / "gpt-16"
    shutil.copytree(analysis.folder / "native", item / "analyze")
    shutil.copytree(analysis.out / "samples", item / "samples")
    (tmp_path / "bpe" / "tokens").mkdir()
    for suffix in (".bin", ".idx"):
        name = analysis.prefix.name + suffix
        shutil.copy(analysis.prefix.with_name(name), tmp_path / "bpe" / "tokens" / name)
    assert "easiest: sample 3" in shown(capsys, item / "analyze" / "mtld", "--tokenizer", analysis.tokenizer)
