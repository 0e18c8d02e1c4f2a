"""Length buckets against slow cutting: pieces of powers of two that tile each document's targets."""

from __future__ import annotations

import mmap
from collections import Counter
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.bucket_plan import bucket_lengths
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json, write_json
from dataeff.samples import BucketSamples, Samples, buckets, build, open_gpt, open_samples
from dataeff.study.specs import SamplesSpec
from dataeff.study.types import Split
from dataeff.tokens.indexed_dataset import write_indexed_arrays
from tests.samples.test_gpt import number_tokens, write_files


def spec(length: int, split: Split | None = None) -> SamplesSpec:
    return SamplesSpec(family="gpt", layout="buckets", sequence_length=length, seed=1234, split=split)


def made(folder: Path, files: list[list[list[int]]], length: int, split: Split | None = None) -> BucketSamples:
    prefixes = write_files(folder, files)
    build(spec(length, split), prefixes, folder / "samples")
    samples = open_gpt(folder / "samples", prefixes)
    assert isinstance(samples, BucketSamples)
    return samples


def all_pieces(samples: BucketSamples) -> dict[int, list[list[int]]]:
    """Every sample's tokens, by the bucket's length."""
    found, first = {}, 0
    for length, size in zip(samples.buckets.lengths, samples.buckets.samples, strict=True):
        found[length] = samples.read(np.arange(first, first + size), length).tolist()
        first += size
    assert first == len(samples)
    return found


@pytest.mark.parametrize(
    ("length", "shortest", "longest"), [(64, 8, 64), (256, 8, 256), (2048, 32, 2048), (96, 8, 64), (8, 8, 8), (5, 4, 4)]
)
def test_lengths(length: int, shortest: int, longest: int) -> None:
    lengths = bucket_lengths(length)
    assert (lengths[0], lengths[-1]) == (shortest, longest)
    assert all(longer == 2 * shorter for shorter, longer in pairwise(lengths))


def test_a_document_is_cut_by_the_digits_of_its_targets(tmp_path: Path) -> None:
    """60 tokens have 59 = 32 + 16 + 8 + 3 targets, of which the last 3 are left out; 150 have 2 x 64 + 16 + 5."""
    files = [[list(range(60)), list(range(100, 105))], [[], [99], list(range(300, 450)), list(range(200, 209))]]
    samples = made(tmp_path, files, 64)
    ends = {length: [(row[0], row[-1]) for row in rows] for length, rows in all_pieces(samples).items()}
    assert ends == {8: [(48, 56), (200, 208)], 16: [(32, 48), (428, 444)], 32: [(0, 32)], 64: [(300, 364), (364, 428)]}
    facts = read_json(tmp_path / "samples/samples.json")
    assert facts["buckets"][0] == {"length": 8, "samples": 2}
    assert facts["targets"] == 59 + 4 + 149 + 8
    assert facts["targets_left_out"] == 3 + 4 + 5
    assert check_manifest(tmp_path / "samples") is None
    assert samples.sequence_length == 64


@given(
    st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=8), min_size=1, max_size=3).filter(
        lambda sizes: max(map(max, sizes)) > 8
    ),
    st.integers(8, 130),
)
@settings(max_examples=60, deadline=None)
def test_pieces_tile_the_documents(sizes: list[list[int]], length: int) -> None:
    files = number_tokens(sizes)
    with TemporaryDirectory() as name:
        samples = made(Path(name), files, length)
        pieces = all_pieces(samples)
        facts = read_json(Path(name) / "samples/samples.json")
    lengths = samples.buckets.lengths
    assert set(pieces) == set(bucket_lengths(length))
    by_first = {row[0]: (bucket, row) for bucket, rows in pieces.items() for row in rows}
    assert len(by_first) == len(samples)

    kept = 0
    for document in (document for file in files for document in file):
        at, taken = 0, []
        while at < len(document) and document[at] in by_first:
            bucket, row = by_first.pop(document[at])
            assert row == document[at : at + bucket + 1]
            taken.append(bucket)
            at += bucket
        assert taken == sorted(taken, reverse=True)
        assert all(count == 1 or bucket == lengths[-1] for bucket, count in Counter(taken).items())
        assert max(0, len(document) - 1) - at < lengths[0]
        kept += at
    assert by_first == {}  # nothing crosses a document's end or begins anywhere else
    assert facts["targets"] - facts["targets_left_out"] == kept


def test_blocks_of_documents_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.random.default_rng(0).integers(0, 200, (2, 40)).tolist()
    samples = made(tmp_path / "whole", number_tokens(sizes), 64)
    monkeypatch.setattr(buckets, "_DOCUMENTS", 7)
    parts = made(tmp_path / "parts", number_tokens(sizes), 64)
    assert parts.starts.tolist() == samples.starts.tolist()
    assert len(samples) > 100


