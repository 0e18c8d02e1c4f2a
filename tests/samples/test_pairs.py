"""Sentence pairs against a plain restatement of Megatron's BertDataset, and the index map against its own helper."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.samples import PairSamples, SpecialIds, adopt_mapping, build, megatron_arguments, open_samples
from dataeff.study.specs import SamplesSpec
from dataeff.study.types import Split
from dataeff.tokens.indexed_dataset import write_indexed_arrays

SPECIAL = SpecialIds(cls=60_001, sep=60_002, pad=0)
Documents = list[list[list[int]]]


def spec(length: int, seed: int = 1234, **changes: Any) -> SamplesSpec:
    return SamplesSpec(**{"family": "bert", "sequence_length": length, "seed": seed, "short_seq_prob": 0.1, **changes})


def write_files(folder: Path, files: list[Documents]) -> list[Path]:
    """One token file per list of documents, a sequence per sentence."""
    prefixes = []
    for number, documents in enumerate(files):
        prefixes.append(folder / f"{number:02d}")
        sentences = [np.array(sentence) for document in documents for sentence in document]
        ends = np.cumsum([0, *map(len, documents)])
        write_indexed_arrays(prefixes[-1], sentences, np.dtype(np.uint16), documents=ends)
    return prefixes


def number_tokens(sizes: list[list[list[int]]]) -> list[Documents]:
    """Sentences of these sizes, in which every token is another one (from 1 on)."""
    ids = iter(range(1, 60_000))
    return [[[[next(ids) for _ in range(size)] for size in document] for document in file] for file in sizes]


def restated(sentences: list[list[int]], target: int, length: int, seed: int) -> tuple[list[int], list[int], bool]:
    """Tokens, types and whether the segments were swapped, as Megatron draws them."""
    random = np.random.RandomState(seed % 2**32)
    cut = random.randint(1, len(sentences)) if len(sentences) >= 3 else 1
    a = [token for sentence in sentences[:cut] for token in sentence]
    b = [token for sentence in sentences[cut:] for token in sentence]
    swapped = random.random() < 0.5
    if swapped:
        a, b = b, a
    while len(a) + len(b) > target:
        longer = a if len(a) > len(b) else b
        longer.pop(0 if random.random() < 0.5 else -1)
    tokens = [SPECIAL.cls, *a, SPECIAL.sep, *b, *([SPECIAL.sep] if b else [])]
    types = [0] * (len(a) + 2) + [1] * (len(b) + 1 if b else 0)
    padding = [SPECIAL.pad] * (length - len(tokens))
    return tokens + padding, types + [0] * len(padding), swapped


corpora = st.tuples(
    st.lists(
        st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), min_size=1, max_size=5), min_size=1, max_size=3
    ),
    st.integers(5, 24),
    st.integers(1, 2**31 - 2),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
).filter(lambda corpus: any(len(document) > 1 for file in corpus[0] for document in file))


@given(corpora)
@settings(max_examples=60, deadline=None)
def test_pairs_are_megatrons(corpus: tuple[list[list[list[int]]], int, int, int, float]) -> None:
    sizes, length, seed, epochs, short = corpus
    files = number_tokens(sizes)
    sentences = [sentence for file in files for document in file for sentence in document]
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefixes = write_files(folder, files)
        build(spec(length, seed, epochs=epochs, short_seq_prob=short), prefixes, folder / "samples")
        samples = open_samples(folder / "samples", prefixes, SPECIAL)
        mapping = np.load(folder / "samples" / "samples_mapping.npy")
        batch = samples.batch(np.arange(len(samples)))
    assert batch.types is not None
    assert batch.swapped is not None
    for row, (first, last, target) in enumerate(mapping.tolist()):
        tokens, types, swapped = restated(sentences[first:last], target, length, seed + row)
        assert batch.tokens[row].tolist() == tokens
        assert batch.types[row].tolist() == types
        assert batch.swapped[row] == swapped
        assert batch.lengths[row] == length - tokens.count(SPECIAL.pad)


@given(corpora)
@settings(max_examples=80, deadline=None)
def test_every_sentence_is_in_one_sample_an_epoch(corpus: tuple[list[list[list[int]]], int, int, int, float]) -> None:
    sizes, length, seed, epochs, short = corpus
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefixes = write_files(folder, number_tokens(sizes))
        build(spec(length, seed, epochs=epochs, short_seq_prob=short), prefixes, folder / "samples")
        mapping = np.load(folder / "samples" / "samples_mapping.npy")
    covered = [sentence for first, last, _ in mapping.tolist() for sentence in range(first, last)]
    expected, number = [], 0
    for document in (document for file in sizes for document in file):
        expected += list(range(number, number + len(document))) * epochs if len(document) > 1 else []
        number += len(document)
    assert sorted(covered) == sorted(expected)
    assert (mapping[:, 1] - mapping[:, 0] >= 2).all()
    assert mapping[:, 2].min() >= 2
    assert mapping[:, 2].max() <= length - 3
    if short == 0:
        assert (mapping[:, 2] == length - 3).all()


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[list[Path], Path]:
    random = np.random.default_rng(3)
    sizes = [[random.integers(1, 30, size=random.integers(1, 12)).tolist() for _ in range(40)] for _ in range(2)]
    prefixes = write_files(tmp_path, number_tokens(sizes))
    build(spec(64, epochs=2), prefixes, tmp_path / "samples")
    return prefixes, tmp_path / "samples"


def test_threads_and_any_order_read_the_same(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    samples = PairSamples(folder, prefixes, SPECIAL)
    ids = np.random.default_rng(1).integers(0, len(samples), size=200)
    whole = samples.batch(np.arange(len(samples))).tokens
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: samples.batch(part).tokens, np.array_split(ids, 8)))
    assert (np.concatenate(parts) == whole[ids]).all()
    samples.release()
    assert (samples.batch(ids).tokens == whole[ids]).all()


def test_epochs_differ(corpus: tuple[list[Path], Path]) -> None:
    """The same sentences, cut otherwise: short targets fall elsewhere, and every sample draws its own cut."""
    prefixes, folder = corpus
    samples = PairSamples(folder, prefixes, SPECIAL)
    rows = {tuple(row) for row in samples.batch(np.arange(len(samples))).tokens.tolist()}
    assert len(rows) > 0.6 * len(samples)


def test_special_ids_are_needed(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    with pytest.raises(DataeffError, match=r"ids of .CLS., .SEP. and .PAD.; pass --tokenizer"):
        open_samples(folder, prefixes)


def test_single_sentences_give_no_sample(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[[5], [7]]]))
    with pytest.raises(DataeffError, match="no document of 2 gives a sentence pair: at least two sentences"):
        build(spec(32), prefixes, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_a_document_with_an_endless_sentence_is_left_out(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[[513, 5], [512, 5], [3, 4]]]))
    build(spec(32, short_seq_prob=0.0), prefixes, tmp_path / "samples")
    mapping = np.load(tmp_path / "samples" / "samples_mapping.npy")
    assert sorted(mapping[:, 0].tolist()) == [2, 4]


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_seeds_that_megatron_does_not_take_are_refused(tmp_path: Path, seed: int) -> None:
    prefixes = write_files(tmp_path, number_tokens([[[2, 2]]]))
    with pytest.raises(DataeffError, match=f"seed {seed}: .* from 1 to 2147483646"):
        build(spec(32, seed), prefixes, tmp_path / "samples")


def test_a_length_without_room_is_refused(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[[2, 2]]]))
    with pytest.raises(DataeffError, match=r"sequence_length 4: .* at least 5"):
        build(spec(4), prefixes, tmp_path / "samples")


def test_a_split_counts_documents(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[[2, 2], [2, 2, 2]], [[2, 2], [2, 2]]]))
    split = Split(train=75, validation=25, test=0)
    build(spec(32, short_seq_prob=0.0, split=split), prefixes, tmp_path / "samples")
    mapping = np.load(tmp_path / "samples" / "samples_mapping.npy")
    assert sorted(map(tuple, mapping[:, :2].tolist())) == [(0, 2), (2, 5), (5, 7)]


def test_an_existing_map_is_taken(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    adopt_mapping(folder / "samples_mapping.npy", prefixes, 64, 1234, folder.parent / "mine")
    mine, ours = (PairSamples(path, prefixes, SPECIAL) for path in (folder.parent / "mine", folder))
    ids = np.arange(len(ours))
    assert (mine.batch(ids).tokens == ours.batch(ids).tokens).all()
    with pytest.raises(DataeffError, match="up to 61 tokens, a sequence length of 32 holds 29"):
        adopt_mapping(folder / "samples_mapping.npy", prefixes, 32, 1234, folder.parent / "other")
    with pytest.raises(DataeffError, match="up to 61 tokens, a sequence length of 128 holds 125"):
        adopt_mapping(folder / "samples_mapping.npy", prefixes, 128, 1234, folder.parent / "other")
    np.save(folder / "none.npy", np.zeros((0, 3), dtype=np.uint32))
    with pytest.raises(DataeffError, match=r"none\.npy: an index map without samples"):
        adopt_mapping(folder / "none.npy", prefixes, 64, 1234, folder.parent / "other")
    assert not (folder.parent / "other").exists()
    assert megatron_arguments(folder) == ["--train-idx-path", str(folder / "samples_mapping.npy")]


@pytest.mark.parametrize(("column", "value"), [(0, 10_000), (1, 10_000), (1, 0), (2, 62), (2, 1)])
def test_rows_that_cannot_be_are_refused(corpus: tuple[list[Path], Path], column: int, value: int) -> None:
    """Reading runs in compiled code that checks no bounds by itself."""
    prefixes, folder = corpus
    mapping = np.load(folder / "samples_mapping.npy")
    mapping[5, column] = value
    np.save(folder / "samples_mapping.npy", mapping)
    with pytest.raises(DataeffError, match=r"sample 5 points outside|up to 62 tokens"):
        PairSamples(folder, prefixes, SPECIAL).batch(np.arange(10))


@pytest.mark.parametrize("change", [{"samples": 3}, {"seed": None}, {"token_files": []}])
def test_facts_that_do_not_fit_are_refused(corpus: tuple[list[Path], Path], change: dict[str, Any]) -> None:
    prefixes, folder = corpus
    facts = json.loads((folder / "samples.json").read_text())
    (folder / "samples.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(DataeffError, match="run `dataeff samples` again"):
        PairSamples(folder, prefixes, SPECIAL)
