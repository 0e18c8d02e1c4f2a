import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.admission import Admission
from dataeff.errors import DataeffError
from dataeff.order import MOST_CLUSTERS, SPACING, SampleOrder


def growing(steps: int, first: int, last: int) -> np.ndarray:
    return np.linspace(first, last, steps).astype(np.int64)


def shuffled(samples: int, seed: int = 0) -> Admission:
    return Admission.of_ids(np.random.default_rng(seed).permutation(samples))


def small_order(**changes: object) -> SampleOrder:
    """30 steps of 4, the pool growing from 8 to 80 of 80 samples."""
    fields = {"seed": 7, "batch_size": 4, "pool_sizes": growing(30, 8, 80), "admission": shuffled(80)}
    return SampleOrder.build(**{**fields, **changes})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 50), st.integers(0, 300), st.integers(0, 2**32))
def test_batches_are_full_within_the_pool_and_readable_at_once(
    steps: int, batch: int, first: int, more: int, seed: int
) -> None:
    pools = growing(steps, first, first + more)
    admission = shuffled(first + more + 5, seed)
    order = SampleOrder.build(seed=seed, batch_size=batch, pool_sizes=pools, admission=admission)
    for step, ids in enumerate(order.iterate()):
        assert len(ids) == batch
        assert set(ids.tolist()) <= set(admission.ids[: pools[step]].tolist())
        assert (ids == order.samples(step)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 50),
    st.integers(1, 60),
    st.integers(0, 2**32),
)
def test_every_pass_over_a_cluster_is_a_permutation(sizes: list[int], every: int, batch: int, seed: int) -> None:
    """Clusters of these sizes, a new one every few steps: each is drawn from without repeats until it is used up."""
    bounds = np.cumsum([0, *sizes])
    pools = np.repeat(bounds[1:], every)
    order = SampleOrder.build(seed=seed, batch_size=batch, pool_sizes=pools, admission=None)
    drawn = defaultdict(list)
    for step, ids in enumerate(order.iterate()):
        clusters = np.searchsorted(bounds, ids, side="right") - 1
        assert np.bincount(clusters, minlength=len(sizes)).tolist() == order.draws(step).tolist()
        assert order.before(step).tolist() == [len(drawn[cluster]) for cluster in range(len(sizes))]
        for cluster, id in zip(clusters.tolist(), ids.tolist(), strict=True):
            drawn[cluster].append(id)
    for cluster, ids in drawn.items():
        whole = list(range(bounds[cluster], bounds[cluster + 1]))
        for first in range(0, len(ids) - len(whole) + 1, len(whole)):
            assert sorted(ids[first : first + len(whole)]) == whole
        rest = ids[len(ids) - len(ids) % len(whole) :]
        assert len(set(rest)) == len(rest)


def test_one_cluster_is_a_shuffled_pass_without_repeats_then_another() -> None:
    order = SampleOrder.build(seed=1, batch_size=10, pool_sizes=np.full(20, 100), admission=None)
    ids = np.concatenate(list(order.iterate()))
    assert sorted(ids[:100].tolist()) == list(range(100)) == sorted(ids[100:].tolist())
    assert ids[:100].tolist() != ids[100:].tolist()


def test_resuming_beyond_a_stored_row_gives_the_same_order() -> None:
    steps = 2 * SPACING + 50
    order = SampleOrder.build(
        seed=3, batch_size=4, pool_sizes=growing(steps, 50, 5000), admission=Admission.of_ids(np.arange(5000)[::-1])
    )
    whole = dict(enumerate(order.iterate()))
    for step in (0, 1, SPACING - 1, SPACING, SPACING + 1, 2 * SPACING, steps - 1):
        assert (next(order.iterate(step)) == whole[step]).all()
        assert (order.samples(step) == whole[step]).all()
    assert len(order.counts) == 3
    assert order.counts.sum(axis=1).tolist() == [0, 4 * SPACING, 8 * SPACING]


def test_every_sample_of_a_pool_is_equally_likely() -> None:
    """Uniform over the pool reached, not hardest first: late steps draw old and new clusters by their size."""
    pools = np.concatenate([np.full(500, 100), np.full(5000, 400)])
    order = SampleOrder.build(seed=5, batch_size=8, pool_sizes=pools, admission=None)
    late = np.concatenate(list(order.iterate(1500)))
    assert abs((late < 100).mean() - 0.25) < 0.01


