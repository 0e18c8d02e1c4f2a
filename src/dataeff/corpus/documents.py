"""From fetched files to raw documents: the manifests of a corpus, checked, and each source through its reader."""

from __future__ import annotations

import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, cast
from xml.etree.ElementTree import ParseError

import zstandard

from dataeff.corpus.archive import Member, is_archive, members
from dataeff.corpus.fetch import FetchedFile, Manifest, read_manifest
from dataeff.corpus.readers import RawDocument, find_reader, unreadable
from dataeff.corpus.selection import read_sources
from dataeff.errors import DataeffError
from dataeff.files import sha256_file
from dataeff.study.fetches import HttpFetch, HubFetch
from dataeff.study.specs import CorpusSpec
from dataeff.study.types import Source

Opener = Callable[[Path], AbstractContextManager[IO[bytes]]]
_UNREADABLE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, zstandard.ZstdError, ParseError),
)


def find_manifests(spec: CorpusSpec, paths: Sequence[Path]) -> dict[str, Manifest]:
    """The manifest of each source that the corpus names, in its order."""
    found = {manifest.source: manifest for manifest in map(read_manifest, paths)}
    names = read_sources(spec.name, spec.corpus, spec.sources)
    for name in names:
        if name not in found:
            raise DataeffError(
                f"corpus {spec.name}: no manifest of source '{name}' is among those given "
                f"({', '.join(map(str, paths))}); fetch the source and add its manifest"
            )
    return {name: found[name] for name in names}


def check_manifest(spec: CorpusSpec, manifest: Manifest, *, hashed: bool = True) -> None:
    """Each file must still be what was fetched, and what is wanted now; without `hashed` only its size is looked at."""
    taken = manifest.taken
    if taken != manifest.source and (not spec.corpus.accept_substitutes or taken not in spec.sources):
        raise DataeffError(
            f"sources.{manifest.source}: its substitute '{taken}' was fetched, which corpus {spec.name} does not "
            f"accept (now); set corpora.{spec.name}.accept_substitutes: true, or run the fetch again"
        )
    for file in manifest.files:
        pinned = _pin(spec.sources[taken], file)
        path = Path(file.path)
        if pinned not in (None, file.sha256):
            raise DataeffError(f"{path}: fetched before sources.{taken}.fetch.sha256 changed; run its fetch again")
        same = path.is_file() and path.stat().st_size == file.bytes and (not hashed or sha256_file(path) == file.sha256)
        if not same:
            raise DataeffError(
                f"{path}: missing, or changed since it was fetched; run the fetch of '{manifest.source}' again"
            )


def _pin(source: Source, file: FetchedFile) -> str | None:
    how = source.fetch
    if isinstance(how, HttpFetch | HubFetch):
        return next((wanted.sha256 for wanted in how.files if wanted.name == file.name), None)
    return how.sha256


def raw_documents(source: Source, manifest: Manifest, opener: Opener | None = None) -> Iterator[RawDocument]:
    """The documents of a fetched source, as its reader finds them; `opener` opens a file that is no archive."""
    reader = find_reader(source.reader, f"sources.{manifest.taken}.reader")
    current = manifest.files[0].path

    def opened() -> Iterator[Member]:
        nonlocal current
        for file in manifest.files:
            current = file.path
            yield from _members_of(file, source, manifest.folder, opener)

    try:
        yield from reader(opened())
    except _UNREADABLE as error:
        raise unreadable(current, source.reader, error) from None


def _members_of(file: FetchedFile, source: Source, in_folder: bool, opener: Opener | None) -> Iterator[Member]:
    """The files inside an archive that stands alone; a folder's files as they are (fetch chose them)."""
    if is_archive(file.name) and not in_folder:
        yield from members(Path(file.path), source.members)
    else:
        with opener(Path(file.path)) if opener else Path(file.path).open("rb") as stream:
            yield Member(file.path, stream)


class HashedStream:
    """A file that is hashed as it is read, so that a large one need not be read twice to be verified."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self._hash = hashlib.sha256()
        self.read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.read_bytes += len(data)
        return data

    def sha256_of_all(self) -> str:
        """The digest of the whole file: reads what no reader asked for."""
        while self.read(1 << 20):
            pass
        return self._hash.hexdigest()

    def opener(self, _: Path) -> AbstractContextManager[IO[bytes]]:
        """For raw_documents; left open at the end, until its digest is asked for."""
        return nullcontext(cast(IO[bytes], self))

    def close(self) -> None:
        self._stream.close()
