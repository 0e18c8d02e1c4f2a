"""The reduce of the analysis: the parts of one metric become the difficulty index, in memory that does not grow.

The index is two flat arrays, value.npy (by sample id) and order.npy (ids by value, equal values by id), and the facts
in index.json: not a file per value as DeepSpeed's analyser, and no sort of all samples in memory (sorting.py). Parts
are put together only if all of them are there, unchanged, and made of the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.map import integer_type, part_files, part_range, storing, write_header
from dataeff.analyze.metrics import METRICS
from dataeff.analyze.sorting import write_order
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, atomic_path, read_json, sha256_file, write_json, write_manifest
from dataeff.samples import load_array
from dataeff.study.types import FREQUENCY

FACTS = "index.json"
BLOCK_VALUES = 1 << 20
"""Values read at a time."""
_OF_ONE_PART = ("part", "first", "last", "min", "max", "sha256")


def reduce_frequency(folder: Path, parts: int | None, out: Path) -> None:
    """Writes `out` (.npy): int64 [padded vocabulary + 1], the sum of the parts' counts.

    `parts`: how many; None: as many as the first one says that there are.
    """
    facts = _read_facts(Path(folder), parts)
    parts = len(facts)
    if facts[0]["metric"] != FREQUENCY:
        raise DataeffError(f"{folder}: parts of the metric '{facts[0]['metric']}', not of {FREQUENCY}; pass its folder")
    bins = int(facts[0]["bins"])
    counts = np.zeros(bins, dtype=np.int64)
    for part in range(parts):
        path, _ = part_files(folder, part)
        counts += load_array(path, (bins,), "iu", _again(part, parts)).astype(np.int64)
    with storing(Path(out)), atomic_path(out) as temporary, temporary.open("wb") as stream:
        np.save(stream, counts)


def reduce(folder: Path, parts: int | None, out: Path) -> None:
    """Writes out/value.npy, order.npy and index.json from the parts 0 to parts - 1 of one metric (None: as many as
    the first one says that there are).
    """
    facts = _read_facts(Path(folder), parts)
    metric = str(facts[0]["metric"])
    if metric not in METRICS:
        raise DataeffError(f"{folder}: parts of '{metric}', which is no metric of samples; pass the folder of one")
    values = Values.open(Path(folder), facts)
    low, high = values.low, values.high
    with storing(Path(out)), atomic_directory(out) as target:
        values.save(target / "value.npy")
        with (target / "order.npy").open("wb") as stream:
            distinct = write_order(values, stream)
        made_of = {key: value for key, value in facts[0].items() if key not in (*_OF_ONE_PART, "metric", "parts")}
        index = {"metric": metric, "unit": METRICS[metric].unit, "min": low, "max": high, "distinct": distinct}
        write_json(target / FACTS, index | made_of)
        write_manifest(target)


def _again(part: int, parts: int | None) -> str:
    return f"run `dataeff analyze_map` of part {part}{f' of {parts}' if parts else ''} again"


def _part_count(folder: Path) -> int:
    """As the first part says."""
    _, description = part_files(folder, 0)
    if not description.is_file():
        raise DataeffError(f"{description}: no such file; {_again(0, None)}")
    try:
        return int(read_json(description)["parts"])
    except (KeyError, TypeError, ValueError):
        raise DataeffError(f"{description}: not the facts of a part; {_again(0, None)}") from None


def _read_facts(folder: Path, parts: int | None) -> list[dict[str, Any]]:
    """The facts of the parts; refused unless all are there, unchanged, and parts of one whole."""
    if parts is None:
        parts = _part_count(folder)
    if parts < 1:
        raise DataeffError(f"{parts} parts; at least one is needed")
    found: list[dict[str, Any]] = []
    for part in range(parts):
        path, description = part_files(folder, part)
        for file in (path, description):
            if not file.is_file():
                raise DataeffError(f"{file}: no such file; {_again(part, parts)}")
        facts = read_json(description)
        try:
            _check_part(facts, found[0] if found else facts, part, parts, description)
            damaged = facts["sha256"] != sha256_file(path)
        except (KeyError, TypeError, AttributeError):
            raise DataeffError(f"{description}: not the facts of a part; {_again(part, parts)}") from None
        if damaged:
            raise DataeffError(f"{path}: not the values that {description.name} describes; {_again(part, parts)}")
        found.append(facts)
    return found


def _check_part(facts: dict[str, Any], first: dict[str, Any], part: int, parts: int, where: Path) -> None:
    if (facts["part"], facts["parts"]) != (part, parts):
        raise DataeffError(f"{where}: part {facts['part']} of {facts['parts']}; {_again(part, parts)}")
    if (facts["first"], facts["last"]) != part_range(int(facts["samples"]), part, parts):
        raise DataeffError(f"{where}: samples {facts['first']} to {facts['last']}; {_again(part, parts)}")
    for key in sorted(first.keys() | facts.keys()):
        if key not in _OF_ONE_PART and first.get(key) != facts.get(key):
            raise DataeffError(
                f"{where}: {key} is {facts.get(key)!r}, that of part 0 is {first.get(key)!r}: parts of different "
                f"metrics or samples; {_again(part, parts)}"
            )


@dataclass(frozen=True, slots=True)
class Values:
    """The values of all samples, in files one after the other, read block by block. `low`, `high`: their ends."""

    paths: tuple[Path, ...]
    low: int
    high: int
    samples: int

    @classmethod
    def open(cls, folder: Path, facts: list[dict[str, Any]]) -> Values:
        filled = [fact for fact in facts if fact["last"] > fact["first"]]
        if not filled:
            raise DataeffError(f"{folder}: the parts hold no samples; run `dataeff samples` on a larger corpus")
        paths = []
        for part, fact in enumerate(facts):
            path, _ = part_files(folder, part)
            load_array(path, (fact["last"] - fact["first"],), "iu", _again(part, len(facts)))
            paths.append(path)
        low, high = min(int(fact["min"]) for fact in filled), max(int(fact["max"]) for fact in filled)
        return cls(tuple(paths), low, high, int(facts[0]["samples"]))

    def blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(id of the first, values) of each block. Read, not mapped: a mapped file counts as memory in use."""
        first = 0
        for path in self.paths:
            mapped = np.load(path, mmap_mode="r")
            with path.open("rb") as stream:
                stream.seek(mapped.offset)
                for start in range(0, len(mapped), BLOCK_VALUES):
                    yield first, np.fromfile(stream, mapped.dtype, min(BLOCK_VALUES, len(mapped) - start))
                    first += min(BLOCK_VALUES, len(mapped) - start)

    def save(self, path: Path) -> None:
        """One .npy of the smallest type; refused if a value is not between the ends that the facts name."""
        dtype = integer_type(self.low, self.high)
        with path.open("wb") as stream:
            write_header(stream, dtype, self.samples)
            for first, block in self.blocks():
                if int(block.min()) < self.low or int(block.max()) > self.high:
                    raise DataeffError(
                        f"{self.paths[0].parent}: samples {first} to {first + len(block) - 1} have values from "
                        f"{block.min()} to {block.max()}, the parts' facts say {self.low} to {self.high}; map again"
                    )
                stream.write(block.astype(dtype).data)
