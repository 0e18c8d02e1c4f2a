"""Fetching against a small index on this machine: what is verified, resumed, cached and said."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataeff.corpus import fetch as module
from dataeff.corpus.fetch import fetch, fetch_package, read_manifest
from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.study.specs import FetchSpec
from dataeff.study.types import PackageFetch, PathFetch, Source

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(75_000))
FILE = "some_texts-1.0-py3-none-any.whl"


class Index(ThreadingHTTPServer):
    """A package index with one file; the first `breaks` downloads end after `break_after` bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.break_after: int | None = None
        self.breaks = 0
        self.asked: list[tuple[str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/simple"

    @property
    def downloads(self) -> list[str | None]:
        """The Range header of each download."""
        return [byte_range for path, byte_range, _ in self.asked if path.startswith("/files/")]


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        byte_range = self.headers["Range"]
        self.server.asked.append((self.path, byte_range, self.headers["Authorization"]))
        if self.path == "/simple/some-texts/":
            self.reply(200, json.dumps({"files": [{"filename": FILE, "url": f"../../files/{FILE}"}]}).encode())
        elif self.path == "/simple/@me%2Ftexts":
            address = f"http://127.0.0.1:{self.server.server_address[1]}/files/{FILE}"
            self.reply(200, json.dumps({"versions": {"1.0": {"dist": {"tarball": address}}}}).encode())
        elif self.path == f"/files/{FILE}":
            start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if byte_range else 0
            if start >= len(self.server.content):
                self.reply(416, b"")
            else:
                self.reply(206 if byte_range else 200, self.server.content[start:], self.server.break_after)
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes, break_after: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if break_after is not None and self.server.breaks:
            self.server.breaks -= 1
            body = body[:break_after]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    server = Index()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", server.url)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", server.url)
    monkeypatch.setattr(module, "PAUSES_SECONDS", (0.0, 0.0))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 (discard) of this machine: nothing answers there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(module, "PAUSES_SECONDS", ())


def package(**changes: object) -> PackageFetch:
    fields = {
        "kind": "pypi",
        "package": "Some_Texts",
        "version": "1.0",
        "file": FILE,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "bytes": len(CONTENT),
    }
    return PackageFetch.model_validate(fields | changes)


def spec(how: PackageFetch | PathFetch, members: list[str] | None = None) -> FetchSpec:
    source = Source(
        domain="D",
        about="a",
        licence="CC0",
        stands_in_for="s",
        fetch=how,
        reader="text",
        members=members or [],
    )
    return FetchSpec.of("mine", source)


def cached(cache: Path) -> Path:
    return cache / "pypi" / f"{hashlib.sha256(CONTENT).hexdigest()[:16]}-{FILE}"


def test_manifest_of_a_download(index: Index, tmp_path: Path) -> None:
    fetch(spec(package()), tmp_path / "cache", tmp_path / "manifest.json")
    assert read_json(tmp_path / "manifest.json") == {
        "source": "mine",
        "licence": "CC0",
        "url": f"{index.url}/some-texts/",
        "folder": False,
        "files": [
            {
                "path": str(cached(tmp_path / "cache")),
                "name": FILE,
                "bytes": len(CONTENT),
                "sha256": hashlib.sha256(CONTENT).hexdigest(),
            }
        ],
    }
    assert cached(tmp_path / "cache").read_bytes() == CONTENT


def test_npm_looks_the_tarball_up_by_version(index: Index, tmp_path: Path) -> None:
    npm = package(kind="npm", package="@me/texts")
    assert fetch_package(npm, tmp_path).read_bytes() == CONTENT
    with pytest.raises(DataeffError, match=r"texts 2\.0\): unknown version '2\.0'; did you mean '1\.0'"):
        fetch_package(package(kind="npm", package="@me/texts", version="2.0", sha256="0" * 64), tmp_path)


def test_a_file_that_the_index_lacks_is_named(index: Index, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=rf"unknown file 'some_texts-1.1.whl'; .*{FILE}"):
        fetch_package(package(file="some_texts-1.1.whl"), tmp_path)


@pytest.mark.parametrize("change", [b"same size", b"longer"])
def test_a_wrong_file_is_removed_and_named(index: Index, tmp_path: Path, change: bytes) -> None:
    index.content = CONTENT[:-1] + b"\x00" if change == b"same size" else CONTENT + change
    with pytest.raises(DataeffError, match=rf"{FILE} from http.*found, .* expected; the download was removed"):
        fetch_package(package(), tmp_path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_shorter_file_is_wrong_and_not_asked_for_again(index: Index, tmp_path: Path) -> None:
    index.content = CONTENT[:-1]
    with pytest.raises(DataeffError, match=f"{len(CONTENT) - 1} bytes found, {len(CONTENT)} expected"):
        fetch_package(package(), tmp_path)
    assert index.downloads == [None]


def test_a_broken_download_goes_on_where_it_stopped(index: Index, tmp_path: Path) -> None:
    index.break_after, index.breaks = 100_000, 2
    assert fetch_package(package(), tmp_path).read_bytes() == CONTENT
    assert index.downloads == [None, "bytes=100000-", "bytes=200000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(index: Index, tmp_path: Path) -> None:
    index.break_after, index.breaks = 90_000, 3
    with pytest.raises(DataeffError, match="the connection ended after 270000 of 300000 bytes"):
        fetch_package(package(), tmp_path)
    assert fetch_package(package(), tmp_path).read_bytes() == CONTENT
    assert index.downloads[-1] == "bytes=270000-"


def test_a_partial_file_that_is_no_beginning_is_dropped(index: Index, tmp_path: Path) -> None:
    index.content = CONTENT[:1_000]
    small = package(bytes=1_000, sha256=hashlib.sha256(CONTENT[:1_000]).hexdigest())
    target = tmp_path / "pypi" / f"{small.sha256[:16]}-{FILE}"
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(b"x" * 2_000)
    with pytest.raises(DataeffError, match="2000 bytes found"):
        fetch_package(small, tmp_path)
    assert fetch_package(small, tmp_path).read_bytes() == CONTENT[:1_000]


@pytest.mark.usefixtures("no_network")
def test_no_network_and_nothing_cached(tmp_path: Path) -> None:
    with pytest.raises(DataeffError) as error:
        fetch_package(package(), tmp_path)
    for fact in (
        "Some_Texts 1.0",
        "http://127.0.0.1:9/simple/some-texts/",
        "PIP_INDEX_URL",
        str(cached(tmp_path)),
    ):
        assert fact in str(error.value)


@pytest.mark.usefixtures("no_network")
def test_a_cached_file_needs_no_network(tmp_path: Path) -> None:
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(CONTENT)
    fetch(spec(package()), tmp_path, tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").files[0].path == str(cached(tmp_path))


def test_a_damaged_cached_file_is_fetched_again(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached(tmp_path).parent.mkdir(parents=True)
    cached(tmp_path).write_bytes(CONTENT[:-1] + b"\x00")
    assert fetch_package(package(), tmp_path).read_bytes() == CONTENT
    assert "is damaged (sha256" in capsys.readouterr().out


def test_concurrent_fetches_share_one_download(index: Index, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as executor:
        paths = list(executor.map(lambda _: fetch_package(package(), tmp_path), range(4)))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(index.downloads) == 1


def test_credentials_go_to_the_index_and_nowhere_else(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("http://", "http://me:p%40ss@"))
    fetch(spec(package()), tmp_path, tmp_path / "manifest.json")
    assert {authorization for _, _, authorization in index.asked} == {"Basic bWU6cEBzcw=="}
    assert read_manifest(tmp_path / "manifest.json").url == f"{index.url}/some-texts/"
    with pytest.raises(DataeffError) as error:
        fetch_package(package(package="other", sha256="0" * 64), tmp_path)
    assert "404" in str(error.value)
    assert "p%40ss" not in str(error.value)


def test_local_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "texts/sub").mkdir(parents=True)
    for name in ("b.txt", "sub/a.txt", "c.md"):
        (tmp_path / "texts" / name).write_text(name)
    out = tmp_path / "manifest.json"
    fetch(spec(PathFetch(kind="path", path=str(tmp_path / "texts")), ["*.txt"]), tmp_path, out)
    manifest = read_manifest(out)
    assert manifest.folder
    assert [file.name for file in manifest.files] == ["b.txt", "sub/a.txt"]
    one = tmp_path / "texts/b.txt"
    fetch(spec(PathFetch(kind="path", path=str(one))), tmp_path, out)
    assert read_manifest(out).files[0].sha256 == hashlib.sha256(b"b.txt").hexdigest()
    with pytest.raises(DataeffError, match=r"b\.txt: sha256 .* found, sources\.mine\.fetch\.sha256 is 0000"):
        fetch(spec(PathFetch(kind="path", path=str(one), sha256="0" * 64)), tmp_path, out)
    with pytest.raises(DataeffError, match=r"no file below it matches sources\.mine\.members: \['\*\.rst'\]"):
        fetch(spec(PathFetch(kind="path", path=str(tmp_path / "texts")), ["*.rst"]), tmp_path, out)
    with pytest.raises(DataeffError, match=r"gone: no such file or folder; correct sources\.mine\.fetch\.path"):
        fetch(spec(PathFetch(kind="path", path=str(tmp_path / "gone"))), tmp_path, out)
