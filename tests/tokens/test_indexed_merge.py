"""One pair of several is the pair of all at once; other projects' readers open what we write."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.errors import DataeffError
from dataeff.tokens import indexed_merge
from dataeff.tokens.indexed_dataset import (
    IndexedDataset,
    bin_path,
    idx_path,
    write_indexed_arrays,
    write_indexed_dataset,
)
from dataeff.tokens.indexed_merge import link_for_deepspeed, merge

Documents = list[list[list[int]]]


def documents(seed: int, vocab_size: int, sentences: int) -> Documents:
    """Documents of up to `sentences` sentences each."""
    random = np.random.default_rng(seed)
    return [
        [
            random.integers(0, vocab_size, random.integers(1, 40)).tolist()
            for _ in range(random.integers(1, sentences + 1))
        ]
        for _ in range(30)
    ]


def write(prefix: Path, given: Documents, vocab_size: int) -> Path:
    with write_indexed_dataset(prefix, vocab_size) as writer:
        for document in given:
            for sentence in document:
                writer.add_sequence(sentence)
            writer.end_documents(np.array([writer.sequence_count]))
    return prefix


def flat(given: Documents) -> list[list[int]]:
    return [sentence for document in given for sentence in document]


def entries(given: Documents) -> list[int]:
    return np.cumsum([0, *map(len, given)]).tolist()


@pytest.fixture(params=[(50_257, 1), (30_522, 6), (70_000, 3)], ids=["gpt", "bert", "int32"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Documents]:
    vocab_size, sentences = request.param
    given = documents(1, vocab_size, sentences)
    return write(tmp_path / "ours", given, vocab_size), given


# --- merging ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_kernel", [True, False])
@pytest.mark.parametrize("sentences", [1, 5])
def test_merged_is_as_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: int, in_kernel: bool
) -> None:
    if not in_kernel:  # as on a file system that cannot copy by itself

        def refuse(*_: Any) -> int:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(indexed_merge, "_ROWS", 7)
    parts = [documents(seed, 1000, sentences) for seed in range(3)]
    parts.insert(1, [])
    prefixes = [write(tmp_path / f"part{number}", part, 1000) for number, part in enumerate(parts)]
    whole = write(tmp_path / "whole", [document for part in parts for document in part], 1000)
    tokens = merge(prefixes, tmp_path / "merged")
    assert tokens == IndexedDataset(whole).token_count
    assert bin_path(tmp_path / "merged").read_bytes() == bin_path(whole).read_bytes()
    assert idx_path(tmp_path / "merged").read_bytes() == idx_path(whole).read_bytes()


def test_merging_other_types_or_nothing_is_refused(tmp_path: Path) -> None:
    small = write(tmp_path / "small", [[[1]]], 300)
    large = write(tmp_path / "large", [[[1]]], 70_000)
    with pytest.raises(DataeffError, match=r"large: its tokens are int32, those of .*small uint16"):
        merge([small, large], tmp_path / "out")
    with pytest.raises(DataeffError, match="nothing to merge"):
        merge([], tmp_path / "out")
    assert not idx_path(tmp_path / "out").exists()


# --- Megatron's and DeepSpeed's readers -------------------------------------------------------------------------


def test_megatron_reads_ours(pair: tuple[Path, Documents]) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    prefix, given = pair
    theirs = megatron.IndexedDataset(str(prefix))
    assert theirs.index.dtype == IndexedDataset(prefix).dtype
    assert [theirs[number].tolist() for number in range(len(theirs))] == flat(given)
    assert theirs.document_indices.tolist() == entries(given)


def test_megatron_writes_the_same_bytes(pair: tuple[Path, Documents], tmp_path: Path) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    prefix, given = pair
    theirs = tmp_path / "theirs"
    builder = megatron.IndexedDatasetBuilder(str(bin_path(theirs)), dtype=IndexedDataset(prefix).dtype.type)
    for document in given:
        builder.add_document([token for sentence in document for token in sentence], list(map(len, document)))
    builder.finalize(str(idx_path(theirs)))
    assert bin_path(theirs).read_bytes() == bin_path(prefix).read_bytes()
    assert idx_path(theirs).read_bytes() == idx_path(prefix).read_bytes()


def deepspeed_reads(prefix: Path, given: Documents) -> None:
    deepspeed = pytest.importorskip("deepspeed.runtime.data_pipeline.data_sampling.indexed_dataset")
    theirs = deepspeed.MMapIndexedDataset(str(prefix), skip_warmup=True)
    assert [theirs[number].tolist() for number in range(len(theirs))] == flat(given)
    assert theirs.doc_idx.tolist() == entries(given)


def test_deepspeed_reads_ours_through_a_link(
    pair: tuple[Path, Documents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, given = pair
    monkeypatch.setattr(indexed_merge, "_ROWS", 11)
    link_for_deepspeed(prefix, tmp_path / "linked")
    deepspeed_reads(tmp_path / "linked", given)
    assert bin_path(tmp_path / "linked").samefile(bin_path(prefix))
    assert flat(given) == [IndexedDataset(tmp_path / "linked")[row].tolist() for row in range(len(flat(given)))]
    link_for_deepspeed(prefix, tmp_path / "linked")  # again, over the old one
    deepspeed_reads(tmp_path / "linked", given)
    if IndexedDataset(prefix).dtype == np.int32:
        deepspeed_reads(prefix, given)


def test_a_symbolic_link_where_there_are_no_hard_ones(
    pair: tuple[Path, Documents], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, given = pair

    def refuse(*_: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_for_deepspeed(prefix, tmp_path / "linked")
    assert bin_path(tmp_path / "linked").is_symlink()
    deepspeed_reads(tmp_path / "linked", given)


def test_a_link_onto_itself_is_refused(pair: tuple[Path, Documents]) -> None:
    prefix, _ = pair
    before = idx_path(prefix).read_bytes()
    with pytest.raises(DataeffError, match="token files themselves"):
        link_for_deepspeed(prefix, prefix)
    assert idx_path(prefix).read_bytes() == before


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_deepspeed_reads_its_own_codes(tmp_path: Path, dtype: type) -> None:
    arrays = [np.array([1, 2, 3], dtype=dtype), np.array([200], dtype=dtype)]
    write_indexed_arrays(tmp_path / "a", arrays, dtype, documents="one", codes="deepspeed")
    deepspeed_reads(tmp_path / "a", [[[1, 2, 3], [200]]])
