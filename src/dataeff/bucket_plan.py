"""Length buckets: which lengths their samples have, how many there are of each, and what a plan makes of that.

Dataset Decomposition (arXiv 2405.13226) cuts each document into samples of 2^k tokens (samples/buckets.py) and trains
each step on samples of one length. A step takes as many as make the longest bucket's batch in tokens, so that every
step has the same number of tokens, none of them padding. Which lengths a step may take is the curriculum's pacing;
which it takes is drawn (order_buckets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataeff.errors import DataeffError
from dataeff.study.specs import PlanSpec

if TYPE_CHECKING:  # the order's draws are compiled, which would slow down checks of a plan without data
    from dataeff.order import SampleOrder
    from dataeff.order_buckets import BucketOrder
    from dataeff.pacing import PacingSchedule

LAYOUT = "buckets"
"""What samples.json and order.json call it."""
SHORTEST = 8
"""Fewer tokens hold hardly anything to predict the next one from."""
SPREAD = 64
"""The longest bucket against the shortest. A document's rest below the shortest is left out: half of it on average, so
1/128 of the longest a document. A step of the shortest has this many times the rows of one of the longest.
"""


def bucket_lengths(sequence_length: int) -> tuple[int, ...]:
    """Powers of two, ascending, the last of them the largest that a model of this length takes."""
    longest = 1 << (sequence_length.bit_length() - 1)
    shortest = min(longest, max(SHORTEST, longest // SPREAD))
    return tuple(1 << power for power in range(shortest.bit_length() - 1, longest.bit_length()))


@dataclass(frozen=True)
class Buckets:
    """`samples`: how many each bucket has; `lengths`: their tokens, ascending."""

    lengths: tuple[int, ...]
    samples: tuple[int, ...]

    @classmethod
    def assumed(cls, sequence_length: int) -> Buckets:
        """Of equally many tokens in each bucket: what a plan is drawn from before there are samples."""
        lengths = bucket_lengths(sequence_length)
        return cls(lengths, tuple(lengths[-1] // length for length in lengths))

    @classmethod
    def of_facts(cls, facts: Any, path: Path) -> Buckets | None:
        """Those of samples.json, whose content is `facts`; None for samples of one length."""
        if not isinstance(facts, Mapping) or facts.get("layout") != LAYOUT:
            return None
        try:
            pairs = [(int(bucket["length"]), int(bucket["samples"])) for bucket in facts["buckets"]]
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{path}: not the facts of length buckets; run `dataeff samples` again") from None
        return cls(tuple(length for length, _ in pairs), tuple(samples for _, samples in pairs))

    @property
    def tokens(self) -> int:
        return sum(length * samples for length, samples in zip(self.lengths, self.samples, strict=True))


def check_layout(spec: PlanSpec, buckets: Buckets | None) -> None:
    """Samples must be those that the variant is about."""
    wanted = spec.variant.length_buckets is not None
    if wanted != (buckets is not None):
        given, needed = ("one length", "length buckets") if wanted else ("length buckets", "one length")
        raise DataeffError(
            f"{spec.run.name}: the samples given are of {given}, this variant takes {needed}; give the folder of "
            f"{spec.run.family}-{spec.sequence_length}{'-buckets' if wanted else ''}"
        )
    if buckets is not None and buckets.lengths != bucket_lengths(spec.sequence_length):
        raise DataeffError(
            f"{spec.run.name}: the samples given lie in buckets of {', '.join(map(str, buckets.lengths))} tokens; "
            f"sequence_length {spec.sequence_length} needs {', '.join(map(str, bucket_lengths(spec.sequence_length)))}"
        )


def bucket_order(spec: PlanSpec, schedule: PacingSchedule, steps: int, buckets: Buckets) -> BucketOrder:
    """The order of a run of `steps` steps; the pacing is read at the 1-based step."""
    from dataeff.order_buckets import BucketOrder

    levels = schedule.at(np.arange(1, steps + 1, dtype=np.int64))
    step_tokens = spec.batch_size * buckets.lengths[-1]
    return BucketOrder.build(seed=spec.run.seed, step_tokens=step_tokens, levels=levels, buckets=buckets)


def bucket_facts(order: SampleOrder | BucketOrder) -> dict[str, dict[str, dict[str, float]]]:
    """For plan.json, by length: the bucket's samples, steps that take from it, and how often they read each sample."""
    from dataeff.order import SampleOrder

    if isinstance(order, SampleOrder):
        return {}
    columns = zip(order.lengths, order.sizes, order.rows, order.before(order.steps), strict=True)
    return {
        "buckets": {
            str(length): {
                "samples": int(samples),
                "samples_a_step": int(rows),
                "steps": int(steps),
                "passes": round(int(steps * rows) / int(samples), 4),
            }
            for length, samples, rows, steps in columns
        }
    }


def bucket_summary(facts: Mapping[str, Any]) -> str:
    """What a person wants to know of the buckets in plan.json, to go on with; nothing where there are none."""
    buckets = facts.get("buckets", {})
    if not buckets:
        return ""
    lengths = list(buckets)
    most = max(lengths, key=lambda length: float(buckets[length]["passes"]))
    said = f"; buckets of {lengths[0]} to {lengths[-1]} tokens, that of {most} read most often"
    said += f" ({buckets[most]['passes']:.2g} times)"
    small = [length for length in lengths if buckets[length]["samples"] < buckets[length]["samples_a_step"]]
    return f"{said}; a step of {' or '.join(small)} tokens repeats samples within it" if small else said
