"""Items in files of this machine: {split}.tsv in GLUE's layout, or {split}.jsonl."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.evaluate.dataset_readers.base import Row
from dataeff.files import sha256_file
from dataeff.study.tasks import LocalData

RAGGED_SHARE = 1000
"""One line in so many of a TSV may have another number of fields: GLUE's QQP has a few, which its users leave out."""


def local_file(name: str, how: LocalData, split: str) -> Path:
    """{split}.tsv or {split}.jsonl below the folder, with the pinned hash if there is one."""
    folder = Path(how.path).absolute()
    candidates = [folder / f"{split}.tsv", folder / f"{split}.jsonl"]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        what = "both are there" if found else "neither is there"
        raise DataeffError(
            f"datasets.{name}: one of {candidates[0]} and {candidates[1].name} is needed, {what}; "
            f"correct path or splits"
        )
    pin = how.sha256.get(split)
    if pin is not None and sha256_file(found[0]) != pin:
        raise DataeffError(
            f"datasets.{name}.fetch.sha256: {found[0]} has sha256 {sha256_file(found[0])}, {pin} is given for it; "
            f"bring the file that was meant, or correct the hash"
        )
    return found[0]


def local_rows(path: Path) -> list[Row]:
    return _tsv_rows(path) if path.suffix == ".tsv" else list(json_rows(path))


def json_rows(path: Path) -> Iterator[Row]:
    """An object a line. Only the byte \\n ends one."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise DataeffError(f"{path}:{number}: not JSON ({error}); correct the line") from None
            if not isinstance(row, dict):
                raise DataeffError(f"{path}:{number}: a JSON object is needed, found {row!r:.80}; correct the line")
            yield row


def _tsv_rows(path: Path) -> list[Row]:
    """Fields between tabs, as GLUE's files are: a quotation mark is a character like any other. Values are texts."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataeffError(f"{path}: no table of UTF-8 text between tabs ({error}); correct it") from None
    if len(lines) < 2:
        raise DataeffError(f"{path}: {len(lines)} lines; a header line and items are needed")
    header = lines[0]
    if len(set(header)) < len(header):
        raise DataeffError(f"{path}: its first line {header} is no header of distinct names; put one there")
    ragged = [number for number, line in enumerate(lines, start=1) if len(line) != len(header)]
    if len(ragged) * RAGGED_SHARE > len(lines):
        raise DataeffError(
            f"{path}:{ragged[0]}: {len(lines[ragged[0] - 1])} fields, the header has {len(header)}; correct this line "
            f"and {len(ragged) - 1} others"
        )
    if ragged:
        print(f"fetch-eval: {path}: left out lines of another number of fields: {ragged}", flush=True)
    return [dict(zip(header, line, strict=True)) for line in lines[1:] if len(line) == len(header)]
