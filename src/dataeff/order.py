"""The sample order: which samples a step trains on, as a pure function of (seed, step).

DeepSpeed's rule (its DeepSpeedDataSampler): each increase of the difficulty adds a cluster, the samples newly
admitted; a step draws its counts per cluster from a multinomial in proportion to the cluster sizes, and within a
cluster takes the next samples of a shuffled pass, reshuffled when used up. So sampling is uniform over the pool
reached, and a batch is always full. Here the multinomial is keyed by (seed, step) and a pass is a keyed
permutation (order_draws.py), so that any step can be read at once, on any number of ranks, after any resume; what is
stored is the cumulative count per cluster every `SPACING` steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.admission import Admission
from dataeff.errors import DataeffError
from dataeff.files import canonical_digest, read_json, sha256_bytes, write_json
from dataeff.order_draws import Clusters
from dataeff.progress import Progress
from dataeff.samples.arrays import load_array

SPACING = 1024
MOST_CLUSTERS = 1 << 16
"""A curriculum of more different pools would need gigabytes of counts."""
DRAWN_AT_A_TIME = 1 << 13
"""Samples that `iterate` draws ahead: enough to make calls cheap, few enough to wait for on a cold disk."""
_AGAIN = "run `dataeff plan` again"
_CLUSTER_KEY, _PASS_KEY = "sample clusters", "sample pass"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SampleOrder:
    """The order of one run.

    `bounds`: [clusters + 1] positions in the order of admission where clusters begin and end.
    `opens_at`: [clusters] first 0-based step that may draw from each cluster, increasing, 0 for the first.
    `counts`: [ceil(steps / SPACING), clusters] draws per cluster before steps 0, SPACING, 2 * SPACING, ...
    `admission`: sample ids by the step that admits them, or None when every id is its position.
    """

    seed: int
    batch_size: int
    steps: int
    bounds: Ids
    opens_at: Ids
    counts: Ids
    admission: Admission | None
    _clusters: Clusters = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_clusters", Clusters.of(self.opens_at, self.bounds))

    @classmethod
    def build(cls, *, seed: int, batch_size: int, pool_sizes: Ids, admission: Admission | None) -> SampleOrder:
        """From the pool size at every step ([steps], non-decreasing; its last value need not be all samples)."""
        if len(pool_sizes) == 0 or (np.diff(pool_sizes) < 0).any():
            raise ValueError("pool sizes must be given for at least one step and never decrease")
        if pool_sizes[0] < 1:
            raise DataeffError("the first step's pool is empty: raise the curriculum's start")
        opens_at = np.flatnonzero(np.diff(pool_sizes, prepend=0) > 0).astype(np.int64)
        if len(opens_at) > MOST_CLUSTERS:
            raise DataeffError(
                f"the curriculum's pool grows {len(opens_at):,} times; {MOST_CLUSTERS:,} are the most: raise "
                f"multiple_of in its pacing"
            )
        bounds = np.concatenate([[0], pool_sizes[opens_at]]).astype(np.int64)
        rows = -(-len(pool_sizes) // SPACING)
        counts = np.zeros((rows, len(opens_at)), dtype=np.int64)
        order = cls(seed, batch_size, len(pool_sizes), bounds, opens_at, counts, admission)
        order._fill_counts()
        return order

    def _fill_counts(self) -> None:
        """Each stretch of SPACING steps is counted by itself, then they are summed up: the same on any threads."""

        def count(row: int) -> None:
            self._count(row * SPACING, SPACING, self.counts[row + 1])

        progress = Progress("plan: counting draws", self.steps, "steps")
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for row, _ in enumerate(threads.map(count, range(len(self.counts) - 1))):
                progress.show((row + 1) * SPACING)
        np.cumsum(self.counts, axis=0, out=self.counts)

    def _count(self, first: int, steps: int, counts: Ids) -> None:
        self._clusters.count(keyed.key(self.seed, _CLUSTER_KEY), first, steps, self.batch_size, counts)

    def draws(self, step: int) -> Ids:
        """How many samples each cluster gives to `step`: [clusters], summing to the batch size."""
        drawn = np.zeros(len(self.opens_at), dtype=np.int64)
        self._count(step, 1, drawn)
        return drawn

    def before(self, step: int) -> Ids:
        """Samples drawn from each cluster before `step`."""
        row = min(step // SPACING, len(self.counts) - 1)
        total: Ids = self.counts[row].copy()
        self._count(row * SPACING, step - row * SPACING, total)
        return total

    def samples(self, step: int) -> Ids:
        """The sample ids of `step`: [batch_size], clusters mixed; IndexError beyond the run's steps."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps}")
        ids: Ids = self._samples(step, 1, self.before(step))[0]
        return ids

    def iterate(self, first: int = 0) -> Iterator[Ids]:
        """The sample ids of the steps from `first` on, one array a step, without counting from a stored row again."""
        taken = self.before(first)
        at_a_time = max(1, DRAWN_AT_A_TIME // self.batch_size)
        for step in range(first, self.steps, at_a_time):
            yield from self._samples(step, min(at_a_time, self.steps - step), taken)

    def _samples(self, first: int, steps: int, taken: Ids) -> Ids:
        """[steps, batch_size]; `taken` are the draws per cluster before `first`, and before the next step after."""
        positions = np.empty((steps, self.batch_size), dtype=np.int64)
        keys = keyed.key(self.seed, _CLUSTER_KEY), keyed.key(self.seed, _PASS_KEY)
        self._clusters.draw(*keys, first, taken, positions)
        return positions if self.admission is None else self.admission.ids[positions].astype(np.int64)

    @property
    def digest(self) -> str:
        """Of everything that decides the order, the admission order's ids included."""
        ids = None if self.admission is None else self.admission.sha256
        return canonical_digest({**self._facts(), "admission": ids})

    def _facts(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "bounds": self.bounds.tolist(),
            "opens_at": self.opens_at.tolist(),
            "counts": sha256_bytes(self.counts.astype("<i8").tobytes()),
        }

    def save(self, path: Path) -> None:
        """Writes order.json and, beside it, counts.npy; admission.npy too where no difficulty index can be named."""
        np.save(path.with_name("counts.npy"), self.counts)
        admission = None if self.admission is None else self.admission.save(path.parent)
        write_json(path, {**self._facts(), "admission": admission, "digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> SampleOrder:
        raw = read_json(path)
        try:
            steps, admission = int(raw["steps"]), raw["admission"]
            bounds, opens_at = (np.asarray(raw[name], dtype=np.int64) for name in ("bounds", "opens_at"))
            seed, batch_size, digest = int(raw["seed"]), int(raw["batch_size"]), raw["digest"]
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{path}: not a sample order of this version; {_AGAIN}") from None
        rows = -(-steps // SPACING)
        counts = load_array(path.with_name("counts.npy"), (rows, len(opens_at)), "i", _AGAIN).astype(np.int64)
        ids = None if admission is None else Admission.load(path.parent, admission)
        order = cls(seed, batch_size, steps, bounds, opens_at, counts, ids)
        if order.digest != digest:
            raise DataeffError(f"{path}: does not match its digest, or counts.npy does not; {_AGAIN}")
        return order
