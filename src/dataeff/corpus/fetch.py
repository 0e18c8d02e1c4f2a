"""One source's files, found and verified: from registries, mirrors or the hub into the cache, or on this machine.

Makes a manifest (JSON) of the files with sizes and sha256. A file that lies in the cache as pinned (or as recorded
when it first came) needs no network at all; nothing of a package is installed or run. A source that can no longer be
had ends with an error that names its substitute; the substitute is taken only where the corpus accepts that, and the
manifest then says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dataeff.corpus.address import without_credentials
from dataeff.corpus.download import Mirror, Unavailable, download
from dataeff.corpus.index import INDEXES, find_url, index_page
from dataeff.corpus.partial import Wanted
from dataeff.corpus.selection import local_names, shard_files
from dataeff.errors import DataeffError, unknown_name
from dataeff.files import read_json, sha256_file, write_json
from dataeff.study.base import Frozen, Sha256
from dataeff.study.fetches import DebianFetch, HttpFetch, HubFetch, PackageFetch, PathFetch, RemoteFile
from dataeff.study.load import validate
from dataeff.study.specs import FetchSpec

DEBIAN_MIRROR = "https://deb.debian.org/debian"
DEBIAN_ARCHIVES = "https://archive.debian.org/debian"
DEBIAN_SNAPSHOTS = "https://snapshot.debian.org/archive/debian"
HUB = "https://huggingface.co"


class FetchedFile(Frozen):
    """`path` is absolute; `name` is relative to the source's folder, or the file's own if there is none."""

    path: str
    name: str
    bytes: int
    sha256: Sha256


class Substitution(Frozen):
    """That a source was taken instead of another one, and why."""

    wanted: str
    reason: str
    taken: str


class Manifest(Frozen):
    """What `fetch` leaves for `build`. `url` is a page or folder that lists the file; None for local files."""

    source: str
    licence: str
    url: str | None
    folder: bool
    files: list[FetchedFile]
    substitution: Substitution | None = None

    @property
    def taken(self) -> str:
        """The source whose text this is."""
        return self.substitution.taken if self.substitution else self.source


def fetch(spec: FetchSpec, cache: Path, out: Path) -> None:
    """Brings the source's files and writes their manifest to `out`."""
    _write(_fetched(spec, cache, None), out)


def fetch_shard(spec: FetchSpec, shard: str, cache: Path, out: Path) -> None:
    """Brings the one file of the source that is `shard` of a sharded corpus, and writes its manifest to `out`."""
    _write(_fetched(spec, cache, shard), out)


def read_manifest(path: Path) -> Manifest:
    return validate(Manifest, read_json(path), str(path))


def fetch_package(package: PackageFetch, cache: Path) -> Path:
    """The pinned file in the cache, downloaded if it is not there whole. Safe to call concurrently."""
    return Path(_package(package, cache).path)


def _write(manifest: Manifest, out: Path) -> None:
    write_json(out, manifest.model_dump(mode="json"))


def _fetched(spec: FetchSpec, cache: Path, shard: str | None) -> Manifest:
    try:
        return _manifest(spec, cache, shard)
    except Unavailable as error:
        if spec.accepted is None:
            raise Unavailable(f"{error}{_advice(spec)}") from None
        reason = str(error)
    print(f"fetch: SUBSTITUTE: '{spec.accepted.name}' is taken instead of '{spec.name}': {reason}", flush=True)
    try:
        stand_in = _fetched(spec.accepted, cache, shard)
    except DataeffError as error:
        raise Unavailable(f"{reason} Nor can its substitute: {error}") from None
    substitution = Substitution(wanted=spec.name, reason=reason, taken=stand_in.taken)
    return stand_in.model_copy(update={"source": spec.name, "substitution": substitution})


def _advice(spec: FetchSpec) -> str:
    if spec.substitute is None:
        return ""
    return (
        f". Its substitute is '{spec.substitute}': name that in the corpus's `sources` (or heldout_from) instead of "
        f"'{spec.name}', or set accept_substitutes: true in the corpus"
    )


def _manifest(spec: FetchSpec, cache: Path, shard: str | None) -> Manifest:
    """The manifest of a source's own files, or of the one that is the shard."""
    how = spec.fetch
    if isinstance(how, PathFetch):
        url, files = None, _local_files(spec, how, shard)
    elif isinstance(how, PackageFetch):
        url, files = without_credentials(index_page(how)), [_package(how, cache)]
    elif isinstance(how, DebianFetch):
        url, files = _debian_mirrors(how)[0], [_debian(how, cache)]
    elif isinstance(how, HttpFetch):
        url, files = (
            without_credentials(how.mirrors[0]),
            [_http(how, f, spec, cache) for f in _wanted(spec, how, shard)],
        )
    else:
        url = f"{without_credentials(_hub())}/datasets/{how.repository}"
        files = [_from_hub(how, file, spec, cache) for file in _wanted(spec, how, shard)]
    folder = isinstance(how, PathFetch) and Path(how.path).is_dir()
    return Manifest(source=spec.name, licence=spec.licence, url=url, folder=folder, files=files)


def _wanted(spec: FetchSpec, how: HttpFetch | HubFetch, shard: str | None) -> list[RemoteFile]:
    if shard is None:
        return how.files
    name = _file_of_shard(spec, shard)
    return [file for file in how.files if file.name == name]


def _file_of_shard(spec: FetchSpec, shard: str) -> str:
    files = shard_files(spec.name, spec.fetch, spec.members)
    if shard not in files:
        raise unknown_name("shard", shard, files, f"sources.{spec.name}.fetch")
    return files[shard]


