"""The joint pools of several metrics, against sets of ids."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff import intersect
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.errors import DataeffError
from dataeff.intersect import Intersection

BLOCK = 64


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks also of few samples."""
    monkeypatch.setattr(intersect, "BLOCK_SAMPLES", BLOCK)


def index_of(metric: str, values: np.ndarray) -> DifficultyIndex:
    return DifficultyIndex(metric, values, np.argsort(values, kind="stable").astype(np.uint32))


def save(index: DifficultyIndex, folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "value.npy", index.values)
    np.save(folder / "order.npy", index.order)
    return folder


def pools_by_hand(sizes: dict[str, np.ndarray], indexes: dict[str, DifficultyIndex], step: int) -> set[int]:
    return set.intersection(*(set(indexes[metric].order[: size[step]].tolist()) for metric, size in sizes.items()))


@settings(max_examples=60, deadline=None)
@given(
    metrics=st.integers(1, 3),
    samples=st.integers(1, 4 * BLOCK),
    steps=st.integers(1, 12),
    distinct=st.sampled_from([1, 3, 50, 10**9]),
    lowest=st.sampled_from([0, -7, 10**12]),
    seed=st.integers(0, 2**32),
)
def test_the_pool_of_every_step_is_the_intersection(
    metrics: int, samples: int, steps: int, distinct: int, lowest: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    indexes = {f"m{i}": index_of(f"m{i}", random.integers(0, distinct, samples) + lowest) for i in range(metrics)}
    sizes = {metric: np.sort(random.integers(1, samples + 1, steps)) for metric in indexes}
    joint = Intersection.of(sizes, indexes, {})
    pools, admission = joint.pool_sizes(steps), joint.admission(None)
    assert sorted(admission.ids.tolist()) == list(range(samples))
    entered = 0
    for step in range(steps):
        assert set(admission.ids[: pools[step]].tolist()) == pools_by_hand(sizes, indexes, step)
        new = admission.ids[entered : pools[step]].tolist()
        assert new == sorted(new)
        entered = int(pools[step])


def test_on_disk_it_is_the_same(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    values = {"one": random.integers(0, 200, 1000).astype(np.uint8), "other": random.integers(-9000, 9000, 1000)}
    indexes = {metric: index_of(metric, value) for metric, value in values.items()}
    sizes = {"one": np.array([100, 100, 400, 1000]), "other": np.array([300, 500, 500, 990])}
    folders = {metric: save(index, tmp_path / metric) for metric, index in indexes.items()}
    in_memory = Intersection.of(sizes, indexes, {}).admission(None)
    on_disk = Intersection.of(sizes, indexes, folders).admission(tmp_path)
    assert on_disk.file == tmp_path / "admission.npy"
    assert np.load(on_disk.file).tolist() == in_memory.ids.tolist()
    assert on_disk.ids.dtype == np.uint32
    assert on_disk.sha256 == in_memory.sha256


def test_an_index_that_does_not_order_equal_values_by_id_is_refused() -> None:
    values = np.array([5, 5, 5, 1])
    wrong = DifficultyIndex("wrong", values, np.array([3, 2, 1, 0]))
    sound = index_of("sound", np.arange(4))
    with pytest.raises(DataeffError, match=r"wrong: order.npy does not list .* equal values by id; run `dataeff ana"):
        Intersection.of({"wrong": np.array([2, 4]), "sound": np.array([1, 4])}, {"wrong": wrong, "sound": sound}, {})
