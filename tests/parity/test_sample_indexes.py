"""Our sample indexes are those of Megatron's own compiled helpers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.samples import build
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import IndexedDataset, write_indexed_arrays

helpers = pytest.importorskip("megatron.core.datasets.helpers", reason="megatron-core is not installed")


def write(folder: Path, documents: list[list[int]]) -> Path:
    """Sentences of these sizes; the tokens do not matter here."""
    sentences = [np.ones(size, dtype=np.uint16) for document in documents for size in document]
    ends = np.cumsum([0, *map(len, documents)])
    write_indexed_arrays(folder / "text", sentences, np.dtype(np.uint16), documents=ends)
    return folder / "text"


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60).filter(lambda sizes: sum(sizes) > 16),
    st.integers(1, 16),
    st.integers(1, 3),
)
@settings(max_examples=100, deadline=None)
def test_windows(sizes: list[int], length: int, epochs: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefix = write(folder, [[size] for size in sizes])
        build(SamplesSpec(family="gpt", sequence_length=length, seed=7, epochs=epochs), [prefix], folder / "samples")
        doc_idx, sample_idx = (np.load(folder / "samples" / f"{part}_idx.npy") for part in ("doc", "sample"))
        theirs = helpers.build_sample_idx(
            np.array(sizes, dtype=np.int32), doc_idx, length, epochs, sum(sizes), True, True
        )
    assert sample_idx.tolist() == theirs.tolist()


@given(
    st.lists(
        st.lists(st.one_of(st.integers(1, 60), st.integers(500, 530)), min_size=1, max_size=14),
        min_size=1,
        max_size=30,
    ).filter(lambda documents: any(len(sizes) > 1 and max(sizes) <= 512 for sizes in documents)),
    st.integers(16, 256),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
    st.integers(1, 2**31 - 2),
)
@settings(max_examples=150, deadline=None)
def test_sentence_pairs(documents: list[list[int]], length: int, epochs: int, short_seq_prob: float, seed: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefix = write(folder, documents)
        spec = SamplesSpec(
            family="bert", sequence_length=length, seed=seed, epochs=epochs, short_seq_prob=short_seq_prob
        )
        build(spec, [prefix], folder / "samples")
        ours = np.load(folder / "samples" / "samples_mapping.npy")
        dataset = IndexedDataset(prefix)
        theirs = helpers.build_mapping(
            dataset.document_index.copy(),
            dataset.sizes.copy(),
            epochs,
            np.iinfo(np.int64).max - 1,
            length - 3,
            short_seq_prob,
            seed,
            False,
            2,
        )
        np.save(folder / "theirs.npy", theirs)
        assert (folder / "theirs.npy").read_bytes() == (folder / "samples" / "samples_mapping.npy").read_bytes()
    assert ours.dtype == theirs.dtype