# --- remote files -------------------------------------------------------------------------------------------


def _bring(name: str, wanted: Wanted, mirrors: Sequence[Mirror]) -> FetchedFile:
    found = download(wanted, mirrors)
    return FetchedFile(path=str(found.path.absolute()), name=name, bytes=found.bytes, sha256=found.sha256)


def _by_hand(target: Path, sha256: str | None, size: int | None) -> str:
    """How to do without the network: only a pinned file can be told from another one."""
    if sha256 is None:
        return "or download the file on another machine and give it as kind path"
    facts = f"sha256 {sha256}" + (f", {size} bytes" if size else "")
    return f"or download the file on another machine ({facts}) and put it at {target.absolute()}"


def _package(package: PackageFetch, cache: Path) -> FetchedFile:
    target = Path(cache) / package.kind / f"{package.sha256[:16]}-{package.file}"
    wanted = Wanted(
        f"{package.kind} package {package.package} {package.version}, {package.file}",
        target,
        f"Check the network or {INDEXES[package.kind][0]}; {_by_hand(target, package.sha256, package.bytes)}",
        package.sha256,
        package.bytes,
    )
    mirror = Mirror(without_credentials(index_page(package)), lambda: find_url(package))
    return _bring(package.file, wanted, [mirror])


def _debian_mirrors(how: DebianFetch) -> list[str]:
    mirrors = [os.environ.get("DEBIAN_MIRROR") or DEBIAN_MIRROR, DEBIAN_ARCHIVES]
    return [mirror.rstrip("/") for mirror in mirrors] + ([f"{DEBIAN_SNAPSHOTS}/{how.snapshot}"] if how.snapshot else [])


def _debian(how: DebianFetch, cache: Path) -> FetchedFile:
    name = PurePosixPath(how.path).name
    target = Path(cache) / "debian" / f"{how.sha256[:16]}-{name}"
    remedy = (
        f"Check the network; set DEBIAN_MIRROR to a mirror near you; {_by_hand(target, how.sha256, how.bytes)}; or pin "
        f"the version that Debian has now"
    )
    wanted = Wanted(f"Debian package {name}", target, remedy, how.sha256, how.bytes)
    return _bring(name, wanted, [_mirror(base, how.path) for base in _debian_mirrors(how)])


def _http(how: HttpFetch, file: RemoteFile, spec: FetchSpec, cache: Path) -> FetchedFile:
    name = PurePosixPath(file.name).name
    mark = file.sha256 or hashlib.sha256(f"{how.mirrors[0]}\n{file.name}".encode()).hexdigest()
    target = Path(cache) / "http" / f"{mark[:16]}-{name}"
    remedy = (
        f"Check the network; add a mirror that has it to sources.{spec.name}.fetch.mirrors; "
        f"{_by_hand(target, file.sha256, file.bytes)}"
    )
    wanted = Wanted(f"source {spec.name}, {file.name}", target, remedy, file.sha256, file.bytes)
    return _bring(file.name, wanted, [_mirror(base, file.name) for base in how.mirrors])


def _from_hub(how: HubFetch, file: RemoteFile, spec: FetchSpec, cache: Path) -> FetchedFile:
    """One file of one commit, by its plain address: what huggingface_hub would add is a second cache of its own.

    Resuming, verifying, falling back and working offline are download.py's, for all kinds alike.
    """
    target = Path(cache) / "hub" / how.repository.replace("/", "--") / how.revision / file.name
    base = f"{_hub()}/datasets/{how.repository}/resolve/{how.revision}"
    remedy = (
        f"Check the network, HF_ENDPOINT, and HF_TOKEN if the dataset asks for one; "
        f"{_by_hand(target, file.sha256, file.bytes)}"
    )
    wanted = Wanted(f"source {spec.name}, {file.name}", target, remedy, file.sha256, file.bytes)
    return _bring(file.name, wanted, [_mirror(base, file.name, os.environ.get("HF_TOKEN"))])


def _hub() -> str:
    return (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def _mirror(base: str, path: str, token: str | None = None) -> Mirror:
    url = f"{base.rstrip('/')}/{path}"
    return Mirror(without_credentials(url), lambda: url, token)


# --- local files --------------------------------------------------------------------------------------------


def _local_files(spec: FetchSpec, how: PathFetch, shard: str | None) -> list[FetchedFile]:
    """The file at the path, or those below the folder there that `members` select, by name; or the shard alone."""
    path = Path(how.path).absolute()
    if path.is_file():
        file = _local_file(path, path.name)
        if how.sha256 not in (None, file.sha256):
            raise DataeffError(f"{path}: sha256 {file.sha256} found, sources.{spec.name}.fetch.sha256 is {how.sha256}")
        return [file]
    if not path.is_dir():
        raise Unavailable(f"{path}: no such file or folder; correct sources.{spec.name}.fetch.path")
    if how.sha256 is not None:
        raise DataeffError(
            f"sources.{spec.name}.fetch.sha256: {path} is a folder; a sha256 pins a single file, leave it out"
        )
    names = local_names(spec.name, path, spec.members) if shard is None else [_file_of_shard(spec, shard)]
    return [_local_file(path / name, name) for name in names]


def _local_file(path: Path, name: str) -> FetchedFile:
    return FetchedFile(path=str(path), name=name, bytes=path.stat().st_size, sha256=sha256_file(path))
