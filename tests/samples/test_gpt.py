"""The sample index against Megatron's walk over the documents, and the reading of samples against slow slicing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff import samples as stage
from dataeff.errors import DataeffError
from dataeff.files import check_manifest
from dataeff.samples import Samples, build, build_sample_idx, id_type
from dataeff.study.specs import SamplesSpec
from dataeff.tokens.indexed_dataset import write_indexed_dataset


def spec(length: int, seed: int = 1234) -> SamplesSpec:
    return SamplesSpec(family="gpt", sequence_length=length, seed=seed)


def write_files(folder: Path, files: list[list[list[int]]], vocab_size: int = 60_000) -> list[Path]:
    """One token file per list of documents."""
    prefixes = []
    for number, documents in enumerate(files):
        prefixes.append(folder / f"{number:02d}")
        with write_indexed_dataset(prefixes[-1], vocab_size) as writer:
            for document in documents:
                writer.add(document)
    return prefixes


def number_tokens(sizes: list[list[int]]) -> list[list[list[int]]]:
    """Documents of these sizes, in which every token is another one."""
    ids = iter(range(60_000))
    return [[[next(ids) for _ in range(size)] for size in file] for file in sizes]


def walk(sizes: list[int], order: list[int], length: int) -> list[tuple[int, int]]:
    """Where windows begin, found as Megatron finds it: a window takes length + 1 tokens, document by document.

    When the window is full inside a document (or just at its end), the next one begins with the last token taken.
    """
    samples = (sum(sizes) - 1) // length
    begins = [(0, 0)]
    position, offset = 0, 0
    for _ in range(samples):
        missing = length + 1
        while missing > 0:
            here = sizes[order[position]] - offset
            if here >= missing:
                offset += missing - 1
                missing = 0
            else:
                missing -= here
                position, offset = position + 1, 0
        begins.append((position, offset))
    return begins


shapes = st.tuples(
    st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=8), min_size=1, max_size=3),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
).filter(lambda shape: sum(map(sum, shape[0])) > shape[1])


@given(shapes, st.sampled_from([1, 3, 1 << 20]))
@settings(max_examples=150, deadline=None)
def test_index_is_megatrons(shape: tuple[list[list[int]], int, int], rows: int) -> None:
    files, length, _ = shape
    sizes = [size for file in files for size in file]
    order = np.random.default_rng(len(sizes)).permutation(len(sizes)).astype(np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_LOCATE_ROWS", rows)
        found = build_sample_idx(np.array(sizes, dtype=np.int32), order, length)
    assert found.dtype == np.int32
    assert [tuple(row) for row in found.tolist()] == walk(sizes, order.tolist(), length)


@given(shapes)
@settings(max_examples=80, deadline=None)
def test_samples_cover_the_corpus(shape: tuple[list[list[int]], int, int]) -> None:
    sizes, length, seed = shape
    files = number_tokens(sizes)
    documents = [document for file in files for document in file]
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefixes = write_files(folder, files)
        build(spec(length, seed), prefixes, folder / "samples")
        samples = Samples(folder / "samples", prefixes)
        doc_idx, shuffle_idx = (np.load(folder / "samples" / f"{part}_idx.npy") for part in ("doc", "shuffle"))
        read = samples.read(np.arange(len(samples)))

    # The generator's use, in Megatron's order: documents first, then samples.
    random = np.random.RandomState(seed)
    expected_documents = np.arange(len(documents), dtype=np.int32)
    random.shuffle(expected_documents)
    expected_samples = np.arange(len(samples), dtype=np.uint32)
    random.shuffle(expected_samples)
    assert doc_idx.tolist() == expected_documents.tolist()
    assert shuffle_idx.tolist() == expected_samples.tolist()
    assert (doc_idx.dtype, shuffle_idx.dtype) == (np.int32, np.uint32)

    # Slow reading: the epoch's tokens in a row, cut into windows.
    epoch = [token for number in doc_idx for token in documents[number]]
    assert len(samples) == (len(epoch) - 1) // length
    windows = [epoch[row * length : row * length + length + 1] for row in range(len(samples))]
    assert read.dtype == np.int64
    assert read.tolist() == [windows[row] for row in shuffle_idx]

    unshuffled = np.empty_like(read)
    unshuffled[shuffle_idx] = read
    assert (unshuffled[:-1, -1] == unshuffled[1:, 0]).all()
    assert len(epoch) - length <= len(set(read.ravel().tolist())) <= len(epoch)


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[list[Path], Path]:
    """Two files, 5 documents, 60 tokens; 7 samples of 8 + 1."""
    prefixes = write_files(tmp_path, number_tokens([[10, 20], [7, 13, 10]]))
    build(spec(8), prefixes, tmp_path / "samples")
    return prefixes, tmp_path / "samples"


def test_facts(corpus: tuple[list[Path], Path]) -> None:
    _, folder = corpus
    assert json.loads((folder / "samples.json").read_text()) == {
        "samples": 7,
        "sequence_length": 8,
        "seed": 1234,
        "tokens_per_epoch": 60,
        "token_files": [
            {"name": "00", "documents": 2, "tokens": 30},
            {"name": "01", "documents": 3, "tokens": 30},
        ],
    }
    assert check_manifest(folder) is None


def test_read_in_any_order_and_repeated(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    samples = Samples(folder, prefixes)
    every = samples.read(np.arange(7))
    ids = np.array([6, 0, 6, 3])
    assert (samples.read(ids) == every[ids]).all()
    assert samples.read(np.array([], dtype=np.int64)).shape == (0, 9)


@pytest.mark.parametrize("ids", [[7], [-1], [0, 2**40]])
def test_ids_beyond_the_samples_are_refused(corpus: tuple[list[Path], Path], ids: list[int]) -> None:
    prefixes, folder = corpus
    with pytest.raises(ValueError, match="there are 7 samples"):
        Samples(folder, prefixes).read(np.array(ids))


@pytest.mark.parametrize("vocab_size", [60_000, 100_000])
def test_threads_read_the_same(tmp_path: Path, vocab_size: int) -> None:
    prefixes = write_files(tmp_path, number_tokens([[500, 900], [1, 700]]), vocab_size)
    build(spec(16), prefixes, tmp_path / "samples")
    samples = Samples(tmp_path / "samples", prefixes)
    every = samples.read(np.arange(len(samples)))
    parts = [np.random.default_rng(seed).integers(0, len(samples), 50) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for ids, tokens in zip(parts, pool.map(samples.read, parts), strict=True):
            assert (tokens == every[ids]).all()


@pytest.mark.parametrize(("tokens", "samples"), [(9, 1), (16, 1), (17, 2)])
def test_smallest_corpora(tmp_path: Path, tokens: int, samples: int) -> None:
    prefixes = write_files(tmp_path, number_tokens([[tokens]]))
    build(spec(8), prefixes, tmp_path / "samples")
    assert len(Samples(tmp_path / "samples", prefixes)) == samples


def test_less_than_one_sample_is_refused(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[3], [5]]))
    with pytest.raises(DataeffError, match="8 tokens are fewer than one sample's 9; use a larger corpus"):
        build(spec(8), prefixes, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_no_token_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="no token files"):
        build(spec(8), [], tmp_path / "samples")


@pytest.mark.parametrize(
    "files",
    [
        [[[1] * 10, [2] * 20]],  # a file left out
        [[[1] * 10, [2] * 20], [[3] * 7, [4] * 13, [5] * 11]],  # a token more
        [[[1] * 10, [2] * 20], [[3] * 30]],  # other documents
    ],
)
def test_other_token_files_are_refused(corpus: tuple[list[Path], Path], files: list[list[list[int]]]) -> None:
    prefixes, folder = corpus
    with pytest.raises(DataeffError, match=r"samples\.json: made for the token files .* run `dataeff samples` again"):
        Samples(folder, write_files(folder.parent, files))
    with pytest.raises(DataeffError, match="made for the token files"):
        Samples(folder, prefixes[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_length": 9}, "which give 6"),
        ({"sequence_length": 0}, "which give 0"),
        ({"samples": 8}, "8 samples of 8"),
        ({"tokens_per_epoch": 61}, "in 61"),
        ({"samples": None}, "not the facts"),
    ],
)
def test_facts_that_do_not_fit_are_refused(
    corpus: tuple[list[Path], Path], change: dict[str, int | None], message: str
) -> None:
    prefixes, folder = corpus
    facts = json.loads((folder / "samples.json").read_text())
    (folder / "samples.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(DataeffError, match=message):
        Samples(folder, prefixes)


@pytest.mark.parametrize("part", ["doc_idx", "sample_idx", "shuffle_idx"])
@pytest.mark.parametrize("damage", ["missing", "cut", "noise", "short", "float"])
def test_damaged_arrays_are_refused(corpus: tuple[list[Path], Path], part: str, damage: str) -> None:
    prefixes, folder = corpus
    path = folder / f"{part}.npy"
    values = np.load(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "noise":
        path.write_bytes(b"\x00" * 200)
    else:
        np.save(path, values[:-1] if damage == "short" else values.astype(np.float64))
    with pytest.raises(DataeffError, match=rf"{part}\.npy: .* run `dataeff samples` again"):
        Samples(folder, prefixes)


@pytest.mark.parametrize(
    ("part", "position", "value"),
    [
        ("doc_idx", 0, 5),
        ("doc_idx", 2, -1),
        ("sample_idx", (0, 0), 5),
        ("sample_idx", (0, 0), -1),
        ("sample_idx", (0, 1), 21),  # just past the longest document: later ones hold tokens enough
        ("sample_idx", (3, 1), 10_000),
        ("sample_idx", (3, 1), -1),
        ("shuffle_idx", 1, 7),
        ("shuffle_idx", 1, 1000),
    ],
)
def test_entries_outside_the_tokens_are_refused(
    corpus: tuple[list[Path], Path], part: str, position: int | tuple[int, int], value: int
) -> None:
    """Reading runs in compiled code that checks no bounds by itself."""
    prefixes, folder = corpus
    values = np.load(folder / f"{part}.npy")
    values[position] = value
    np.save(folder / f"{part}.npy", values)
    with pytest.raises(DataeffError, match="points outside the tokens"):
        Samples(folder, prefixes).read(np.arange(7))


def test_sample_numbers_grow_to_eight_bytes() -> None:
    assert id_type(2**32 - 3) is np.uint32
    assert id_type(2**32 - 2) is np.int64
