"""Our token files in DeepSpeed's reader, and its writer's files in ours.

The two upstream projects disagree on the type codes: 8 is uint16 in Megatron and uint64 in DeepSpeed's copy of the
class. Tokens are for Megatron, so uint16 files are read here by DeepSpeed's class with Megatron's code put in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.tokens.indexed_dataset import IndexedDataset, bin_path, idx_path, write_indexed_dataset

upstream = pytest.importorskip("deepspeed.runtime.data_pipeline.data_sampling.indexed_dataset")

UINT16_IN_MEGATRON = 8


def documents(vocab_size: int) -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(vocab_size)
    return [random.integers(0, vocab_size, size) for size in random.integers(1, 400, 60)]


def write_ours(prefix: Path, vocab_size: int) -> list[list[int]]:
    with write_indexed_dataset(prefix, vocab_size) as writer:
        for document in documents(vocab_size):
            writer.add(document)
    return [document.tolist() for document in documents(vocab_size)]


def write_theirs(prefix: Path, vocab_size: int, dtype: type) -> None:
    builder = upstream.MMapIndexedDatasetBuilder(str(bin_path(prefix)), dtype=dtype)
    for document in documents(vocab_size):
        builder.add_item_numpy(document.astype(dtype))
        builder.end_document()
    builder.finalize(str(idx_path(prefix)))


@pytest.mark.parametrize("vocab_size", [50_257, 65_500])
def test_theirs_reads_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab_size: int) -> None:
    expected = write_ours(tmp_path / "ours", vocab_size)
    monkeypatch.setitem(upstream.dtypes, UINT16_IN_MEGATRON, (np.uint16, None))
    theirs = upstream.MMapIndexedDataset(str(tmp_path / "ours"), skip_warmup=True)
    assert [theirs[number].tolist() for number in range(len(theirs))] == expected
    assert theirs.doc_idx.tolist() == list(range(len(expected) + 1))
    assert theirs.get(3, offset=1).tolist() == expected[3][1:]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint32, np.uint64])
def test_ours_reads_theirs(tmp_path: Path, dtype: type) -> None:
    write_theirs(tmp_path / "theirs", 50_257, dtype)
    ours = IndexedDataset(tmp_path / "theirs")
    assert ours.dtype == np.dtype(dtype)
    assert [ours[number].tolist() for number in range(len(ours))] == [row.tolist() for row in documents(50_257)]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(50_257, np.uint16), (65_500, np.int32)])
def test_bytes_are_theirs_but_for_the_code(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    write_ours(tmp_path / "ours", vocab_size)
    write_theirs(tmp_path / "theirs", vocab_size, dtype)
    assert bin_path(tmp_path / "ours").read_bytes() == bin_path(tmp_path / "theirs").read_bytes()
    ours, theirs = (bytearray(idx_path(tmp_path / name).read_bytes()) for name in ("ours", "theirs"))
    code_at = 9 + 8
    assert ours[code_at] == (UINT16_IN_MEGATRON if dtype is np.uint16 else theirs[code_at])
    theirs[code_at] = ours[code_at]
    assert ours == theirs


def test_the_codes_still_differ() -> None:
    """Once DeepSpeed takes 8 for uint16 too, the deviation and the code put in above can go."""
    assert upstream.dtypes[UINT16_IN_MEGATRON][0] is np.uint64
    assert upstream.dtypes[6][0] is np.uint16
