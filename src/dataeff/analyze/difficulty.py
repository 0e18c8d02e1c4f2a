"""The difficulty index that plans select from, and its making in one process.

`frequency` counts the tokens of all samples; `analyze` computes one metric's value per sample and orders the samples
by it. Both are the map (map.py) over a single part and its reduce (reduce.py); a large corpus is mapped in several
parts, on as many processes or nodes, with the same result to the byte.
"""

from __future__ import annotations

import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dataeff.analyze.map import map_frequency, map_part
from dataeff.analyze.reduce import FACTS, reduce, reduce_frequency
from dataeff.errors import DataeffError
from dataeff.files import read_json, temporary_sibling
from dataeff.samples import FACTS as SAMPLES_FACTS
from dataeff.samples import load_array
from dataeff.study.specs import AnalyzeSpec

_RUN_AGAIN = "run `dataeff analyze` again"


def frequency(samples: Path, tokens: Sequence[Path], tokenizer: Path, out: Path, threads: int | None = None) -> None:
    """Writes `out` (.npy): int64 [padded vocabulary + 1], how often each token id occurs in the samples.

    A token that ends one sample and begins the next counts for both, since both train on it.
    """
    with _scratch(out) as folder:
        map_frequency(samples, tokens, tokenizer, 0, 1, folder, threads)
        reduce_frequency(folder, 1, out)


def analyze(
    spec: AnalyzeSpec,
    samples: Path,
    tokens: Sequence[Path],
    frequency: Path | None,
    out: Path,
    threads: int | None = None,
    tokenizer: Path | None = None,
) -> None:
    """Writes out/value.npy (the smallest integer type), order.npy (ids by value, equal values by id) and index.json.

    `frequency` is looked at by metrics that weigh tokens, `tokenizer` by those that read text.
    """
    check_samples(spec, samples)
    with _scratch(out) as folder:
        map_part(spec.metric, samples, tokens, 0, 1, folder, frequency=frequency, tokenizer=tokenizer, threads=threads)
        reduce(folder, 1, out)


def check_samples(spec: AnalyzeSpec, samples: Path) -> None:
    """Refuses samples of another family or length than the spec names."""
    facts = read_json(Path(samples) / SAMPLES_FACTS)
    try:
        family, length = facts["family"], facts["sequence_length"]
    except (KeyError, TypeError):
        raise DataeffError(
            f"{Path(samples) / SAMPLES_FACTS}: not the facts of samples; run `dataeff samples` again"
        ) from None
    if (family, length) != (spec.family, spec.sequence_length):
        raise DataeffError(
            f"{samples}: {family} samples of {length} tokens, the spec wants {spec.family} samples of "
            f"{spec.sequence_length}; pass the samples of that family and length"
        )


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out` for the parts, removed at the end."""
    folder = temporary_sibling(Path(out).with_name(f"{Path(out).name}.parts"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class DifficultyIndex:
    """`values`[id] is a sample's difficulty; `order` lists the ids by difficulty. A pool is a prefix of
    `order`.
    """

    metric: str
    values: NDArray[Any]
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
        values = load_array(Path(folder) / "value.npy", (samples,), "iu", _RUN_AGAIN)
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
