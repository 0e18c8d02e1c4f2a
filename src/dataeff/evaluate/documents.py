"""The held-out documents of each domain, read from the corpus stage's folder of {domain}.jsonl.zst files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

from dataeff.errors import DataeffError

SUFFIX = ".jsonl.zst"


def domain_files(heldout: Path) -> list[Path]:
    """The files of a held-out folder, one per domain, by name."""
    files = sorted(heldout.glob(f"*{SUFFIX}"))
    if not files:
        raise DataeffError(f"{heldout}: no *{SUFFIX} files of held-out text; make the corpus first")
    return files


def read_documents(path: Path) -> Iterator[tuple[str, str]]:
    """(domain, text) of every document of one file, in file order; lines as in the Pile."""
    number = 1
    try:
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            for line in io.TextIOWrapper(stream, encoding="utf-8", newline="\n"):
                document = json.loads(line)
                yield document["meta"]["pile_set_name"], document["text"]
                number += 1
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise DataeffError(
            f"{path}: line {number} is no document of the form "
            f'{{"text", "meta": {{"pile_set_name"}}}} ({error!r}); make the corpus again'
        ) from None
