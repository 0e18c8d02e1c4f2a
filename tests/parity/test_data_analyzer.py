"""Our files are those of the installed DeepSpeed's DataAnalyzer, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from dataeff.analyze.deepspeed_format import write_metric
from dataeff.analyze.standalone import analyze_tokens
from dataeff.samples import SpecialIds, open_samples
from dataeff.samples.split import parse_split
from tests.analyze.native_index import write_native
from tests.analyze.token_files import CLS, PAD, SEP, write_documents, write_sentences
from tests.parity.upstream_analyzer import Rows, analyze, analyze_all

pytest.importorskip("deepspeed")

KINDS = ("sample_to_metric", "index_to_sample", "index_to_metric", "index_to_sample_percentile_merged")


def assert_same_files(ours: Path, theirs: Path, names: list[str]) -> None:
    for name in names:
        for end in (".bin", ".idx"):
            assert (ours / f"{name}{end}").read_bytes() == (theirs / f"{name}{end}").read_bytes(), name + end


@pytest.mark.parametrize(
    ("values", "threads"),
    [
        (np.full(300, 7), 1),
        (np.random.default_rng(0).integers(0, 9, 1000), 2),
        (np.random.default_rng(1).integers(0, 40_000, 700), 2),
        (np.random.default_rng(2).integers(0, 2**20, 256), 1),
        (np.random.default_rng(3).integers(2**40, 2**50, 257), 1),
        (np.arange(5), 1),
    ],
    ids=["one value", "few values", "two bytes", "four bytes", "eight bytes", "five samples"],
)
def test_the_format_of_any_values(tmp_path: Path, values: np.ndarray, threads: int) -> None:
    def value(data: dict[str, Tensor]) -> Tensor:
        return data["text"][:, 0]

    analyze(Rows(values[:, None]), {"made_up": value}, tmp_path / "theirs", threads=threads)
    write_native(tmp_path / "native", "made_up", values)
    write_metric(tmp_path / "native", tmp_path / "ours")
    assert_same_files(tmp_path / "ours", tmp_path / "theirs" / "made_up", [f"made_up_{kind}" for kind in KINDS])


def test_gpt_from_token_files_on(tmp_path: Path) -> None:
    """The whole way: ours from two token files with a split, theirs from the samples that this gives."""
    prefixes = [write_documents(tmp_path / name, 400, seed) for seed, name in enumerate("ab")]
    length, names = 64, ["vocab_rarity"]
    analyze_tokens(
        prefixes,
        "gpt",
        length,
        ["total_vocab_freq", *names],
        tmp_path / "ours",
        format="deepspeed",
        workers=2,
        split=parse_split("949,50,1"),
        padded_vocab_size=5_120,
    )
    samples = open_samples(tmp_path / "ours" / "samples", prefixes)
    rows = Rows(samples.batch(np.arange(len(samples))).tokens)
    assert len(rows) > 1500
    analyze_all(rows, names, 5_121, length, tmp_path / "theirs", threads=2)
    assert_same_metrics(tmp_path, names)


def test_bert_from_token_files_on(tmp_path: Path) -> None:
    prefixes = [write_sentences(tmp_path / "text_sentence", 900)]
    length, names = 128, ["seqlen", "vocab_rarity", "seqlen_vocab_rarity"]
    special = SpecialIds(CLS, SEP, PAD)
    analyze_tokens(
        prefixes,
        "bert",
        length,
        names,
        tmp_path / "ours",
        format="deepspeed",
        workers=2,
        epochs=2,
        padded_vocab_size=3_072,
        special=special,
    )
    samples = open_samples(tmp_path / "ours" / "samples", prefixes, special)
    batch = samples.batch(np.arange(len(samples)))
    assert len(samples) > 1000
    assert len(set(batch.lengths.tolist())) > 50
    analyze_all(Rows(batch.tokens, batch.lengths), names, 3_073, length, tmp_path / "theirs")
    assert_same_metrics(tmp_path, names)


def assert_same_metrics(folder: Path, names: list[str]) -> None:
    ours, theirs = folder / "ours", folder / "theirs"
    assert_same_files(ours / "total_vocab_freq", theirs / "total_vocab_freq", ["total_vocab_freq_metric_value"])
    for name in names:
        assert_same_files(ours / name, theirs / name, [f"{name}_{kind}" for kind in KINDS])
