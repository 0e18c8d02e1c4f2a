"""DeepSpeed's own curriculum sampler on our files, unchanged: its batches lie in the pools that our index predicts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze.deepspeed_format import prefix_of, write_metric
from dataeff.analyze.difficulty import DifficultyIndex
from tests.analyze.native_index import write_native

pytest.importorskip("deepspeed")

SAMPLES, BATCH, STEPS = 1030, 16, 60
Step = tuple[dict[str, int], set[int]]


@pytest.fixture(scope="module")
def group() -> Iterator[Any]:
    """A process group of this process alone, without any port."""
    import torch.distributed
    from deepspeed import comm

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "LOCAL_RANK", "0")
        # A faster all-reduce, which nothing here does; it takes 40 s to compile.
        patch.setattr(import_module("deepspeed.comm.torch"), "build_shm_op", lambda: None)
        comm.init_distributed(dist_backend="gloo")
    yield torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()


def make_index(folder: Path, metric: str, highest: int) -> DifficultyIndex:
    values = np.random.default_rng(highest).integers(0, highest, SAMPLES)
    write_native(folder / "native" / metric, metric, values)
    write_metric(folder / "native" / metric, folder / metric)
    return DifficultyIndex.open(folder / "native" / metric)


def settings(folder: Path, metric: str, kind: str, by: str, start: int, end: int) -> dict[str, Any]:
    return {
        "index_to_sample_path": str(prefix_of(folder / metric, metric, kind)),
        "index_to_metric_path": str(prefix_of(folder / metric, metric, "index_to_metric")),
        "difficulty_type": by,
        "clustering_type": "schedule_based",
        "min_difficulty": start,
        "max_difficulty": end,
        "schedule_type": "fixed_root",
        "schedule_config": {"total_curriculum_step": STEPS - 20, "difficulty_step": 1, "root_degree": 2},
    }


def run(folder: Path, group: Any, metrics: dict[str, dict[str, Any]]) -> list[Step]:
    """(difficulty of each metric, ids of the batch) of each step."""
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler

    curriculum = {"enabled": True, "data_cluster_path": str(folder / "clusters"), "curriculum_metrics": metrics}
    config = {"seed": 1234, "data_sampling": {"num_epochs": 1000, "curriculum_learning": curriculum}}
    sampler = DeepSpeedDataSampler(config, SAMPLES, BATCH, 0, 1, group, 1, 0, drop_last=False)
    return [(dict(sampler.current_difficulties), set(ids)) for ids in islice(sampler, STEPS)]


def check(steps: list[Step], pools: list[set[int]]) -> None:
    """Every batch is of its pool, the pool grows, and what it has grown by is drawn, too."""
    assert len(steps) == len(pools) == STEPS
    for (_, ids), pool in zip(steps, pools, strict=True):
        assert ids
        assert ids <= pool
    sizes = [len(pool) for pool in pools]
    assert sizes == sorted(sizes)
    assert sizes[0] < SAMPLES / 3
    assert pools[-1] == set(range(SAMPLES))
    assert set().union(*(ids for _, ids in steps)) - pools[0]


@pytest.mark.parametrize("kind", ["index_to_sample", "index_to_sample_percentile_merged"])
def test_by_percentile(tmp_path: Path, group: Any, kind: str) -> None:
    index = make_index(tmp_path, "vocab_rarity", 700)
    steps = run(tmp_path, group, {"vocab_rarity": settings(tmp_path, "vocab_rarity", kind, "percentile", 1, 100)})
    sizes = [index.pool_size_at_percentile(at["vocab_rarity"]) for at, _ in steps]
    check(steps, [set(index.order[:size].tolist()) for size in sizes])


def test_by_value(tmp_path: Path, group: Any) -> None:
    index = make_index(tmp_path, "seqlen", 512)
    steps = run(tmp_path, group, {"seqlen": settings(tmp_path, "seqlen", "index_to_sample", "value", 64, 512)})
    sizes = [index.pool_size_at_value(at["seqlen"]) for at, _ in steps]
    assert len(set(sizes)) > 5
    check(steps, [set(index.order[:size].tolist()) for size in sizes])


def test_two_metrics_draw_from_what_both_admit(tmp_path: Path, group: Any) -> None:
    lengths, rarities = make_index(tmp_path, "seqlen", 512), make_index(tmp_path, "vocab_rarity", 9000)
    steps = run(
        tmp_path,
        group,
        {
            "seqlen": settings(tmp_path, "seqlen", "index_to_sample", "value", 128, 512),
            "vocab_rarity": settings(
                tmp_path, "vocab_rarity", "index_to_sample_percentile_merged", "percentile", 10, 100
            ),
        },
    )
    pools = [
        set(lengths.order[: lengths.pool_size_at_value(at["seqlen"])].tolist())
        & set(rarities.order[: rarities.pool_size_at_percentile(at["vocab_rarity"])].tolist())
        for at, _ in steps
    ]
    check(steps, pools)
