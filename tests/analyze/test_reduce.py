"""The reduce: any integers, in any parts, against numpy's stable sort; and parts that do not fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dataeff.analyze import reduce as stage
from dataeff.analyze import sorting
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.analyze.map import integer_type, part_range
from dataeff.analyze.reduce import reduce, reduce_frequency
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, sha256_file, write_json

FACTS = {
    "metric": "vocab_rarity",
    "family": "gpt",
    "sequence_length": 16,
    "samples_digest": "s",
    "frequency_sha256": "f",
}


def write_parts(folder: Path, values: NDArray[np.int64], parts: int, **changes: Any) -> Path:
    """As the map leaves them: each part in the smallest type for its own values."""
    folder.mkdir(exist_ok=True)
    for part in range(parts):
        first, last = part_range(len(values), part, parts)
        of_part = values[first:last]
        low, high = (int(of_part.min()), int(of_part.max())) if len(of_part) else (0, 0)
        np.save(folder / f"{part}.npy", of_part.astype(integer_type(low, high)))
        facts = {**FACTS, "samples": len(values), "part": part, "parts": parts, "first": first, "last": last}
        facts |= {"min": low, "max": high, "sha256": sha256_file(folder / f"{part}.npy")}
        write_json(folder / f"{part}.json", facts | changes)
    return folder


def check_index(values: NDArray[np.int64], parts: int) -> dict[str, Any]:
    with TemporaryDirectory() as name:
        out = Path(name) / "out"
        reduce(write_parts(Path(name) / "parts", values, parts), parts, out)
        assert check_manifest(out) is None
        index = DifficultyIndex.open(out)
        assert index.values.dtype == integer_type(int(values.min()), int(values.max()))
        assert index.values.astype(np.int64).tolist() == values.tolist()
        assert index.order.dtype == np.uint32
        assert index.order.tolist() == np.argsort(values, kind="stable").tolist()
        facts: dict[str, Any] = json.loads((out / "index.json").read_text())
        assert facts["distinct"] == len(np.unique(values))
        return facts


INT64 = np.iinfo(np.int64)
lists = st.one_of(
    st.lists(st.integers(0, 5), min_size=1, max_size=200),
    st.lists(st.integers(-300, 300), min_size=1, max_size=200),
    st.lists(st.sampled_from([INT64.min, -(2**40), 0, 7, 2**33, INT64.max]), min_size=1, max_size=200),
    st.lists(st.integers(INT64.min, INT64.max), min_size=1, max_size=200),
    st.integers(1, 200).map(lambda count: [4] * count),
)


@given(lists, st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_order_is_numpys_stable_sort(values: list[int], parts: int) -> None:
    check_index(np.array(values, dtype=np.int64), parts)


@given(lists, st.integers(1, 4), st.integers(1, 5), st.integers(1, 40), st.sampled_from([1, 100, 1 << 24]))
@settings(max_examples=80, deadline=None)
def test_blocks_and_slices_change_nothing(values: list[int], parts: int, block: int, slice_: int, counted: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "BLOCK_VALUES", block)
        patch.setattr(sorting, "COUNTED_SLICE", slice_)
        patch.setattr(sorting, "SORTED_SLICE", slice_)
        patch.setattr(sorting, "COUNTED_RANGE", counted)
        check_index(np.array(values, dtype=np.int64), parts)


def test_many_values_of_a_large_range() -> None:
    random = np.random.default_rng(1)
    check_index(random.integers(0, 512, 50_000) * 10**6 + random.integers(0, 3000, 50_000), 3)


def test_facts_of_the_index(tmp_path: Path) -> None:
    values = np.array([3, -1, 3, 700])
    reduce(write_parts(tmp_path / "parts", values, 2), 2, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "index.json").read_text()) == {
        "metric": "vocab_rarity",
        "unit": "nats",
        "min": -1,
        "max": 700,
        "distinct": 3,
        "family": "gpt",
        "sequence_length": 16,
        "samples_digest": "s",
        "frequency_sha256": "f",
        "samples": 4,
    }


def test_arrays_are_those_of_numpy_save(tmp_path: Path) -> None:
    values = np.array([5, 1, 70_000])
    reduce(write_parts(tmp_path / "parts", values, 1), 1, tmp_path / "out")
    np.save(tmp_path / "value.npy", values.astype(np.uint32))
    np.save(tmp_path / "order.npy", np.array([1, 0, 2], dtype=np.uint32))
    for name in ("value.npy", "order.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


# --- parts that do not fit together ------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["1.npy", "1.json"])
def test_a_missing_part_is_named(tmp_path: Path, file: str) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(10), 3)
    (folder / file).unlink()
    with pytest.raises(DataeffError, match=rf"{file}: no such file; run `dataeff analyze_map` of part 1 of 3 again"):
        reduce(folder, 3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "mtld"}, "metric is 'mtld', that of part 0 is 'vocab_rarity': parts of different metrics"),
        ({"samples_digest": "other"}, "samples_digest is 'other'"),
        ({"frequency_sha256": None}, "frequency_sha256 is None"),
        ({"samples": 11}, "samples 3 to 6"),
        ({"parts": 4}, "part 1 of 4; run"),
        ({"part": 2}, "part 2 of 3; run"),
        ({"first": 0}, "samples 0 to 6"),
        ({"sha256": "0"}, r"1\.npy: not the values that 1\.json describes"),
    ],
)
def test_a_part_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(10), 3)
    facts = json.loads((folder / "1.json").read_text())
    write_json(folder / "1.json", facts | changes)
    with pytest.raises(DataeffError, match=message):
        reduce(folder, 3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_beyond_the_ends_in_the_facts_are_refused(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts", np.array([1, 9, 1]), 1, max=8)
    with pytest.raises(DataeffError, match="samples 0 to 2 have values from 1 to 9, the parts' facts say 1 to 8"):
        reduce(folder, 1, tmp_path / "out")


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"part": 1, "parts": 3, "samples": "many"}'])
def test_facts_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(10), 3)
    (folder / "1.json").write_text(content)
    with pytest.raises(DataeffError, match=r"1\.json: not"):
        reduce(folder, 3, tmp_path / "out")


def test_the_number_of_parts_is_that_of_the_first(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(10), 3)
    reduce(folder, None, tmp_path / "out")
    assert np.load(tmp_path / "out" / "value.npy").tolist() == list(range(10))
    (folder / "2.npy").unlink()
    with pytest.raises(DataeffError, match=r"2\.npy: no such file; run `dataeff analyze_map` of part 2 of 3 again"):
        reduce(folder, None, tmp_path / "out")
    (folder / "0.json").unlink()
    with pytest.raises(DataeffError, match=r"0\.json: no such file; run `dataeff analyze_map` of part 0 again"):
        reduce(folder, None, tmp_path / "out")


def test_more_or_fewer_parts_than_were_made(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(10), 3)
    with pytest.raises(DataeffError, match="part 0 of 3; run `dataeff analyze_map` of part 0 of 2"):
        reduce(folder, 2, tmp_path / "out")
    with pytest.raises(DataeffError, match="at least one is needed"):
        reduce(folder, 0, tmp_path / "out")


def test_frequencies_are_summed_and_are_no_metric(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "parts", np.arange(6), 2, metric="total_vocab_freq", bins=3)
    reduce_frequency(folder, 2, tmp_path / "frequency.npy")
    assert np.load(tmp_path / "frequency.npy").tolist() == [3, 5, 7]
    with pytest.raises(DataeffError, match="no metric of samples"):
        reduce(folder, 2, tmp_path / "out")
    with pytest.raises(DataeffError, match="parts of the metric 'vocab_rarity', not of total_vocab_freq"):
        reduce_frequency(write_parts(tmp_path / "other", np.arange(6), 2), 2, tmp_path / "other.npy")


# --- resources ---------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit of the file size stands for it: the system refuses a write in the same place."""
    folder = write_parts(tmp_path / "parts", np.random.default_rng(0).integers(0, 9, 50_000), 1)
    code = (
        "import resource, sys; from pathlib import Path; from dataeff.analyze.reduce import reduce\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "reduce(Path(sys.argv[1]), 1, Path(sys.argv[2]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert f"{tmp_path / 'out'}: cannot be written (File too large); make room" in run.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parts"]


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Counting 16 million samples takes less than their sort keys would."""
    count = 1 << 24
    folder = write_parts(tmp_path / "parts", np.random.default_rng(0).integers(0, 50_000, count), 2)
    code = (
        "import resource, sys; from pathlib import Path; from dataeff.analyze import reduce as stage, sorting\n"
        "sorting.COUNTED_SLICE = 1 << 20\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "stage.reduce(Path(sys.argv[1]), 2, Path(sys.argv[2]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    grown_bytes = int(run.stdout.splitlines()[-1]) * 1024
    assert grown_bytes < 4 * count + 2**26  # of which 2**26 for compiling and the tables
