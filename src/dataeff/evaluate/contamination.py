"""How much of the tasks' items stands in the training text: by n-grams, a shard at a time, then a report of all.

Prompted tasks are compared by the split that is scored, finetuning tasks by those that they are measured on. An item is
all texts of its row that have more than one word, so that identifiers and addresses do not count; ngrams.py says when
it is found. Items without 13 words in a row are told apart: a short sentence is easily found by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dataeff.corpus.shard import read_stream
from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import REMEDY, FetchedDataset, read_dataset, read_split
from dataeff.evaluate.definitions import read_definition
from dataeff.evaluate.ngrams import GRAM_WORDS, Items
from dataeff.files import read_json, write_json
from dataeff.progress import Progress
from dataeff.study.base import Frozen
from dataeff.study.load import validate
from dataeff.study.specs import ContaminationSpec

EXAMPLES = 5


class Asked(Frozen):
    """A task's column (the split's own name for a prompted task) and the set of items behind it, {dataset}/{split}."""

    task: str
    column: str | None
    items: str


class SetScan(Frozen):
    """One set of items against one shard: positions of short rows, and what each row was found by."""

    data_sha256: str
    items: int
    short: list[int]
    found: dict[int, str]


class ShardScan(Frozen):
    """What `scan` leaves of one shard."""

    spec_digest: str
    shard: str
    documents: int
    text_bytes: int
    asked: list[Asked]
    sets: dict[str, SetScan]


class Overlap(Frozen):
    """Of one task (or column): items that were found. `short` ones have no 13 words in a row and are found whole."""

    dataset: str
    split: str
    items: int
    found: int
    share: float
    short_items: int
    short_found: int
    examples: list[dict[str, Any]]


class Report(Frozen):
    gram_words: int
    shards: int
    documents: int
    text_bytes: int
    tasks: dict[str, Overlap]
    finetuning: dict[str, dict[str, Overlap]]


# --- one shard ------------------------------------------------------------------------------------------------


def scan(spec: ContaminationSpec, shard: Path, datasets: list[Path], out: Path) -> None:
    """Looks for the items of every task in one shard of the training text; `datasets` are manifests."""
    asked = _asked(spec)
    manifests = {dataset.name: dataset for dataset in map(read_dataset, datasets)}
    rows = {name: [row_texts(row) for row in _rows(name, manifests)] for name in dict.fromkeys(a.items for a in asked)}
    items = Items([texts for part in rows.values() for texts in part])
    print(f"contamination: {len(items):,} items of {len(rows)} sets against {shard}", flush=True)
    documents, text_bytes = _look(items, shard)
    sets: dict[str, SetScan] = {}
    begin = 0
    for name, part in rows.items():
        end = begin + len(part)
        sets[name] = SetScan(
            data_sha256=manifests[name.split("/")[0]].data_sha256,
            items=len(part),
            short=[position - begin for position in items.short if begin <= position < end],
            found={at - begin: words for at, words in sorted(items.found.items()) if begin <= at < end},
        )
        begin = end
    found = ShardScan(
        spec_digest=spec.digest, shard=shard.name, documents=documents, text_bytes=text_bytes, asked=asked, sets=sets
    )
    write_json(out, found.model_dump(mode="json"))
    print(f"contamination: {len(items.found):,} items found in {documents:,} documents", flush=True)


def _look(items: Items, shard: Path) -> tuple[int, int]:
    """Every document of the shard; how many, and their bytes of text."""
    documents = text_bytes = 0
    items.look("")  # Compiles the kernels: the pace shown is that of the text.
    progress = Progress(f"contamination {shard.name}", shard.stat().st_size, "bytes of the shard")
    with shard.open("rb") as stream:
        for document in read_stream(stream, str(shard)):
            items.look(document.text)
            documents += 1
            text_bytes += len(document.text.encode("utf-8", "replace"))
            progress.show(stream.tell())
    return documents, text_bytes


def _asked(spec: ContaminationSpec) -> list[Asked]:
    found = []
    for name, task in spec.tasks.items():
        split = read_definition(task.task, f"tasks.{name}.task").evaluated_split
        found.append(Asked(task=name, column=None, items=f"{task.data}/{split}"))
    for name, tuned in spec.finetuning.items():
        for column, split in tuned.evaluation.items():
            found.append(Asked(task=name, column=column, items=f"{tuned.data}/{split}"))
    return found


def _rows(name: str, manifests: dict[str, FetchedDataset]) -> list[dict[str, Any]]:
    dataset, split = name.split("/", 1)
    if dataset not in manifests:
        raise DataeffError(f"dataset {dataset} is not at hand; {REMEDY}")
    return read_split(manifests[dataset], split)


def row_texts(row: Any) -> list[str]:
    """The texts of a row, each once, at any depth: those of several words, or all if there are none such."""
    texts = list(dict.fromkeys(_strings(row)))
    return [text for text in texts if len(text.split()) > 1] or texts


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


# --- all shards -------------------------------------------------------------------------------------------------


def report(parts: list[Path], out: Path) -> None:
    """What was found in any shard, by task."""
    scans = [validate(ShardScan, read_json(path), str(path)) for path in parts]
    if not scans:
        raise DataeffError(f"{out}: no scans to report on; name them with --parts")
    first = scans[0]
    for path, other in zip(parts, scans, strict=True):
        if other.spec_digest != first.spec_digest or _identity(other) != _identity(first):
            raise DataeffError(
                f"{path}: made for other tasks or data than {parts[0]}; remove the older of the two and run again"
            )
    tasks: dict[str, Overlap] = {}
    finetuning: dict[str, dict[str, Overlap]] = {}
    for asked in first.asked:
        overlap = _overlap(asked.items, [scan.sets[asked.items] for scan in scans])
        if asked.column is None:
            tasks[asked.task] = overlap
        else:
            finetuning.setdefault(asked.task, {})[asked.column] = overlap
    made = Report(
        gram_words=GRAM_WORDS,
        shards=len(scans),
        documents=sum(scan.documents for scan in scans),
        text_bytes=sum(scan.text_bytes for scan in scans),
        tasks=tasks,
        finetuning=finetuning,
    )
    write_json(out, made.model_dump(mode="json"))
    columns = {f"{name} {column}": found for name, part in finetuning.items() for column, found in part.items()}
    for name, found in {**tasks, **columns}.items():
        print(f"contamination: {name}: {found.found} of {found.items} items ({found.share:.2%})", flush=True)


def _identity(scan: ShardScan) -> dict[str, str]:
    return {name: part.data_sha256 for name, part in scan.sets.items()}


def _overlap(name: str, scans: Sequence[SetScan]) -> Overlap:
    dataset, split = name.split("/", 1)
    found: dict[int, str] = {}
    for part in scans:
        found = {**part.found, **found}
    short = set(scans[0].short)
    items = scans[0].items
    return Overlap(
        dataset=dataset,
        split=split,
        items=items,
        found=len(found),
        share=len(found) / items if items else 0.0,
        short_items=len(short),
        short_found=len(short.intersection(found)),
        examples=[{"row": row, "words": found[row]} for row in sorted(found)[:EXAMPLES]],
    )