def test_counts_per_cluster_are_multinomial() -> None:
    """Mean and variance of the draws of clusters of 10%, 20%, 30% and 40% over 20,000 steps, to five sigma."""
    shares, steps, batch = np.array([0.1, 0.2, 0.3, 0.4]), 20_000, 32
    pools = np.concatenate([[100, 300, 600], np.full(steps, 1000)])
    order = SampleOrder.build(seed=11, batch_size=batch, pool_sizes=pools, admission=None)
    draws = np.array([order.draws(step) for step in range(3, 3 + steps)])
    covariance = batch * (np.diag(shares) - np.outer(shares, shares))
    error = np.sqrt(np.diag(covariance) / steps)
    assert (np.abs(draws.mean(axis=0) - batch * shares) < 5 * error).all()
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / steps)
    assert (np.abs(np.cov(draws.T) - covariance) < 5 * spread).all()


def test_clusters_are_mixed_within_a_batch() -> None:
    """So that ranks, which split a batch in order, get the same mixture of difficulties."""
    pools = np.concatenate([np.full(1, 500), np.full(2000, 1000)])
    order = SampleOrder.build(seed=2, batch_size=16, pool_sizes=pools, admission=None)
    old = np.array([ids < 500 for ids in order.iterate(1)])
    assert (np.abs(old.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(2000)).all()


def test_the_order_depends_on_the_seed() -> None:
    first, second = (small_order(seed=seed) for seed in (1, 2))
    assert (first.samples(20) != second.samples(20)).any()
    assert first.digest != second.digest


def test_the_order_is_stable_across_versions_and_machines() -> None:
    order = small_order(pool_sizes=growing(1500, 8, 80), admission=None)
    assert order.samples(0).tolist() == [4, 1, 2, 6]
    assert order.samples(1499).tolist() == [55, 31, 45, 1]
    assert order.digest == "ed825d26d0c569d921880e3f82ccf2cbb000bb8896035c995a927a7a8f643e0e"


def test_the_order_does_not_depend_on_the_processors() -> None:
    """Another process, with one processor only, counts the same."""
    order = small_order(pool_sizes=growing(5 * SPACING, 8, 80))
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from dataeff.order import SPACING\n"
        "from tests.test_order import growing, small_order\n"
        "print(small_order(pool_sizes=growing(5 * SPACING, 8, 80)).digest)"
    )
    root = Path(__file__).parents[1]
    child = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert child.stdout.split()[-1] == order.digest  # a slow machine is told of the progress first


def test_positions_beyond_32_bits() -> None:
    pools = np.array([1, 2**33, 2**33 + 1, 2**40], dtype=np.int64)
    order = SampleOrder.build(seed=1, batch_size=1000, pool_sizes=np.repeat(pools, 2), admission=None)
    for step, ids in enumerate(order.iterate()):
        assert 0 <= ids.min() <= ids.max() < pools[step // 2]
    assert ids.max() > 2**39


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    order = small_order()
    order.save(tmp_path / "order.json")
    again = SampleOrder.load(tmp_path / "order.json")
    assert again.digest == order.digest
    assert all((a == b).all() for a, b in zip(order.iterate(), again.iterate(), strict=True))


@pytest.mark.parametrize("key", ["admission", "seed"])
def test_an_order_of_another_version_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "order.json"
    small_order().save(path)
    facts = json.loads(path.read_text())
    del facts[key]
    path.write_text(json.dumps(facts))
    with pytest.raises(DataeffError, match=r"order.json: not a sample order of this version; run `dataeff plan` again"):
        SampleOrder.load(path)


def test_changed_counts_are_refused(tmp_path: Path) -> None:
    order = small_order()
    order.save(tmp_path / "order.json")
    np.save(tmp_path / "counts.npy", order.counts + 1)
    with pytest.raises(DataeffError, match=r"order.json: does not match its digest, or counts.npy does not"):
        SampleOrder.load(tmp_path / "order.json")


def test_an_empty_first_pool_is_refused() -> None:
    with pytest.raises(DataeffError, match="first step's pool is empty"):
        small_order(pool_sizes=np.array([0, 5]))


def test_a_shrinking_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="never decrease"):
        small_order(pool_sizes=np.array([9, 8]))


def test_too_many_clusters_are_refused() -> None:
    with pytest.raises(DataeffError, match=r"grows 65,537 times; 65,536 are the most: raise multiple_of"):
        small_order(pool_sizes=np.arange(1, MOST_CLUSTERS + 2), admission=None)


def test_a_step_beyond_the_run_is_refused() -> None:
    with pytest.raises(IndexError, match="step 30 of a run of 30"):
        small_order().samples(30)
