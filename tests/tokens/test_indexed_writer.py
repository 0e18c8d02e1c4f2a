"""Many sequences at once are the same bytes as one by one; what cannot be written leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.tokens import indexed_writer
from dataeff.tokens.indexed_dataset import (
    IndexedDataset,
    bin_path,
    facts_path,
    idx_path,
    index_writer,
    write_indexed_arrays,
    write_indexed_dataset,
)

documents_of_sentences = st.lists(st.lists(st.lists(st.integers(0, 299), max_size=5), max_size=4), max_size=8)


def documents_in(prefix: Path) -> list[list[list[int]]]:
    dataset = IndexedDataset(prefix)
    ends = dataset.document_index.tolist()
    return [[dataset[row].tolist() for row in range(first, last)] for first, last in pairwise(ends)]


@given(documents_of_sentences, st.integers(1, 9), st.sampled_from([1, 3, 1 << 18]))
@settings(max_examples=80, deadline=None)
def test_batches_are_the_same_bytes_as_one_by_one(documents: list[list[list[int]]], batch: int, rows: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexed_writer, "_ROWS", rows)
        single, flat = Path(folder) / "single", Path(folder) / "flat"
        with write_indexed_dataset(single, 300) as writer:
            for document in documents:
                for sentence in document:
                    writer.add_sequence(sentence)
                writer.end_documents(np.array([writer.sequence_count]))
        with write_indexed_dataset(flat, 300) as writer:
            for first in range(0, len(documents), batch):
                part = documents[first : first + batch]
                sentences = [sentence for document in part for sentence in document]
                writer.add_flat(
                    np.array([token for sentence in sentences for token in sentence], dtype=np.int64),
                    np.array(list(map(len, sentences)), dtype=np.int32),
                    np.array(list(map(len, part)), dtype=np.int32),
                )
        assert documents_in(single) == documents
        assert bin_path(single).read_bytes() == bin_path(flat).read_bytes()
        assert idx_path(single).read_bytes() == idx_path(flat).read_bytes()


def test_without_document_sizes_each_sequence_is_a_document(tmp_path: Path) -> None:
    with write_indexed_dataset(tmp_path / "a", 300) as writer:
        writer.add_flat(np.array([1, 2, 3]), np.array([2, 0, 1]))
    assert documents_in(tmp_path / "a") == [[[1, 2]], [[]], [[3]]]


@pytest.mark.parametrize(
    ("values", "sizes", "documents"), [([1, 2], [1], None), ([1, 2], [1, 1], [1]), ([1, 2], [1, 1], [1, 2])]
)
def test_sizes_that_do_not_add_up_are_refused(
    tmp_path: Path, values: list[int], sizes: list[int], documents: list[int] | None
) -> None:
    with pytest.raises(ValueError, match="sequences"), write_indexed_dataset(tmp_path / "a", 300) as writer:
        writer.add_flat(np.array(values), np.array(sizes), None if documents is None else np.array(documents))
    assert list(tmp_path.iterdir()) == []


def test_a_document_left_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="last document"), write_indexed_dataset(tmp_path / "a", 300) as writer:
        writer.add_sequence([1, 2])
    assert list(tmp_path.iterdir()) == []


def test_ids_beyond_the_vocabulary_in_a_batch_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(DataeffError, match=r"document 0: token ids from 5 to 300; the vocabulary has 300: use the"),
        write_indexed_dataset(tmp_path / "a", 300) as writer,
    ):
        writer.add_flat(np.array([5, 300], dtype=np.uint32), np.array([2]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codes", ["megatron", "deepspeed"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_arrays_of_any_type(tmp_path: Path, dtype: type, codes: str) -> None:
    bounds = np.iinfo(dtype)
    arrays = [np.array([bounds.min, 0, bounds.max], dtype=dtype), np.array([], dtype=dtype), np.array([5], dtype=dtype)]
    count = write_indexed_arrays(tmp_path / "a", iter(arrays), dtype, documents="one", codes=codes)  # type: ignore[arg-type]
    dataset = IndexedDataset(tmp_path / "a")
    assert (count, dataset.document_index.tolist()) == (3, [0, 3])
    assert dataset.dtype == np.dtype(dtype)
    assert [dataset[row].tolist() for row in range(3)] == [array.tolist() for array in arrays]


def test_document_entries_of_arrays(tmp_path: Path) -> None:
    arrays = [np.array([number]) for number in range(4)]
    write_indexed_arrays(tmp_path / "a", arrays, np.int32, documents=np.array([0, 1, 1, 4]))
    assert documents_in(tmp_path / "a") == [[[0]], [], [[1], [2], [3]]]
    for entries in ([1, 4], [0, 3], [0, 2, 1, 4], []):
        with pytest.raises(ValueError, match="document"):
            write_indexed_arrays(tmp_path / "b", arrays, np.int32, documents=np.array(entries))
    assert not (tmp_path / "b.idx").exists()


def test_what_a_type_or_code_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"no code for uint32 in its form for megatron; use one of uint8, int8"):
        write_indexed_arrays(tmp_path / "a", [], np.uint32)
    with (
        pytest.raises(DataeffError, match="values from 1 to 256 do not fit into uint8"),
        index_writer(tmp_path / "a", np.uint8) as writer,
    ):
        writer.add(np.array([1, 256]))
    assert list(tmp_path.iterdir()) == []


def test_facts_appear_with_the_pair(tmp_path: Path) -> None:
    with write_indexed_dataset(tmp_path / "a", 300) as writer:
        writer.add([1])
        writer.facts = {"documents": 1}
    assert facts_path(tmp_path / "a").read_text() == '{\n  "documents": 1\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx", "a.json"]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("where", ["tokens", "sizes"])
def test_a_full_disk_leaves_the_old_pair_and_one_message(tmp_path: Path, where: str) -> None:
    """A limit on the size of files fails writes as a full disk does, at the tokens or only at the index."""
    with write_indexed_dataset(tmp_path / "a", 300) as writer:
        writer.add([1, 2])
    done = run(
        """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from dataeff.errors import DataeffError
        from dataeff.tokens.indexed_dataset import write_indexed_dataset
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        size = 400 if sys.argv[2] == "tokens" else 1
        try:
            with write_indexed_dataset(Path(sys.argv[1]), 300) as writer:
                for _ in range(50):
                    writer.add_flat(np.ones(5_000 * size, np.uint16), np.full(5_000, size, np.int32))
        except DataeffError as error:
            print(error)
        """,
        str(tmp_path / "a"),
        where,
    )
    assert done.returncode == 0, done.stderr
    assert "a: the token files do not fit (File too large); free space there and run again" in done.stdout
    assert documents_in(tmp_path / "a") == [[[1, 2]]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]


def test_two_processes_that_write_one_prefix_leave_one_whole_pair(tmp_path: Path) -> None:
    """Each writes files of its own and renames them under a lock: the pair is that of one of them."""
    script = """
        import sys
        from pathlib import Path
        from dataeff.tokens.indexed_dataset import write_indexed_dataset
        value = int(sys.argv[2])
        for _ in range(40):
            with write_indexed_dataset(Path(sys.argv[1]), 300) as writer:
                for length in range(value):
                    writer.add([value] * (length + 1))
    """
    writers = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "a"), str(value)])
        for value in (3, 7)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    documents = documents_in(tmp_path / "a")
    value = documents[0][0][0]
    assert documents == [[[value] * (length + 1)] for length in range(value)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]
