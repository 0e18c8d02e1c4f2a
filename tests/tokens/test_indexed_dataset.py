"""The .bin/.idx pair: what goes in comes out; a pair that does not fit is refused with words, never a crash."""

from __future__ import annotations

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.tokens import indexed_dataset
from dataeff.tokens.indexed_dataset import (
    HEADER,
    MAGIC,
    IndexedDataset,
    bin_path,
    idx_path,
    token_type,
    write_indexed_dataset,
)

VOCABULARIES = (300, 65_499, 65_500, 2**31 - 1)


def write(prefix: Path, documents: list[list[int]], vocab_size: int = 1000) -> None:
    with write_indexed_dataset(prefix, vocab_size) as writer:
        for document in documents:
            writer.add(document)


def read(prefix: Path) -> list[list[int]]:
    dataset = IndexedDataset(prefix)
    return [dataset[number].tolist() for number in range(len(dataset))]


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    vocab_size = draw(st.sampled_from(VOCABULARIES))
    return vocab_size, draw(st.lists(st.lists(st.integers(0, vocab_size - 1), max_size=9), max_size=12))


@given(corpora(), st.sampled_from([1, 3, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_round_trip(corpus: tuple[int, list[list[int]]], check_rows: int) -> None:
    vocab_size, documents = corpus
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_dataset, "_CHECK_ROWS", check_rows)
        prefix = Path(folder) / "shard.00"
        write(prefix, documents, vocab_size)
        assert read(prefix) == documents
        dataset = IndexedDataset(prefix)
        assert dataset.dtype == token_type(vocab_size)
        assert dataset.tokens.tolist() == [token for document in documents for token in document]
        assert dataset.token_count == sum(map(len, documents))
        assert dataset.document_index.tolist() == list(range(len(documents) + 1))
        starts = np.cumsum([0, *map(len, documents)])[:-1]
        assert dataset.starts.tolist() == starts.tolist()
        assert sorted(path.name for path in Path(folder).iterdir()) == ["shard.00.bin", "shard.00.idx"]


def test_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2, 3], [65_000]], vocab_size=65_499)
    assert (tmp_path / "a.bin").read_bytes() == np.array([1, 2, 3, 65_000], "<u2").tobytes()
    expected = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3)
    expected += struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 2)
    assert (tmp_path / "a.idx").read_bytes() == expected


@pytest.mark.parametrize(("vocab_size", "expected"), [(65_499, np.uint16), (65_500, np.int32)])
def test_type_follows_megatrons_limit(vocab_size: int, expected: type) -> None:
    assert token_type(vocab_size) == np.dtype(expected)


@pytest.mark.parametrize("document", [[0, 1000], [-1], np.array([70_000]), [2**70]])
def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, document: list[int]) -> None:
    with pytest.raises(DataeffError, match="vocabulary has 1000"):
        write(tmp_path / "a", [[5], document])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_writer_leaves_the_old_pair(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2]])
    with pytest.raises(DataeffError):
        write(tmp_path / "a", [[3, 4, 5], [-1]])
    assert read(tmp_path / "a") == [[1, 2]]
    assert len(list(tmp_path.iterdir())) == 2


def test_killed_between_the_renames_leaves_no_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", [[1, 2]])
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.suffix == ".idx":
            raise OSError("killed")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="killed"):
        write(tmp_path / "a", [[7, 8]])  # as many bytes as before: sizes alone could not tell
    with pytest.raises(DataeffError, match=r"a\.idx: no such file"):
        read(tmp_path / "a")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_a_missing_partner_is_named(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a", [[1, 2]])
    (tmp_path / f"a{suffix}").unlink()
    with pytest.raises(DataeffError, match=rf"a\{suffix}: no such file.*make both"):
        read(tmp_path / "a")


def header(magic: bytes = MAGIC, version: int = 1, code: int = 8, sequences: int = 2, entries: int = 3) -> bytes:
    return HEADER.pack(magic, version, code, sequences, entries)


SOUND = struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 2)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "0 bytes are fewer"),
        (header()[:20], "20 bytes are fewer"),
        (header(magic=b"TNTIDX\x00\x00\x00") + SOUND, "begins with"),
        (header(version=2) + SOUND, "version 2"),
        (header(code=9) + SOUND, "type code 9"),
        (header(code=0) + SOUND, "type code 0"),
        (header(sequences=2**63) + SOUND, f"{2**63} sequences"),
        (header(entries=2**64 - 1) + SOUND, "document entries take"),
        (header(sequences=2**61, entries=2**64 - 3 * 2**60 + 6) + SOUND, "sequences and"),
        (header() + SOUND[:-1], "document entries take"),
        (header() + SOUND + b"\x00", "document entries take"),
        (header() + struct.pack("<2i2q3q", 5, -1, 0, 10, 0, 1, 2), "size -1"),
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 8, 0, 1, 2), "sequence 1 is said to start at byte 8"),
        (header() + struct.pack("<2i2q3q", 3, 1, -2, 6, 0, 1, 2), "sequence 0 is said to start at byte -2"),
        (header() + struct.pack("<2i2q3q", 3, 2, 0, 6, 0, 1, 2), "not one pair"),
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 2, 1), "document entries do not rise"),
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 3), "document entries do not rise"),
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 6, 1, 1, 2), "document entries do not rise"),
        (header(code=4) + SOUND, "not one pair"),
    ],
)
def test_an_unsound_index_is_refused(tmp_path: Path, index: bytes, message: str) -> None:
    write(tmp_path / "a", [[1, 2, 3], [4]])
    idx_path(tmp_path / "a").write_bytes(index)
    with pytest.raises(DataeffError, match=message) as caught:
        IndexedDataset(tmp_path / "a")
    assert "again" in str(caught.value)


@pytest.mark.parametrize("size", [0, 7, 9, 32])
def test_a_bin_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    write(tmp_path / "a", [[1, 2, 3], [4]])
    bin_path(tmp_path / "a").write_bytes(bytes(size))
    if size == 32:  # what DeepSpeed's code 8 means: four tokens of 8 bytes; then the byte offsets are wrong
        with pytest.raises(DataeffError, match="sequence 1 is said to start at byte 6"):
            IndexedDataset(tmp_path / "a")
    else:
        with pytest.raises(DataeffError, match=rf"a\.bin: {size} bytes"):
            IndexedDataset(tmp_path / "a")


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1]])
    idx_path(tmp_path / "a").unlink()
    idx_path(tmp_path / "a").mkdir()
    with pytest.raises(DataeffError, match="cannot be read"):
        IndexedDataset(tmp_path / "a")


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(-30, 30),
    st.binary(max_size=40),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_open_whole_or_are_refused(
    changes: list[tuple[int, int]], cut: int, noise: bytes, only_noise: bool
) -> None:
    """A reader of damaged files either refuses them or stays inside them."""
    with TemporaryDirectory() as folder:
        prefix = Path(folder) / "a"
        write(prefix, [[1, 2, 3], [], [4, 5]])
        index = bytearray(idx_path(prefix).read_bytes())
        for position, value in changes:
            index[position % len(index)] = value
        damaged = bytes(index[:cut]) if cut < 0 else bytes(index) + noise[:cut]
        idx_path(prefix).write_bytes(noise if only_noise else damaged)
        try:
            documents = read(prefix)
        except DataeffError:
            return
        assert sum(map(len, documents)) == 5
