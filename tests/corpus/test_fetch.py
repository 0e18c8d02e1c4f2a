"""Each kind of fetch against servers on this machine: what is asked for, verified, cached and said."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataeff.corpus import download
from dataeff.corpus import fetch as module
from dataeff.corpus.fetch import fetch, fetch_package, fetch_shard, read_manifest
from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.study.fetches import Fetch, PackageFetch, PathFetch
from dataeff.study.specs import FetchSpec
from dataeff.study.types import Source
from tests.corpus.mirror import Server, serving

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(75_000))
FILE = "some_texts-1.0-py3-none-any.whl"


class Index(ThreadingHTTPServer):
    """A package index with one file."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
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
                self.reply(206 if byte_range else 200, self.server.content[start:])
        else:
            self.reply(404, b"")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
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
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Port 9 (discard) of this machine: nothing answers there.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())


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


def spec(how: Fetch, members: list[str] | None = None) -> FetchSpec:
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
        "substitution": None,
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


def test_a_wrong_file_is_removed_and_named(index: Index, tmp_path: Path) -> None:
    index.content = CONTENT[:-1] + b"\x00"
    with pytest.raises(DataeffError, match=rf"{FILE}: cannot be had from http.*found, .* expected; the download was"):
        fetch_package(package(), tmp_path)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"] == []


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


# --- Debian, mirrors, hub -----------------------------------------------------------------------------------

DEBIAN_PATH = "pool/main/t/texts/texts_1.0_all.deb"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({}) as running:
        yield running


def how(**fields: object) -> Fetch:
    return Source.model_validate(
        {"domain": "D", "about": "a", "licence": "CC0", "stands_in_for": "s", "reader": "text", "fetch": fields}
    ).fetch


def debian(**changes: object) -> Fetch:
    pin = {"sha256": hashlib.sha256(CONTENT).hexdigest(), "bytes": len(CONTENT)}
    return how(**{"kind": "debian", "path": DEBIAN_PATH, "snapshot": "20260101T000000Z", **pin, **changes})


def test_a_debian_package_comes_from_the_mirror_the_archive_or_the_snapshots(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEBIAN_MIRROR", f"{server.url}/debian/")
    monkeypatch.setattr(module, "DEBIAN_ARCHIVES", f"{server.url}/archive")
    monkeypatch.setattr(module, "DEBIAN_SNAPSHOTS", f"{server.url}/snapshots")
    server.files[f"/snapshots/20260101T000000Z/{DEBIAN_PATH}"] = CONTENT
    fetch(spec(debian()), tmp_path / "cache", tmp_path / "manifest.json")
    assert [asked.path for asked in server.asked] == [
        f"/debian/{DEBIAN_PATH}",
        f"/archive/{DEBIAN_PATH}",
        f"/snapshots/20260101T000000Z/{DEBIAN_PATH}",
    ]
    manifest = read_manifest(tmp_path / "manifest.json")
    assert manifest.url == f"{server.url}/debian"
    assert Path(manifest.files[0].path).read_bytes() == CONTENT
    with pytest.raises(DataeffError, match=r"Debian package texts_1\.0_all\.deb: cannot be had .*DEBIAN_MIRROR"):
        fetch(spec(debian(sha256="0" * 64, snapshot=None)), tmp_path / "cache", tmp_path / "manifest.json")


def test_http_files_come_from_the_first_mirror_that_has_them(server: Server, tmp_path: Path) -> None:
    server.files |= {"/new/train/00.jsonl": b"zero", "/new/train/01.jsonl": b"one"}
    files = [{"name": "train/00.jsonl", "sha256": hashlib.sha256(b"zero").hexdigest()}, {"name": "train/01.jsonl"}]
    source = how(kind="http", mirrors=[f"{server.url}/old", f"{server.url}/new/"], files=files)
    fetch(spec(source), tmp_path / "cache", tmp_path / "all.json")
    manifest = read_manifest(tmp_path / "all.json")
    assert [file.name for file in manifest.files] == ["train/00.jsonl", "train/01.jsonl"]
    assert [Path(file.path).read_bytes() for file in manifest.files] == [b"zero", b"one"]

    fetch_shard(spec(source), "01", tmp_path / "cache", tmp_path / "one.json")
    assert [file.name for file in read_manifest(tmp_path / "one.json").files] == ["train/01.jsonl"]
    with pytest.raises(DataeffError, match=r"sources\.mine\.fetch: unknown shard '02'; known: 00, 01"):
        fetch_shard(spec(source), "02", tmp_path / "cache", tmp_path / "one.json")


REVISION = "0123456789abcdef0123456789abcdef01234567"


def test_the_hub_is_asked_for_one_commit_and_the_token_stays_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "secret")
    with serving({"/elsewhere": b"text"}) as storage:
        path = f"/datasets/me/texts/resolve/{REVISION}/train/00.jsonl.zst"
        server.redirects[path] = f"{storage.url}/elsewhere"
        source = how(kind="hub", repository="me/texts", revision=REVISION, files=[{"name": "train/00.jsonl.zst"}])
        fetch(spec(source), tmp_path / "cache", tmp_path / "manifest.json")
        assert [(asked.path, asked.authorization) for asked in server.asked] == [(path, "Bearer secret")]
        assert [asked.authorization for asked in storage.asked] == [None]
    file = tmp_path / "cache/hub/me--texts" / REVISION / "train/00.jsonl.zst"
    assert file.read_bytes() == b"text"
    # From now on without network.
    fetch(spec(source), tmp_path / "cache", tmp_path / "manifest.json")
    assert len(server.asked) == 1


