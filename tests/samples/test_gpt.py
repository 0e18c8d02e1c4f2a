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

from dataeff.errors import DataeffError
from dataeff.files import check_manifest
from dataeff.samples import Samples, adopt_windows, build, id_type, megatron_arguments
from dataeff.study.specs import SamplesSpec
from dataeff.study.types import Split
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
        doc_idx, sample_idx, shuffle_idx = (
            np.load(folder / "samples" / f"{part}_idx.npy") for part in ("doc", "sample", "shuffle")
        )
        read = samples.read(np.arange(len(samples)))

    # The generator's use, in Megatron's order: documents first, then samples.
    random = np.random.RandomState(seed)
    expected_documents = np.arange(len(documents), dtype=np.int32)
    random.shuffle(expected_documents)
    expected_samples = np.arange(len(samples), dtype=np.uint32)
    random.shuffle(expected_samples)
    assert [tuple(row) for row in sample_idx.tolist()] == walk([len(d) for d in documents], doc_idx.tolist(), length)
    assert sample_idx.dtype == np.int64
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
        "family": "gpt",
        "samples": 7,
        "sequence_length": 8,
        "seed": 1234,
        "epochs": 1,
        "documents": 5,
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
        ({"sequence_length": 9}, "has 8 tokens, not 9"),
        ({"sequence_length": 0}, "7 samples of 0 tokens"),
        ({"samples": 8}, r"shape \(8, 2\)"),
        ({"documents": 6}, r"shape \(5,\)"),
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
    with pytest.raises(DataeffError, match=r"points outside the tokens|has -?\d+ tokens, not 8"):
        Samples(folder, prefixes).read(np.arange(7))


@given(shapes, st.integers(1, 4), st.one_of(st.none(), st.floats(0, 1)))
@settings(max_examples=80, deadline=None)
def test_several_epochs_are_megatrons(
    shape: tuple[list[list[int]], int, int], epochs: int, last_epoch: float | None
) -> None:
    """The generator's use, restated: documents of all epochs (or of the last one apart), then samples likewise."""
    sizes, length, seed = shape
    flat = [size for file in sizes for size in file]
    per_epoch = (sum(flat) - 1) // length
    before = ((epochs - 1) * sum(flat) - 1) // length
    wanted = None if last_epoch is None else before + round(last_epoch * per_epoch)
    apart = epochs > 1 and wanted is not None and wanted - before < int(0.8 * per_epoch)
    with TemporaryDirectory() as name:
        folder = Path(name)
        prefixes = write_files(folder, number_tokens(sizes))
        several = SamplesSpec(family="gpt", sequence_length=length, seed=seed, epochs=epochs)
        build(several, prefixes, folder / "samples", wanted)
        doc_idx, sample_idx, shuffle_idx = (
            np.load(folder / "samples" / f"{part}_idx.npy") for part in ("doc", "sample", "shuffle")
        )
        assert len(Samples(folder / "samples", prefixes)) == len(shuffle_idx)
    random = np.random.RandomState(seed)
    groups = [epochs - 1, 1] if apart else [epochs]
    documents = [np.tile(np.arange(len(flat), dtype=np.int32), group) for group in groups]
    samples = [np.arange(before), np.arange(before, len(shuffle_idx))] if apart else [np.arange(len(shuffle_idx))]
    samples = [part.astype(np.uint32) for part in samples]
    for part in (*documents, *samples):
        random.shuffle(part)
    assert doc_idx.tolist() == np.concatenate(documents).tolist()
    assert shuffle_idx.tolist() == np.concatenate(samples).tolist()
    assert sample_idx[:, 0].max() < len(doc_idx)


def test_a_run_must_end_in_its_last_epoch(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[30], [30]]))
    with pytest.raises(DataeffError, match="train_samples 1 do not end in epoch 3"):
        build(SamplesSpec(family="gpt", sequence_length=8, seed=1, epochs=3), prefixes, tmp_path / "samples", 1)


def test_only_the_first_part_of_a_split_is_used(tmp_path: Path) -> None:
    prefixes = write_files(tmp_path, number_tokens([[10] * 6, [10] * 4]))
    split = Split(train=70, validation=20, test=10)
    build(SamplesSpec(family="gpt", sequence_length=8, seed=1, split=split), prefixes, tmp_path / "samples")
    read = Samples(tmp_path / "samples", prefixes).read(np.arange(8))
    assert read.max() < 70


def test_files_of_another_length_are_refused(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    files = {name: folder / f"{name}.npy" for name in ("doc_idx", "sample_idx", "shuffle_idx")}
    adopt_windows(files, prefixes, 8, folder.parent / "mine")
    mine, ours = Samples(folder.parent / "mine", prefixes), Samples(folder, prefixes)
    assert (mine.read(np.arange(7)) == ours.read(np.arange(7))).all()
    with pytest.raises(DataeffError, match="has 8 tokens, not 16; give the sequence length"):
        adopt_windows(files, prefixes, 16, folder.parent / "other")
    assert not (folder.parent / "other").exists()
    with pytest.raises(DataeffError, match="shuffle_idx missing"):
        adopt_windows({name: files[name] for name in ("doc_idx", "sample_idx")}, prefixes, 8, folder.parent / "other")


def test_an_index_of_the_first_version_is_read(corpus: tuple[list[Path], Path]) -> None:
    prefixes, folder = corpus
    every = Samples(folder, prefixes).read(np.arange(7))
    facts = json.loads((folder / "samples.json").read_text())
    for added_since in ("family", "epochs", "documents"):
        del facts[added_since]
    (folder / "samples.json").write_text(json.dumps(facts))
    sample_idx = np.load(folder / "sample_idx.npy")
    np.save(folder / "sample_idx.npy", sample_idx.astype(np.int32))
    assert (Samples(folder, prefixes).read(np.arange(7)) == every).all()


def test_files_of_several_types_are_one_dataset(tmp_path: Path) -> None:
    files = number_tokens([[10, 20], [], [7, 13], [0, 10]])
    prefixes = []
    for number, (documents, vocab_size) in enumerate(zip(files, (60_000, 60_000, 100_000, 60_000), strict=True)):
        prefixes += write_files(tmp_path / str(number), [documents], vocab_size)
    build(spec(8), prefixes, tmp_path / "samples")
    samples = Samples(tmp_path / "samples", prefixes)
    assert len({dataset.dtype for dataset in samples.datasets}) == 2
    documents = [document for file in files for document in file]
    epoch = [token for number in samples.doc_idx for token in documents[number]]
    windows = [epoch[row * 8 : row * 8 + 9] for row in range(7)]
    assert samples.read(np.arange(7)).tolist() == [windows[row] for row in samples.shuffle_idx]


def test_megatron_is_not_told_of_a_file_that_is_gone(corpus: tuple[list[Path], Path]) -> None:
    _, folder = corpus
    (folder / "description.dsc").unlink()
    with pytest.raises(DataeffError, match=r"description\.dsc: no such file; run `dataeff samples` again"):
        megatron_arguments(folder)


def test_what_megatron_is_told(corpus: tuple[list[Path], Path]) -> None:
    _, folder = corpus
    arguments = megatron_arguments(folder)
    assert arguments[::2] == [f"--train-{part}-path" for part in ("desc", "doc-idx", "sample-idx", "shuffle-idx")]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in arguments[1::2])


def test_sample_numbers_grow_to_eight_bytes() -> None:
    assert id_type(2**32 - 3) is np.uint32
    assert id_type(2**32 - 2) is np.int64
