"""Drives the installed DeepSpeed's curriculum sampler in one process, on an index written by its own builder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 1234


@contextmanager
def process_group(folder: Path) -> Iterator[Any]:
    """A process group of this process alone, without any port."""
    import torch.distributed
    from deepspeed import comm

    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
        yield torch.distributed.group.WORLD
    finally:
        torch.distributed.destroy_process_group()


def write_index(folder: Path, values: NDArray[np.integer[Any]]) -> dict[str, str]:
    """The ids of each value, ascending, and the values, as its analyser leaves them; the settings that name them."""
    from deepspeed.runtime.data_pipeline.data_sampling.utils import (
        close_mmap_dataset_builder,
        create_mmap_dataset_builder,
    )

    folder.mkdir(parents=True)
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    rows = {"index_to_sample": np.split(order, starts[1:]), "index_to_metric": np.split(distinct, len(distinct))}
    for name, arrays in rows.items():
        builder = create_mmap_dataset_builder(str(folder / name), np.int64)
        for array in arrays:
            builder.add_item_numpy(array.astype(np.int64))
        close_mmap_dataset_builder(builder, str(folder / name))
    return {f"{name}_path": str(folder / name) for name in rows}


def make_sampler(folder: Path, group: Any, samples: int, batch: int, metrics: dict[str, dict[str, Any]]) -> Any:
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler

    curriculum = {"enabled": True, "data_cluster_path": str(folder / "clusters"), "curriculum_metrics": metrics}
    config = {"seed": SEED, "data_sampling": {"num_epochs": 1000, "curriculum_learning": curriculum}}
    return DeepSpeedDataSampler(config, samples, batch, 0, 1, group, 1, 0, drop_last=False)


def percentiles(paths: dict[str, str], start: int, over_steps: int) -> dict[str, Any]:
    """A metric's settings: from percentile `start` to 100 over so many steps, by the square root."""
    return {
        **paths,
        "difficulty_type": "percentile",
        "clustering_type": "schedule_based",
        "min_difficulty": start,
        "max_difficulty": 100,
        "schedule_type": "fixed_root",
        "schedule_config": {"total_curriculum_step": over_steps, "difficulty_step": 1, "root_degree": 2},
    }


def batches(sampler: Any, steps: int) -> Iterator[NDArray[np.int64]]:
    for ids in islice(sampler, steps):
        yield np.asarray(ids, dtype=np.int64)
