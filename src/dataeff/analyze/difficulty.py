"""The difficulty of every sample and the order by it: two passes over the samples, and the index that plans
read.

`frequency` counts the tokens of all samples; `analyze` computes one metric's value per sample and sorts. Both
go through the samples in parts, with threads; every part is independent, so the result does not depend on how
many. The index is two flat arrays (value per sample, sample ids by value), not a file per value as
DeepSpeed's analyser.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.metrics import count_tokens, find_metric, frequency_bins
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, atomic_path, read_json, sha256_file, write_json, write_manifest
from dataeff.progress import Progress
from dataeff.samples import Samples, id_type, load_array
from dataeff.study.specs import AnalyzeSpec
from dataeff.tokens.tokenizer import load

Part = TypeVar("Part")

FACTS = "index.json"
PART_TOKENS = 1 << 21
_RUN_AGAIN = "run `dataeff analyze` again"


def frequency(samples: Path, tokens: Sequence[Path], tokenizer: Path, out: Path, threads: int | None = None) -> None:
    """Writes `out` (.npy): int64 [padded vocabulary + 1], how often each token id occurs in the samples.

    A token that ends one sample and begins the next counts for both, since both train on it.
    """
    bins = frequency_bins(load(tokenizer).padded_vocab_size())
    opened = Samples(samples, tokens)
    counts = np.zeros(bins, dtype=np.int64)
    parts = _map_parts(opened, lambda part: count_tokens(part, bins), "analyze frequency", threads)
    for _, part_counts in parts:
        counts += part_counts
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.save(stream, counts)


def analyze(
    spec: AnalyzeSpec,
    samples: Path,
    tokens: Sequence[Path],
    frequency: Path,
    out: Path,
    threads: int | None = None,
) -> None:
    """Writes out/value.npy (int64 [N]), order.npy (ids by value, equal values by id) and index.json."""
    metric = find_metric(spec.metric, f"analyze {spec.family}")
    opened = Samples(samples, tokens)
    if opened.sequence_length != spec.sequence_length:
        raise DataeffError(
            f"{samples}: samples of {opened.sequence_length} tokens, the spec wants {spec.sequence_length}; "
            f"pass the samples of that length"
        )
    counts = _load_frequency(frequency)
    values = np.empty(len(opened), dtype=np.int64)
    parts = _map_parts(opened, lambda part: metric.difficulty(part, counts), f"analyze {spec.metric}", threads)
    for first, part_values in parts:
        values[first : first + len(part_values)] = part_values
    order = np.argsort(values, kind="stable").astype(id_type(len(values)))
    facts = {
        "metric": spec.metric,
        "samples": len(values),
        "min": int(values[order[0]]),
        "max": int(values[order[-1]]),
        "frequency_sha256": sha256_file(frequency) if metric.needs_frequency else None,
    }
    with atomic_directory(out) as folder:
        np.save(folder / "value.npy", values)
        np.save(folder / "order.npy", order)
        write_json(folder / FACTS, facts)
        write_manifest(folder)


def _load_frequency(path: Path) -> NDArray[np.int64]:
    counts = load_array(path, (None,), "i", "run `dataeff analyze frequency` again")
    if len(counts) == 0 or int(counts.min()) < 0:
        raise DataeffError(f"{path}: no counts of tokens (empty or negative); run `dataeff analyze frequency` again")
    return counts


def _map_parts(
    samples: Samples, compute: Callable[[NDArray[np.int64]], Part], name: str, threads: int | None
) -> Iterator[tuple[int, Part]]:
    """(number of the first sample, result) of each part of the samples, in order; a few parts in flight at
    once.
    """
    rows = max(1, PART_TOKENS // (samples.sequence_length + 1))
    workers = threads or len(os.sched_getaffinity(0))
    progress = Progress(name, len(samples), "samples")
    firsts = iter(range(0, len(samples), rows))

    def work(first: int) -> Part:
        return compute(samples.read(np.arange(first, min(first + rows, len(samples)))))

    with ThreadPoolExecutor(workers) as pool:
        waiting = [(first, pool.submit(work, first)) for first in islice(firsts, 2 * workers)]
        while waiting:
            first, future = waiting.pop(0)
            yield first, future.result()
            waiting += [(following, pool.submit(work, following)) for following in islice(firsts, 1)]
            progress.show(min(first + rows, len(samples)))


@dataclass(frozen=True, slots=True)
class DifficultyIndex:
    """`values`[id] is a sample's difficulty; `order` lists the ids by difficulty. A pool is a prefix of
    `order`.
    """

    metric: str
    values: NDArray[np.int64]
    order: NDArray[Any]

    @classmethod
    def open(cls, folder: Path) -> DifficultyIndex:
        """Memory-mapped; refused if the arrays are not those that index.json describes."""
        facts = read_json(Path(folder) / FACTS)
        try:
            metric, samples = str(facts["metric"]), int(facts["samples"])
            ends = int(facts["min"]), int(facts["max"])
        except (KeyError, TypeError, ValueError):
            raise DataeffError(f"{Path(folder) / FACTS}: not the facts of a difficulty index; {_RUN_AGAIN}") from None
        values = load_array(Path(folder) / "value.npy", (samples,), "i", _RUN_AGAIN)
        order = load_array(Path(folder) / "order.npy", (samples,), "iu", _RUN_AGAIN)
        first_last = [int(order[0]), int(order[-1])] if samples else []
        if not samples or not all(0 <= id < samples for id in first_last) or ends != tuple(values[first_last].tolist()):
            raise DataeffError(
                f"{folder}: value.npy and order.npy do not run from {ends[0]} to {ends[1]}; {_RUN_AGAIN}"
            )
        return cls(metric, values, order)

    def __len__(self) -> int:
        return len(self.values)

    def pool_size_at_percentile(self, percentile: int) -> int:
        """DeepSpeed's rule: whole hundredths of the samples, and all of them at 100."""
        if not 0 <= percentile <= 100:
            raise ValueError(f"percentile {percentile}; it goes from 0 to 100")
        return len(self) if percentile == 100 else percentile * (len(self) // 100)

    def pool_size_at_value(self, value: int) -> int:
        """Number of samples of at most this difficulty: a binary search that reads a few entries of the
        arrays.
        """
        return bisect_right(range(len(self)), value, key=lambda position: int(self.values[self.order[position]]))
