"""The sample order: which samples a step trains on, as a pure function of (seed, step).

DeepSpeed's rule (its DeepSpeedDataSampler): each increase of the difficulty adds a cluster, the samples newly
admitted; a step draws its counts per cluster from a multinomial in proportion to the cluster sizes, and within a
cluster takes the next samples of a shuffled pass, reshuffled when used up. So sampling is uniform over the pool
reached, and a batch is always full. Here the multinomial is keyed by (seed, step) and a pass is a keyed
permutation, so that any step can be read at once, on any number of ranks, after any resume; what is stored is the
cumulative count per cluster every `SPACING` steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.files import canonical_digest, read_json, sha256_bytes, write_json

SPACING = 1024
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class SampleOrder:
    """The order of one run.

    `bounds`: [clusters + 1] positions in the difficulty order where clusters begin and end.
    `opens_at`: [clusters] first 0-based step that may draw from each cluster, non-decreasing, 0 for the first.
    `counts`: [ceil(steps / SPACING), clusters] draws per cluster before steps 0, SPACING, 2 * SPACING, ...
    `admission`: sample ids sorted by the step that admits them ([samples]), or None when every id is its position.
    """

    seed: int
    batch_size: int
    steps: int
    bounds: Ids
    opens_at: Ids
    counts: Ids
    admission: NDArray[Any] | None

    @classmethod
    def build(cls, *, seed: int, batch_size: int, pool_sizes: Ids, admission: NDArray[Any] | None) -> SampleOrder:
        """From the pool size at every step ([steps], non-decreasing; its last value need not be all samples)."""
        if len(pool_sizes) == 0 or (np.diff(pool_sizes) < 0).any():
            raise ValueError("pool sizes must be given for at least one step and never decrease")
        if pool_sizes[0] < 1:
            raise DataeffError("the first step's pool is empty: raise the curriculum's start")
        opens_at = np.flatnonzero(np.diff(pool_sizes, prepend=0) > 0).astype(np.int64)
        bounds = np.concatenate([[0], pool_sizes[opens_at]]).astype(np.int64)
        order = cls(
            seed,
            batch_size,
            len(pool_sizes),
            bounds,
            opens_at,
            np.zeros((1, len(opens_at)), np.int64),
            admission,
        )
        return cls(**{**order.__dict__, "counts": order._cumulative()})

    def _cumulative(self) -> Ids:
        rows = -(-self.steps // SPACING)
        counts = np.zeros((rows, len(self.opens_at)), dtype=np.int64)
        for row in range(1, rows):
            total = counts[row - 1].copy()
            for step in range((row - 1) * SPACING, row * SPACING):
                total += self.draws(step)
            counts[row] = total
        return counts

    def draws(self, step: int) -> Ids:
        """How many samples each cluster gives to `step`: [clusters], summing to the batch size."""
        open_clusters = int(np.searchsorted(self.opens_at, step, side="right"))
        drawn = np.zeros(len(self.opens_at), dtype=np.int64)
        if open_clusters == 1:
            drawn[0] = self.batch_size
            return drawn
        sizes = np.diff(self.bounds[: open_clusters + 1])
        random = keyed.generator(self.seed, "cluster counts", step)
        drawn[:open_clusters] = random.multinomial(self.batch_size, sizes / sizes.sum())
        return drawn

    def before(self, step: int) -> Ids:
        """Samples drawn from each cluster before `step`."""
        row = min(step // SPACING, len(self.counts) - 1)
        total: Ids = self.counts[row].copy()
        for earlier in range(row * SPACING, step):
            total += self.draws(earlier)
        return total

    def samples(self, step: int) -> Ids:
        """The sample ids of `step`: [batch_size], clusters in order; IndexError beyond the run's steps."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps}")
        return self._samples(self.before(step), self.draws(step))

    def iterate(self, first: int = 0) -> Any:
        """The sample ids of the steps from `first` on, one array a step, without counting from a stored row again."""
        before = self.before(first)
        for step in range(first, self.steps):
            draws = self.draws(step)
            yield self._samples(before, draws)
            before = before + draws

    def _samples(self, before: Ids, draws: Ids) -> Ids:
        cluster = np.repeat(np.arange(len(draws)), draws)
        within = np.arange(self.batch_size) - np.repeat(np.cumsum(draws) - draws, draws)
        count = before[cluster] + within
        sizes = np.diff(self.bounds)[cluster]
        passes = count // sizes
        keys = np.array([_pass_key(self.seed, int(c), int(p)) for c, p in zip(cluster, passes, strict=True)], np.uint64)
        position = self.bounds[cluster] + keyed.permute(count % sizes, sizes, keys)
        return position if self.admission is None else np.asarray(self.admission[position], dtype=np.int64)

    @property
    def digest(self) -> str:
        """Of everything that decides the order, the admission order's ids included."""
        ids = None if self.admission is None else sha256_bytes(np.ascontiguousarray(self.admission).tobytes())
        return canonical_digest({**self._facts(), "admission": ids})

    def _facts(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "steps": self.steps,
            "bounds": self.bounds.tolist(),
            "opens_at": self.opens_at.tolist(),
            "counts": self.counts.tolist(),
        }

    def save(self, path: Path) -> None:
        """Writes order.json, and admission.npy beside it where samples are chosen by difficulty."""
        if self.admission is not None:
            np.save(path.with_name("admission.npy"), self.admission)
        write_json(path, {**self._facts(), "selects": self.admission is not None, "digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> SampleOrder:
        raw = read_json(path)
        admission = np.load(path.with_name("admission.npy"), mmap_mode="r") if raw["selects"] else None
        arrays = {name: np.asarray(raw[name], dtype=np.int64) for name in ("bounds", "opens_at")}
        counts = np.asarray(raw["counts"], dtype=np.int64).reshape(-1, len(arrays["opens_at"]))
        return cls(raw["seed"], raw["batch_size"], raw["steps"], **arrays, counts=counts, admission=admission)


@lru_cache(maxsize=4096)
def _pass_key(seed: int, cluster: int, number: int) -> int:
    return keyed.key(seed, "pass", cluster, number)
