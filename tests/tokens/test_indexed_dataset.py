"""The .bin/.idx pair: what goes in comes out; a pair that does not fit is refused with words, never a crash."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
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
        assert dataset.pointers.tolist() == (starts * dataset.dtype.itemsize).tolist()
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
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 1), "document entries do not rise"),
        (header() + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, -1, 2), "document entries do not rise"),
        (header(entries=0) + struct.pack("<2i2q", 3, 1, 0, 6), "document entries do not rise"),
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


def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """Opening it would wait for a writer for ever."""
    write(tmp_path / "a", [[1]])
    bin_path(tmp_path / "a").unlink()
    os.mkfifo(bin_path(tmp_path / "a"))
    with pytest.raises(DataeffError, match="not a regular file"):
        IndexedDataset(tmp_path / "a")


def test_sizes_without_the_end_token_are_explained(tmp_path: Path) -> None:
    """Megatron-DeepSpeed's preprocess_data.py --append-eod writes the token but does not count it."""
    write(tmp_path / "a", [[1, 2, 3], [4]])
    bin_path(tmp_path / "a").write_bytes(bytes(2 * 6))
    with pytest.raises(DataeffError, match="leave the end token out of the sizes"):
        IndexedDataset(tmp_path / "a")


# --- damaged files ----------------------------------------------------------------------------------------------


def opens_sound_or_is_refused(prefix: Path) -> None:
    """A reader of damaged files either refuses them or stays inside them."""
    try:
        dataset = IndexedDataset(prefix)
    except DataeffError:
        return
    lengths = [len(dataset[number]) for number in range(len(dataset))]
    assert lengths == dataset.sizes.tolist()
    assert sum(lengths) * dataset.dtype.itemsize == bin_path(prefix).stat().st_size
    assert dataset.document_index[0] == 0
    assert dataset.document_index[-1] == len(dataset)
    assert (np.diff(dataset.document_index) >= 0).all()


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(-30, 30),
    st.binary(max_size=40),
    st.integers(-8, 8),
    st.sampled_from(["changed", "noise", "noise after the magic"]),
)
@settings(max_examples=400, deadline=None)
def test_any_bytes_open_sound_or_are_refused(
    changes: list[tuple[int, int]], cut: int, noise: bytes, bin_change: int, form: str
) -> None:
    with TemporaryDirectory() as folder:
        prefix = Path(folder) / "a"
        write(prefix, [[1, 2, 3], [], [4, 5]])
        index = bytearray(idx_path(prefix).read_bytes())
        for position, value in changes:
            index[position % len(index)] = value
        damaged = bytes(index[:cut]) if cut < 0 else bytes(index) + noise[:cut]
        idx_path(prefix).write_bytes({"changed": damaged, "noise": noise}.get(form, MAGIC + noise))
        tokens = bin_path(prefix).read_bytes()
        bin_path(prefix).write_bytes(tokens[:bin_change] if bin_change < 0 else tokens + bytes(bin_change))
        opens_sound_or_is_refused(prefix)


@given(
    st.integers(0, 2**64 - 1) | st.just(1),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1) | st.integers(0, 4),
    st.integers(0, 2**64 - 1) | st.integers(0, 4),
    st.binary(max_size=100),
    st.integers(0, 40),
)
@settings(max_examples=400, deadline=None)
def test_any_header_opens_sound_or_is_refused(
    version: int, code: int, sequences: int, entries: int, rest: bytes, bin_bytes: int
) -> None:
    with TemporaryDirectory() as folder:
        prefix = Path(folder) / "a"
        idx_path(prefix).write_bytes(header(MAGIC, version, code, sequences, entries) + rest)
        bin_path(prefix).write_bytes(bytes(bin_bytes))
        opens_sound_or_is_refused(prefix)


def test_a_bad_header_takes_no_memory(tmp_path: Path) -> None:
    """Counts of 2**40 in a small file, opened by a process that may have no more than it has."""
    write(tmp_path / "a", [[1, 2, 3], [4]])
    idx_path(tmp_path / "a").write_bytes(header(sequences=2**40, entries=2**40) + SOUND)
    script = f"""
import resource
from pathlib import Path
from dataeff.errors import DataeffError
from dataeff.tokens.indexed_dataset import IndexedDataset
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    IndexedDataset(Path({str(tmp_path / "a")!r}))
except DataeffError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "1099511627776 sequences" in done.stdout


# --- files larger than memory -----------------------------------------------------------------------------------


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_opening_and_reading_keep_memory_bounded(tmp_path: Path) -> None:
    """60 MB of index and 80 MB of tokens, of which no more stays resident than was read since the last release."""
    rows = 5_000_000
    prefix = tmp_path / "large"
    with write_indexed_dataset(prefix, 300) as writer:
        for first in range(0, rows, rows // 10):
            del first
            writer.add_flat(
                np.ones(8 * rows // 10, np.uint16), np.full(rows // 10, 8, np.int32), np.array([rows // 10])
            )
    before = resident_bytes()
    dataset = IndexedDataset(prefix)
    assert resident_bytes() - before < 45 << 20, "one part of the checks: 1 million rows of 12 bytes, and their sums"
    highest = 0
    for first in range(0, dataset.token_count, 1 << 20):
        assert dataset.tokens[first : first + (1 << 20)].min() == 1
        dataset.release()
        highest = max(highest, resident_bytes() - before)
    assert highest < 45 << 20
    assert dataset[rows - 1].tolist() == [1] * 8, "arrays stay valid after a release"
    assert dataset.document_index.tolist() == [part * rows // 10 for part in range(11)]