def test_only_the_training_documents(tmp_path: Path) -> None:
    files = number_tokens([[20, 20], [20, 20]])
    samples = made(tmp_path, files, 16, Split(train=3, validation=1, test=0))
    assert samples.starts.tolist() == [0, 20, 40]
    assert read_json(tmp_path / "samples/samples.json")["documents"] == 3


def test_files_of_different_types(tmp_path: Path) -> None:
    documents = [np.arange(17), np.arange(100_000, 100_017)]
    prefixes = [tmp_path / "small", tmp_path / "large"]
    for prefix, document, dtype in zip(prefixes, documents, (np.uint16, np.int32), strict=True):
        write_indexed_arrays(prefix, [document], dtype)
    build(spec(16), prefixes, tmp_path / "samples")
    read = open_gpt(tmp_path / "samples", prefixes).read(np.array([1, 0]), 16)  # type: ignore[call-arg]
    assert read.tolist() == [documents[1].tolist(), documents[0].tolist()]


def test_the_index_is_mapped_and_one_number_a_sample(tmp_path: Path) -> None:
    samples = made(tmp_path, number_tokens([[200] * 50]), 64)
    base = samples.starts.base
    while not isinstance(base, mmap.mmap):
        base = base.base
    assert (tmp_path / "samples/starts.npy").stat().st_size == 128 + 8 * len(samples)


def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, number_tokens([[100, 13]]), 64)
    assert capsys.readouterr().out.strip() == (
        "samples: 3 of 8 to 64 tokens from 2 documents; 7 of 111 tokens (6.31%) are left out: rests of documents "
        "shorter than 8"
    )


def test_documents_that_are_all_too_short_are_refused(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[8, 3, 0]]))
    with pytest.raises(DataeffError, match=r"00: none of 3 documents has 9 tokens, which the shortest length bucket"):
        build(spec(64), prefixes, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize(
    ("ids", "length", "message"),
    [
        ([0, 1], 16, r"samples 0 to 1 are asked for as of 16 tokens, which are 2 to 3 here"),
        ([-1], 8, r"samples -1 to -1 are asked for as of 8 tokens, which are 0 to 1 here"),
        ([6], 64, r"samples 6 to 6 are asked for as of 64 tokens, which are 4 to 5 here"),
        ([0], 24, r"there is no bucket of 24 tokens, only of 8, 16, 32, 64"),
    ],
)
def test_samples_of_another_plan_are_refused(tmp_path: Path, ids: list[int], length: int, message: str) -> None:
    samples = made(tmp_path, number_tokens([[90, 90]]), 64)  # 89 = 64 + 16 + 8 + 1
    assert samples.buckets.samples == (2, 2, 0, 2)
    with pytest.raises(DataeffError, match=message):
        samples.read(np.array(ids), length)


@pytest.mark.parametrize("start", [-1, 172, 10**12])
def test_a_damaged_array_is_refused(tmp_path: Path, start: int) -> None:
    samples = made(tmp_path, number_tokens([[90, 90]]), 64)
    damaged = samples.starts.copy()
    damaged[0] = start
    np.save(tmp_path / "samples/starts.npy", damaged)
    with pytest.raises(DataeffError, match=r"starts\.npy: an entry points outside the tokens"):
        open_gpt(tmp_path / "samples", [tmp_path / "00"]).read(np.array([0, 1]), 8)  # type: ignore[call-arg]


def test_facts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made(tmp_path, number_tokens([[90, 90]]), 64)
    folder, path = tmp_path / "samples", tmp_path / "samples/samples.json"
    facts = read_json(path)
    write_files(tmp_path, number_tokens([[90, 91]]))
    with pytest.raises(DataeffError, match="made for the token files"):
        open_gpt(folder, [tmp_path / "00"])
    write_json(path, {**facts, "buckets": [{"length": 8}]})
    with pytest.raises(DataeffError, match="not the facts of length buckets"):
        open_gpt(folder, [tmp_path / "00"])


def test_the_layout_of_the_folder_decides(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[90, 90]]))
    build(spec(64), prefixes, tmp_path / "buckets")
    build(SamplesSpec(family="gpt", sequence_length=64, seed=1), prefixes, tmp_path / "packed")
    assert isinstance(open_gpt(tmp_path / "packed", prefixes), Samples)
    with pytest.raises(DataeffError, match="difficulty is compared between samples of one length"):
        open_samples(tmp_path / "buckets", prefixes)
    with pytest.raises(DataeffError, match="not the facts of length buckets"):
        BucketSamples(tmp_path / "packed", prefixes)
