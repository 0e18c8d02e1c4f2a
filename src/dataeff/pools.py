"""The pools that a curriculum's selecting metrics make: how many samples each step draws from, and which.

Pools of one metric are prefixes of its difficulty order. Those of several intersect: a sample enters when the last of
its metrics admits it, so that pools are prefixes of one sort by entry step (intersect.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dataeff.admission import Admission
from dataeff.errors import DataeffError
from dataeff.intersect import Intersection
from dataeff.study.specs import PlanSpec

if TYPE_CHECKING:
    import pandas as pd

    from dataeff.analyze.difficulty import DifficultyIndex

Column = NDArray[np.int64]


def find_pools(
    spec: PlanSpec,
    table: pd.DataFrame,
    samples: int,
    indexes: Mapping[str, DifficultyIndex],
    folders: Mapping[str, Path],
    out: Path | None,
) -> tuple[Column, Admission | None]:
    """The pool size at every step of the steps table, and the sample ids in the order in which the pools admit them
    (None where nothing is selected).

    `folders` and `out`: see build_plan. Raises DataeffError for an index of other samples and for a first pool that
    is smaller than a batch.
    """
    sizes = _pool_sizes(spec, table, samples, indexes)
    if not sizes:
        return np.full(len(table), samples), None
    smallest = min(int(column[0]) for column in sizes.values())
    if len(sizes) == 1 or smallest == 0:
        _check_first_pool(spec, smallest, sizes, samples)
        ((metric, pools),) = sizes.items()
        folder = folders.get(metric)
        return pools, Admission.of_ids(indexes[metric].order) if folder is None else Admission.of_index(folder)
    joint = Intersection.of(sizes, indexes, folders)
    pools = joint.pool_sizes(len(table))
    _check_first_pool(spec, int(pools[0]), sizes, samples)
    return pools, joint.admission(out)


def _pool_sizes(
    spec: PlanSpec, table: pd.DataFrame, samples: int, indexes: Mapping[str, DifficultyIndex]
) -> dict[str, Column]:
    """Each selecting metric's pool size at every step."""
    sizes: dict[str, Column] = {}
    for metric, part in spec.variant.selections.items():
        index = indexes[metric]
        if len(index) != samples:
            raise DataeffError(
                f"{spec.run.name}: the index of {metric} covers {len(index)} samples, the corpus has {samples}; "
                f"run `dataeff analyze` again on these samples"
            )
        column = table[f"{metric}_{part.by}"].to_numpy()
        size_at = index.pool_size_at_percentile if part.by == "percentile" else index.pool_size_at_value
        levels, inverse = np.unique(column, return_inverse=True)
        sizes[metric] = np.array([size_at(int(level)) for level in levels], dtype=np.int64)[inverse]
    return sizes


def _check_first_pool(spec: PlanSpec, first: int, sizes: Mapping[str, Column], samples: int) -> None:
    if first < spec.batch_size:
        shares = ", ".join(f"{metric} admits {int(column[0])}" for metric, column in sizes.items())
        raise DataeffError(
            f"{spec.run.name}: the pool of the first step holds {first} samples, fewer than a batch of "
            f"{spec.batch_size} ({shares} of {samples}); raise the curriculum's start or lower batch_size"
        )
