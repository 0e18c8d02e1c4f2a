"""Where files come from: package registries, mirrors, the Hugging Face hub, or this machine. All named exactly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from dataeff.study.base import Frozen, PositiveInt, Sha256


class PackageFetch(Frozen):
    """One file of a package registry, named exactly: nothing of the package is ever run or installed."""

    kind: Literal["pypi", "npm"]
    package: str
    version: str
    file: str
    sha256: Sha256
    bytes: PositiveInt


class PathFetch(Frozen):
    """Files already on this machine."""

    kind: Literal["path"]
    path: str
    sha256: Sha256 | None = None


class DebianFetch(Frozen):
    """One .deb, by its path below a Debian mirror; nothing of it is installed or run.

    Mirrors drop a version when the next one comes. The archive of snapshots keeps it; `snapshot` is a time at which
    the mirrors held it.
    """

    kind: Literal["debian"]
    path: Annotated[str, Field(pattern=r"^pool/.+\.deb$")]
    sha256: Sha256
    bytes: PositiveInt
    snapshot: Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z$")] | None = None


class RemoteFile(Frozen):
    """A file below a mirror or repository; a pin that is absent is recorded at the first download."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*$")]
    sha256: Sha256 | None = None
    bytes: PositiveInt | None = None


Files = Annotated[list[RemoteFile], Field(min_length=1)]


def _each_once(files: list[RemoteFile]) -> list[RemoteFile]:
    names = [file.name for file in files]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"files {doubled}: name each file once")
    return files


class HttpFetch(Frozen):
    """Files below one of several mirrors (folders at http:// or https://), tried in the order given."""

    kind: Literal["http"]
    mirrors: Annotated[list[Annotated[str, Field(pattern=r"^https?://")]], Field(min_length=1)]
    files: Files

    _distinct = field_validator("files")(_each_once)


class HubFetch(Frozen):
    """Files of a dataset on the Hugging Face hub, at one commit."""

    kind: Literal["hub"]
    repository: Annotated[str, Field(pattern=r"^[^/\s]+/[^/\s]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit, not a branch, which may move")]
    files: Files

    _distinct = field_validator("files")(_each_once)


Fetch = Annotated[PackageFetch | DebianFetch | PathFetch | HttpFetch | HubFetch, Field(discriminator="kind")]