# --- substitutes --------------------------------------------------------------------------------------------


def gone(server: Server, **fields: object) -> Source:
    files = [{"name": "00.jsonl"}, {"name": "01.jsonl"}]
    fetch_from = {"kind": "http", "mirrors": [f"{server.url}/gone"], "files": files}
    base = {"domain": "D", "about": "a", "licence": "old", "stands_in_for": "s", "reader": "jsonl"}
    return Source.model_validate({**base, "fetch": fetch_from, **fields})


def test_a_source_that_is_gone_names_its_substitute(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataeffError) as error:
        fetch(FetchSpec.of("old", gone(server, substitute="new")), tmp_path, tmp_path / "manifest.json")
    told = str(error.value)
    for fact in (f"{server.url}/gone/00.jsonl (HTTP Error 404", "Its substitute is 'new'", "accept_substitutes: true"):
        assert fact in told
    assert not (tmp_path / "manifest.json").exists()


def test_an_accepted_substitute_is_taken_and_recorded(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/new/01.jsonl"] = b"one"
    files = [{"name": "00.jsonl"}, {"name": "01.jsonl"}]
    new = gone(server, licence="new", fetch={"kind": "http", "mirrors": [f"{server.url}/new"], "files": files})
    middle = gone(server, substitute="new")
    chain = FetchSpec.of("old", gone(server, substitute="middle"), {"middle": middle, "new": new})
    fetch_shard(chain, "01", tmp_path, tmp_path / "manifest.json")
    manifest = read_manifest(tmp_path / "manifest.json")
    assert (manifest.source, manifest.taken, manifest.licence) == ("old", "new", "new")
    assert manifest.substitution is not None
    assert manifest.substitution.wanted == "old"
    assert "/gone/01.jsonl (HTTP Error 404" in manifest.substitution.reason
    assert "SUBSTITUTE: 'middle' is taken instead of 'old'" in capsys.readouterr().out
    with pytest.raises(DataeffError, match=r"source old, 00.jsonl: cannot be had.*Nor can its substitute: source mid"):
        fetch_shard(chain, "00", tmp_path, tmp_path / "other.json")


def test_a_substitute_is_not_taken_unasked(server: Server) -> None:
    assert FetchSpec.of("old", gone(server, substitute="new")).accepted is None
    assert FetchSpec.of("old", gone(server, substitute="new"), {"another": gone(server)}).accepted is None
