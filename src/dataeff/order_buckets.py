"""The sample order of length buckets: which bucket a step takes and which samples of it, as a function of (seed, step).

A step's bucket is drawn in proportion to the tokens of the buckets that are open at that step: a uniform draw over
those tokens, keyed by (seed, step). So from the step on at which all are open, every sample is read equally often on
average. Within a bucket the next samples of a pass are taken, a keyed permutation of it, and another one when it is
used up, in the middle of a step where need be. As in order.py any step can be read at once, on any number of ranks,
after any resume; what is stored is how many steps each bucket had before every `SPACING`-th step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.bucket_plan import LAYOUT, Buckets
from dataeff.errors import DataeffError
from dataeff.files import canonical_digest, read_json, sha256_bytes, write_json
from dataeff.order import SPACING, SampleOrder
from dataeff.samples.arrays import load_array

_AGAIN = "run `dataeff plan` again"
_BUCKET_KEY, _PASS_KEY = "length buckets", "bucket pass"
_0 = np.uint64(0)
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class BucketOrder:
    """The order of one run; buckets without samples are no part of it.

    `step_tokens`: tokens of every step. `lengths`, `sizes` [buckets]: tokens of a sample, ascending, and samples.
    `opens_at` [buckets]: first 0-based step that may take from each, never decreasing, 0 for the first; `steps` for
    one that never opens. `counts` [ceil(steps / SPACING), buckets]: steps that took from each before steps 0, SPACING,
    2 * SPACING, ...
    """

    seed: int
    step_tokens: int
    steps: int
    lengths: Ids
    sizes: Ids
    opens_at: Ids
    counts: Ids
    admission: ClassVar[None] = None
    """Nothing selects samples by their difficulty."""

    @classmethod
    def build(cls, *, seed: int, step_tokens: int, levels: Ids, buckets: Buckets) -> BucketOrder:
        """From the pacing's length at every step ([steps], never decreasing): buckets up to it are open, and the
        shortest that has samples always is.
        """
        lengths, sizes = np.array(buckets.lengths, dtype=np.int64), np.array(buckets.samples, dtype=np.int64)
        lengths, sizes = lengths[sizes > 0], sizes[sizes > 0]
        if not len(lengths) or not len(levels):
            raise ValueError("at least one step and one bucket with samples are needed")
        opens_at = np.searchsorted(levels, lengths).astype(np.int64)
        opens_at[0] = 0
        counts = np.zeros((-(-len(levels) // SPACING), len(lengths)), dtype=np.int64)
        order = cls(seed, step_tokens, len(levels), lengths, sizes, opens_at, counts)
        for row in range(len(counts) - 1):
            counts[row + 1] = counts[row] + order._count(row * SPACING, SPACING)
        return order

    @property
    def rows(self) -> Ids:
        """[buckets]: samples of a step that takes from each."""
        return self.step_tokens // self.lengths

    def drawn(self, first: int, steps: int) -> Ids:
        """The bucket, as a position in `lengths`, of each of `steps` steps from `first` on."""
        found = np.empty(steps, dtype=np.int64)
        ends = np.cumsum(self.lengths * self.sizes).astype(np.uint64)
        key = np.uint64(keyed.key(self.seed, _BUCKET_KEY))
        _draw_buckets(key, np.uint64(first), self.opens_at.astype(np.uint64), ends, found)
        return found

    def _count(self, first: int, steps: int) -> Ids:
        return np.bincount(self.drawn(first, steps), minlength=len(self.lengths))

    def before(self, step: int) -> Ids:
        """[buckets]: steps before `step` that took from each."""
        row = min(step // SPACING, len(self.counts) - 1)
        total: Ids = self.counts[row] + self._count(row * SPACING, step - row * SPACING)
        return total

    def shapes(self) -> tuple[Ids, Ids]:
        """Tokens of a sample and number of samples of every step; each [steps]."""
        drawn = self.drawn(0, self.steps)
        return self.lengths[drawn], self.rows[drawn]

    def pool_sizes(self) -> Ids:
        """[steps]: samples of all buckets that are open at each."""
        opened = np.searchsorted(self.opens_at, np.arange(self.steps), side="right")
        pools: Ids = np.cumsum(self.sizes)[opened - 1]
        return pools

    def samples(self, step: int) -> Ids:
        """The sample ids of `step`, all of one bucket; IndexError beyond the run's steps."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of a run of {self.steps}")
        bucket = int(self.drawn(step, 1)[0])
        return self._samples(bucket, int(self.before(step)[bucket]))

    def iterate(self, first: int = 0) -> Iterator[Ids]:
        """The sample ids of the steps from `first` on, one array a step."""
        taken = self.before(first)
        for begin in range(first, self.steps, SPACING):
            for bucket in self.drawn(begin, min(SPACING, self.steps - begin)).tolist():
                yield self._samples(bucket, int(taken[bucket]))
                taken[bucket] += 1

    def _samples(self, bucket: int, taken: int) -> Ids:
        """Those of the step that is number `taken` (from 0) of its bucket."""
        rows, size = int(self.rows[bucket]), int(self.sizes[bucket])
        positions = taken * rows + np.arange(rows, dtype=np.int64)
        # Keyed by the length: another bucket's samples do not change this one's passes.
        of_bucket = keyed.key(self.seed, _PASS_KEY, int(self.lengths[bucket]))
        passes = keyed.word(np.uint64(of_bucket), (positions // size).astype(np.uint64))
        return int(self.sizes[:bucket].sum()) + keyed.permute(positions % size, size, passes)

    @property
    def digest(self) -> str:
        """Of everything that decides the order."""
        return canonical_digest(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "layout": LAYOUT,
            "seed": self.seed,
            "step_tokens": self.step_tokens,
            "steps": self.steps,
            "lengths": self.lengths.tolist(),
            "sizes": self.sizes.tolist(),
            "opens_at": self.opens_at.tolist(),
            "counts": sha256_bytes(self.counts.astype("<i8").tobytes()),
        }

    def save(self, path: Path) -> None:
        """Writes order.json and, beside it, counts.npy."""
        np.save(path.with_name("counts.npy"), self.counts)
        write_json(path, {**self._facts(), "digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> BucketOrder:
        raw = read_json(path)
        try:
            seed, step_tokens, steps, digest = (
                int(raw["seed"]),
                int(raw["step_tokens"]),
                int(raw["steps"]),
                raw["digest"],
            )
            columns = [np.asarray(raw[name], dtype=np.int64) for name in ("lengths", "sizes", "opens_at")]
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{path}: not a sample order of this version; {_AGAIN}") from None
        shape = (-(-steps // SPACING), len(columns[0]))
        counts = load_array(path.with_name("counts.npy"), shape, "i", _AGAIN).astype(np.int64)
        order = cls(seed, step_tokens, steps, columns[0], columns[1], columns[2], counts)
        if order.digest != digest:
            raise DataeffError(f"{path}: does not match its digest, or counts.npy does not; {_AGAIN}")
        return order


def load_order(path: Path) -> SampleOrder | BucketOrder:
    """The order of an order.json of either kind."""
    raw = read_json(path)
    if isinstance(raw, dict) and raw.get("layout") == LAYOUT:
        return BucketOrder.load(path)
    return SampleOrder.load(path)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _draw_buckets(key: Any, first: Any, opens_at: Any, ends: Any, found: Any) -> None:
    """`ends` [buckets]: tokens of each bucket and all shorter ones; all but `found` are words."""
    opened = 0
    for row in range(found.size):
        step = first + np.uint64(row)
        while opened < opens_at.size and opens_at[opened] <= step:
            opened += 1
        token = keyed.below(keyed.word(key, step), _0, ends[opened - 1])
        bucket = 0
        while ends[bucket] <= token:
            bucket += 1
        found[row] = bucket
