"""The files inside an archive, as open streams: .whl and .zip, .tar.gz, .tgz and .tar.

Nothing is unpacked to disk and nothing is run. Names come in the archive's own order, which its sha256 pins.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from dataeff.errors import DataeffError

ZIP_SUFFIXES = (".whl", ".zip")
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar")


@dataclass(frozen=True, slots=True)
class Member:
    """A file to read: its name (inside the archive, or below the source's folder) and its bytes."""

    name: str
    stream: IO[bytes]


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether globs select a name. `*` also crosses `/`; `!glob` takes names out again; no globs: all."""
    wanted = [glob for glob in globs if not glob.startswith("!")] or ["*"]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    return any(fnmatchcase(name, glob) for glob in wanted) and not any(fnmatchcase(name, glob) for glob in unwanted)


def members(path: Path, globs: Sequence[str]) -> Iterator[Member]:
    """The files of an archive that `globs` select, each open until the next is asked for; at least one."""
    found = False
    for member in _all_members(path):
        if matches(member.name, globs):
            found = True
            yield member
    if not found:
        raise DataeffError(f"{path}: no file in it matches members: {list(globs)}; correct them in the source's entry")


def is_archive(name: str) -> bool:
    return name.endswith(ZIP_SUFFIXES + TAR_SUFFIXES)


def _all_members(path: Path) -> Iterator[Member]:
    if path.name.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir():
                    with archive.open(entry) as stream:
                        yield Member(entry.filename, stream)
    else:
        with tarfile.open(path, "r:*") as archive:
            for information in archive:
                content = archive.extractfile(information) if information.isreg() else None
                if content is not None:
                    with content:
                        yield Member(information.name, content)
