"""The sample order against the installed DeepSpeed's DeepSpeedDataSampler: equal pools, equal statistics.

Both are random, so what is drawn is compared in distribution: the draws per cluster with the multinomial that both
follow, within five sigma, and how often each sample comes, which the passes over a cluster fix. The pools are equal
as sets, at every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.plan import TrainingPlan, build_plan
from tests.factory import small_plan_spec
from tests.parity.upstream_sampler import batches, make_sampler, percentiles, process_group, write_index

pytest.importorskip("deepspeed")

SAMPLES, BATCH, STEPS, OVER_STEPS, START = 6000, 16, 1500, 500, 10


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with process_group(tmp_path_factory.mktemp("group")) as found:
        yield found


def made_values(metrics: list[str]) -> dict[str, np.ndarray]:
    return {metric: np.random.default_rng(seed).integers(0, 400, SAMPLES) for seed, metric in enumerate(metrics)}


def our_plan(values: dict[str, np.ndarray]) -> TrainingPlan:
    part = {
        "apply": "select",
        "pacing": {"start": START, "end": 100, "over": f"{OVER_STEPS}/{STEPS}", "root": 2},
    }
    spec = small_plan_spec(
        {"curriculum": dict.fromkeys(values, part)},
        batch_size=BATCH,
        train_tokens=STEPS * BATCH * 64,
        max_epochs=STEPS * BATCH / SAMPLES,
    )
    indexes = {
        metric: DifficultyIndex(metric, value, np.argsort(value, kind="stable")) for metric, value in values.items()
    }
    return build_plan(spec, SAMPLES, indexes)


def their_sampler(folder: Path, group: Any, values: dict[str, np.ndarray]) -> Any:
    metrics = {
        metric: percentiles(write_index(folder / metric, value), START, OVER_STEPS) for metric, value in values.items()
    }
    return make_sampler(folder, group, SAMPLES, BATCH, metrics)


@pytest.mark.parametrize("metrics", [["vocab_rarity"], ["vocab_rarity", "other"]])
def test_the_pools_are_equal_at_every_step(tmp_path: Path, group: Any, metrics: list[str]) -> None:
    values = made_values(metrics)
    plan, sampler = our_plan(values), their_sampler(tmp_path, group, values)
    pools = plan.steps["pool_size"].to_numpy()
    assert plan.order.admission is not None
    grown = 0
    for step, _ in enumerate(batches(sampler, OVER_STEPS + 5)):
        if step and pools[step] == pools[step - 1]:
            assert len(sampler.data_clusters) == grown
            continue
        theirs = np.concatenate([cluster[0] for cluster in sampler.data_clusters])
        assert sorted(theirs.tolist()) == sorted(plan.order.admission.ids[: pools[step]].tolist())
        grown = len(sampler.data_clusters)
    assert grown == len(plan.order.opens_at) > 50
    assert sampler.data_cluster_sizes == np.diff(plan.order.bounds).tolist()


@pytest.mark.parametrize("metrics", [["vocab_rarity"], ["vocab_rarity", "other"]])
def test_shares_and_coverage_are_equal(tmp_path: Path, group: Any, metrics: list[str]) -> None:
    values = made_values(metrics)
    plan, sampler = our_plan(values), their_sampler(tmp_path, group, values)
    order = plan.order
    assert order.admission is not None
    cluster_of = np.empty(SAMPLES, dtype=np.int64)
    cluster_of[order.admission.ids] = np.searchsorted(order.bounds, np.arange(SAMPLES), side="right") - 1
    sizes = np.diff(order.bounds)
    ours = np.concatenate(list(order.iterate()))
    theirs = np.concatenate(list(batches(sampler, STEPS)))
    assert len(ours) == len(theirs) == STEPS * BATCH

    open_at = np.arange(STEPS)[:, None] >= order.opens_at
    shares = open_at * sizes / (open_at * sizes).sum(axis=1, keepdims=True)
    expected = BATCH * shares.sum(axis=0)
    sigma = np.sqrt(BATCH * (shares * (1 - shares)).sum(axis=0))
    for drawn in (ours, theirs):
        per_cluster = np.bincount(cluster_of[drawn], minlength=len(sizes))
        assert (np.abs(per_cluster - expected) < 5 * sigma).all()
        # Passes without replacement: within a cluster, no sample comes twice as long as another has come less often.
        times = np.bincount(drawn, minlength=SAMPLES)
        for cluster, count in enumerate(per_cluster):
            of_cluster = times[cluster_of == cluster]
            assert (of_cluster.min(), of_cluster.max()) == (count // sizes[cluster], -(-count // sizes[cluster]))
    coverage = [len(np.unique(drawn)) / SAMPLES for drawn in (ours, theirs)]
    assert coverage[0] == pytest.approx(coverage[1], abs=0.01)
