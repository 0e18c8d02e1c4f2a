from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.order import SPACING, SampleOrder


def growing(steps: int, first: int, last: int) -> np.ndarray:
    return np.linspace(first, last, steps).astype(np.int64)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 50), st.integers(0, 300), st.integers(0, 2**32))
def test_batches_are_full_within_the_pool_and_readable_at_once(
    steps: int, batch: int, first: int, more: int, seed: int
) -> None:
    pools = growing(steps, first, first + more)
    admission = np.random.default_rng(seed).permutation(first + more + 5)
    order = SampleOrder.build(seed=seed, batch_size=batch, pool_sizes=pools, admission=admission)
    for step, ids in enumerate(order.iterate()):
        assert len(ids) == batch
        assert set(ids.tolist()) <= set(admission[: pools[step]].tolist())
        assert (ids == order.samples(step)).all()


def test_one_cluster_is_a_shuffled_pass_without_repeats_then_another() -> None:
    order = SampleOrder.build(seed=1, batch_size=10, pool_sizes=np.full(20, 100), admission=None)
    ids = np.concatenate(list(order.iterate()))
    assert sorted(ids[:100].tolist()) == list(range(100)) == sorted(ids[100:].tolist())
    assert ids[:100].tolist() != ids[100:].tolist()


def test_resuming_beyond_a_stored_row_gives_the_same_order() -> None:
    steps = 2 * SPACING + 50
    order = SampleOrder.build(
        seed=3, batch_size=4, pool_sizes=growing(steps, 50, 5000), admission=np.arange(5000)[::-1]
    )
    whole = dict(enumerate(order.iterate()))
    for step in (0, 1, SPACING - 1, SPACING, SPACING + 1, 2 * SPACING, steps - 1):
        assert (next(order.iterate(step)) == whole[step]).all()
    assert len(order.counts) == 3


def test_every_sample_of_a_pool_is_equally_likely() -> None:
    """Uniform over the pool reached, not hardest first: late steps draw old and new clusters by their size."""
    pools = np.concatenate([np.full(500, 100), np.full(5000, 400)])
    order = SampleOrder.build(seed=5, batch_size=8, pool_sizes=pools, admission=None)
    late = np.concatenate(list(order.iterate(1500)))
    assert abs((late < 100).mean() - 0.25) < 0.01


def test_the_order_depends_on_the_seed() -> None:
    first, second = (
        SampleOrder.build(seed=s, batch_size=8, pool_sizes=np.full(5, 1000), admission=None) for s in (1, 2)
    )
    assert (first.samples(0) != second.samples(0)).any()
    assert first.digest != second.digest


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    order = SampleOrder.build(seed=7, batch_size=4, pool_sizes=growing(30, 8, 80), admission=np.arange(80)[::-1])
    order.save(tmp_path / "order.json")
    again = SampleOrder.load(tmp_path / "order.json")
    assert again.digest == order.digest
    assert all((a == b).all() for a, b in zip(order.iterate(), again.iterate(), strict=True))


def test_an_empty_first_pool_is_refused() -> None:
    with pytest.raises(DataeffError, match="first step's pool is empty"):
        SampleOrder.build(seed=1, batch_size=4, pool_sizes=np.array([0, 5]), admission=None)


def test_a_step_beyond_the_run_is_refused() -> None:
    order = SampleOrder.build(seed=1, batch_size=4, pool_sizes=np.full(3, 9), admission=None)
    with pytest.raises(IndexError, match="step 3 of a run of 3"):
        order.samples(3)
