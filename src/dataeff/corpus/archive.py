"""The files inside an archive, as open streams: .whl and .zip, .tar with any usual compression, and .deb.

Nothing is unpacked to disk and nothing is run. Names come in the archive's own order, which its sha256 pins.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

import zstandard

from dataeff.errors import DataeffError

ZIP_SUFFIXES = (".whl", ".zip")
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar")
DEBIAN_SUFFIXES = (".deb",)

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_BYTES = 60


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
    for member in _all_members(path, globs):
        found = True
        yield member
    if not found:
        raise DataeffError(f"{path}: no file in it matches members: {list(globs)}; correct them in the source's entry")


def is_archive(name: str) -> bool:
    return name.endswith(ZIP_SUFFIXES + TAR_SUFFIXES + DEBIAN_SUFFIXES)


def _all_members(path: Path, globs: Sequence[str]) -> Iterator[Member]:
    if path.name.endswith(ZIP_SUFFIXES):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and matches(entry.filename, globs):
                    with archive.open(entry) as stream:
                        yield Member(entry.filename, stream)
    elif path.name.endswith(DEBIAN_SUFFIXES):
        with path.open("rb") as stream, tarfile.open(fileobj=_debian_data(stream, path), mode="r|") as archive:
            yield from _tar_members(archive, globs)
    else:
        with tarfile.open(path, "r:*") as archive:
            yield from _tar_members(archive, globs)


def _tar_members(archive: tarfile.TarFile, globs: Sequence[str]) -> Iterator[Member]:
    for information in archive:
        name = information.name.removeprefix("./")
        content = archive.extractfile(information) if information.isreg() and matches(name, globs) else None
        if content is not None:
            with content:
                yield Member(name, content)


# --- .deb ---------------------------------------------------------------------------------------------------


def _debian_data(stream: IO[bytes], path: Path) -> IO[bytes]:
    """The package's files as a plain tar stream: member data.tar.* of the ar container that a .deb is (deb(5))."""
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise DataeffError(f"{path}: no Debian package (its first bytes are not an ar archive's); fetch it again")
    while header := stream.read(_AR_HEADER_BYTES):
        size_text = header[48:58].strip()
        if len(header) < _AR_HEADER_BYTES or not header.endswith(b"`\n") or not size_text.isdigit():
            raise DataeffError(f"{path}: its ar container is damaged near byte {stream.tell()}; fetch it again")
        name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(size_text)
        if name.startswith("data.tar"):
            return _decompressed(cast(IO[bytes], io.BufferedReader(_Section(stream, size))), name, path)
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise DataeffError(f"{path}: this Debian package holds no data.tar; fetch it again")


def _decompressed(stream: IO[bytes], name: str, path: Path) -> IO[bytes]:
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.LZMAFile(stream))
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if name.endswith(".zst"):
        return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(stream))
    if name == "data.tar":
        return stream
    raise DataeffError(f"{path}: {name} is compressed in a way not known here (known: .xz, .zst, .gz)")


class _Section(io.RawIOBase):
    """The next `size` bytes of a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)
