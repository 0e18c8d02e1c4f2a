"""The sample order against the installed DeepSpeed's curriculum sampler: batches a second over one run.

`python bench/order.py [--samples N] [--batch B]`: one pass over N samples, the pool growing from 1% to 100% by the
square root over 110,000 / 286,102 of the steps (the paper's GPT curriculum), once with one selecting metric and once
with two. Both sides start from finished difficulty indexes and make what they draw from within the time: DeepSpeed
its cluster files, we the admission order and the counts. Start-up (imports, compilation, index files) is left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, print_machine, print_table, quiet

from dataeff.admission import Admission
from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.intersect import Intersection
from dataeff.order import SampleOrder
from dataeff.pacing import PacingSchedule

METRICS = ("vocab_rarity", "other")
GOALS = {1: "1x", 2: "20x"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--samples", type=int, default=1_000_000, help="samples in the corpus (default 1,000,000)")
    options.add_argument("--batch", type=int, default=512, help="samples a step (default 512)")
    given = options.parse_args()
    steps = given.samples // given.batch
    over = max(1, round(steps * 110_000 / 286_102))
    values = {m: np.random.default_rng(seed).integers(0, 1000, given.samples) for seed, m in enumerate(METRICS)}
    indexes = {m: DifficultyIndex(m, value, np.argsort(value, kind="stable")) for m, value in values.items()}
    print_machine()
    rows = []
    with tempfile.TemporaryDirectory() as scratch, process_group(Path(scratch)) as group:
        for count in (1, 2):
            chosen = {m: indexes[m] for m in METRICS[:count]}
            rate(ours(chosen, 2, given.batch, 1), 2)  # compiles
            our_rate = rate(ours(chosen, steps, given.batch, over), steps)
            folder = Path(scratch) / str(count)
            with quiet():
                paths = {m: write_index(folder / m, values[m]) for m in chosen}
                peer_rate = rate(peer(folder, group, given.samples, given.batch, paths, steps, over), steps)
            what = f"{count} selecting metric{'s' * (count - 1)}, {steps:,} batches of {given.batch}"
            rows.append(Row(what, f"{our_rate:,.0f}/s", f"{peer_rate:,.0f}/s", our_rate / peer_rate, GOALS[count]))
    print_table("Sample order against DeepSpeedDataSampler", rows)


def rate(batches: Iterator[Any], steps: int) -> float:
    """Of an iterator that does all its work when it is asked for batches."""
    start = time.perf_counter()
    drawn = sum(1 for _ in batches)
    seconds = time.perf_counter() - start
    assert drawn == steps, f"{drawn} batches of {steps}"
    return steps / seconds


def ours(indexes: dict[str, DifficultyIndex], steps: int, batch: int, over: int) -> Iterator[Any]:
    pacing = PacingSchedule(1, 100, over, root=2, multiple_of=1, floor=1)
    levels = pacing.at(np.arange(1, steps + 1))
    sizes = {}
    for metric, index in indexes.items():
        sizes[metric] = np.array([index.pool_size_at_percentile(level) for level in range(101)])[levels]
    if len(indexes) == 1:
        ((metric, pools),) = sizes.items()
        admission = Admission.of_ids(indexes[metric].order)
    else:
        joint = Intersection.of(sizes, indexes, {})
        pools, admission = joint.pool_sizes(steps), joint.admission(None)
    yield from SampleOrder.build(seed=1, batch_size=batch, pool_sizes=pools, admission=admission).iterate()


@contextmanager
def process_group(folder: Path) -> Iterator[Any]:
    """A process group of this process alone, without any port."""
    import torch.distributed
    from deepspeed import comm

    store = torch.distributed.FileStore(str(folder / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with quiet():
            comm.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
        yield torch.distributed.group.WORLD
    finally:
        torch.distributed.destroy_process_group()


def write_index(folder: Path, values: np.ndarray) -> dict[str, str]:
    """DeepSpeed's index files: the ids of each value, ascending, and the values."""
    from deepspeed.runtime.data_pipeline.data_sampling import utils

    folder.mkdir(parents=True)
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    rows = {"index_to_sample": np.split(order, starts[1:]), "index_to_metric": np.split(distinct, len(distinct))}
    for name, arrays in rows.items():
        builder = utils.create_mmap_dataset_builder(str(folder / name), np.int64)
        for array in arrays:
            builder.add_item_numpy(array.astype(np.int64))
        utils.close_mmap_dataset_builder(builder, str(folder / name))
    return {f"{name}_path": str(folder / name) for name in rows}


def peer(
    folder: Path, group: Any, samples: int, batch: int, paths: dict[str, dict[str, str]], steps: int, over: int
) -> Iterator[Any]:
    from deepspeed.runtime.data_pipeline.data_sampling.data_sampler import DeepSpeedDataSampler

    schedule = {"total_curriculum_step": over, "difficulty_step": 1, "root_degree": 2}
    pacing = {"min_difficulty": 1, "max_difficulty": 100, "schedule_type": "fixed_root", "schedule_config": schedule}
    kinds = {"difficulty_type": "percentile", "clustering_type": "schedule_based"}
    metrics = {metric: {**files, **kinds, **pacing} for metric, files in paths.items()}
    curriculum = {"enabled": True, "data_cluster_path": str(folder / "clusters"), "curriculum_metrics": metrics}
    config = {"seed": 1, "data_sampling": {"num_epochs": 1000, "curriculum_learning": curriculum}}
    sampler = DeepSpeedDataSampler(config, samples, batch, 0, 1, group, 1, 0, drop_last=False)
    yield from islice(sampler, steps)


if __name__ == "__main__":
    main()
