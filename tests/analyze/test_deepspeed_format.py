"""DeepSpeed's files from the native index: read back, and what is refused. tests/parity has the bytes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze import deepspeed_format as stage
from dataeff.analyze.deepspeed_format import open_deepspeed_index, prefix_of, write_frequency, write_metric
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.tokens.indexed_dataset import IndexedDataset
from tests.analyze.native_index import write_native

METRIC = "vocab_rarity"

value_lists = st.one_of(
    st.lists(st.integers(0, 5), min_size=1, max_size=400),
    st.lists(st.integers(0, 2**16 + 3), min_size=1, max_size=400),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=300),
)


@given(value_lists, st.sampled_from([1, 7, 64, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_all_files_say_the_same(values: list[int], block: int) -> None:
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_BLOCK", block)
        folder = Path(name)
        write_native(folder / "native", METRIC, values)
        write_metric(folder / "native", folder / "out")

        def read(kind: str) -> list[list[int]]:
            dataset = IndexedDataset(prefix_of(folder / "out", METRIC, kind))
            return [dataset[number].tolist() for number in range(len(dataset))]

        distinct = sorted(set(values))
        ids = [[id for id, found in enumerate(values) if found == value] for value in distinct]
        step = max(1, len(distinct) // 100)
        assert read("sample_to_metric") == [[value] for value in values]
        assert read("index_to_metric") == [[value] for value in distinct]
        assert read("index_to_sample") == ids
        assert read("index_to_sample_percentile_merged") == [
            [id for group in ids[first : first + step] for id in group] for first in range(0, len(ids), step)
        ]


def test_read_back_as_the_native_index(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 90, 1000).tolist()
    write_native(tmp_path / "native", METRIC, values)
    write_metric(tmp_path / "native", tmp_path / "out")
    native, found = DifficultyIndex.open(tmp_path / "native"), open_deepspeed_index(tmp_path / "out", METRIC)
    assert found.values.tolist() == native.values.tolist() == values
    assert found.order.tolist() == native.order.tolist()
    assert [found.pool_size_at_percentile(percentile) for percentile in (0, 1, 99, 100)] == [0, 10, 990, 1000]
    assert found.pool_size_at_value(44) == sum(value <= 44 for value in values)
    assert read_json(tmp_path / "out" / "index.json") == read_json(tmp_path / "native" / "index.json")
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith((".", "tmp"))]


def test_frequency(tmp_path: Path) -> None:
    counts = np.array([3, 0, 70_000, 1], dtype=np.int64)
    np.save(tmp_path / "counts.npy", counts)
    write_frequency(tmp_path / "counts.npy", tmp_path / "out")
    found = IndexedDataset(tmp_path / "out" / "total_vocab_freq_metric_value")
    assert found.dtype == np.uint32
    assert [found[0].tolist()] == [counts.tolist()]
    assert found.document_index.tolist() == [0, 1]


def test_refuses_an_order_that_is_not_by_value(tmp_path: Path) -> None:
    write_native(tmp_path / "native", METRIC, [1, 5, 3, 9])
    np.save(tmp_path / "native" / "order.npy", np.array([0, 1, 2, 3], dtype=np.uint32))
    with pytest.raises(DataeffError, match=r"order\.npy does not follow the values"):
        write_metric(tmp_path / "native", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_of_two_indexes(tmp_path: Path) -> None:
    for name, values in (("a", [1, 5, 3, 9]), ("b", [1, 5, 3])):
        write_native(tmp_path / f"{name}_native", METRIC, values)
        write_metric(tmp_path / f"{name}_native", tmp_path / name)
    for kind in (".bin", ".idx"):
        (tmp_path / "b" / f"{METRIC}_index_to_sample{kind}").replace(tmp_path / "a" / f"{METRIC}_index_to_sample{kind}")
    with pytest.raises(DataeffError, match="4 values of 4 samples and 3 ids in order"):
        open_deepspeed_index(tmp_path / "a", METRIC)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    write_native(tmp_path / "native", METRIC, list(range(5000)))
    code = (
        "from pathlib import Path; import sys; from dataeff.analyze.deepspeed_format import write_metric; "
        "write_metric(Path(sys.argv[1]), Path(sys.argv[2]))"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    arguments: list[Any] = [sys.executable, "-c", code, tmp_path / "native", tmp_path / "out"]
    found = subprocess.run(arguments, preexec_fn=limit, capture_output=True, text=True)
    assert found.returncode != 0
    assert "do not fit (File too large); free space there and run again" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["native"]


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    """Two million samples take hardly more than two thousand: blocks and maps, no arrays of all samples."""
    peaks = []
    for samples in (2_000, 2_000_000):
        values = np.random.default_rng(1).integers(0, 40_000, samples)
        write_native(tmp_path / f"{samples}", METRIC, values)
        code = (
            "import sys; from pathlib import Path; from dataeff.analyze import deepspeed_format as stage; "
            "stage.RESIDENT_LIMIT_BYTES = 0; stage._BLOCK = 1 << 16; "
            "stage.write_metric(Path(sys.argv[1]), Path(sys.argv[2])); "
            "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
        )
        arguments = [sys.executable, "-c", code, str(tmp_path / f"{samples}"), str(tmp_path / f"{samples}_out")]
        found = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks.append(int(found.stdout.split()[-1]) * 1024)
    # The mapped value.npy (4 MB) is touched all over within a block; a single int64 array of all would add 16 MB.
    assert peaks[1] - peaks[0] < 12_000_000


def test_facts_are_json(tmp_path: Path) -> None:
    write_native(tmp_path / "native", METRIC, [4, 4])
    write_json(tmp_path / "native" / "index.json", {**read_json(tmp_path / "native" / "index.json"), "max": 5})
    with pytest.raises(DataeffError, match="do not run from 4 to 5"):
        write_metric(tmp_path / "native", tmp_path / "out")
