"""Members of every kind of archive, and damaged ones."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataeff.corpus.archive import is_archive, matches, members
from dataeff.corpus.documents import raw_documents
from dataeff.corpus.fetch import FetchedFile, Manifest
from dataeff.errors import DataeffError
from dataeff.study.types import Source

FILES = {"p/a.txt": b"A", "p/sub/b.txt": b"B" * 70_000, "p/c.py": b"C", "p/sub/skip.txt": b"S"}


def tar_bytes(prefix: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in FILES.items():
            information = tarfile.TarInfo(prefix + name)
            information.size = len(data)
            archive.addfile(information, io.BytesIO(data))
    return buffer.getvalue()


def ar_member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
    return header + data + b"\n" * (len(data) % 2)


def deb_bytes(name: str, data: bytes) -> bytes:
    return (
        b"!<arch>\n"
        + ar_member("debian-binary", b"2.0\n")
        + ar_member("control.tar.xz", b"odd")
        + ar_member(name, data)
    )


PACKERS = {
    "data.tar": bytes,
    "data.tar.gz": gzip.compress,
    "data.tar.xz": lzma.compress,
    "data.tar.zst": zstandard.compress,
}


def archive_of(folder: Path, suffix: str) -> Path:
    path = folder / f"package{suffix}"
    if suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
    elif suffix.startswith(".deb"):
        path = folder / "package.deb"
        inner = suffix.removeprefix(".deb ")
        path.write_bytes(deb_bytes(inner, PACKERS[inner](tar_bytes("./"))))
    else:
        packers = {"z": gzip.compress, "k": lzma.compress, "r": bytes}
        packer = gzip.compress if suffix.endswith("gz") else lzma.compress if suffix.endswith("xz") else packers["r"]
        path.write_bytes(packer(tar_bytes()))
    return path


@pytest.mark.parametrize(
    "suffix", [".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", *(f".deb {n}" for n in PACKERS)]
)
def test_members_of_archives(tmp_path: Path, suffix: str) -> None:
    path = archive_of(tmp_path, suffix)
    assert is_archive(path.name)
    found = {member.name: member.stream.read() for member in members(path, ["p/*.txt", "!*/skip.txt"])}
    assert found == {"p/a.txt": b"A", "p/sub/b.txt": b"B" * 70_000}
    with pytest.raises(DataeffError, match=r"no file in it matches members: \['\*\.rst'\]"):
        list(members(path, ["*.rst"]))


def test_globs() -> None:
    assert matches("a/b.txt", [])
    assert matches("a/b.txt", ["!*.py"])
    assert not matches("a/b.py", ["!*.py"])
    assert not matches("a/b.py", ["*.txt"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no ar at all", "no Debian package"),
        (b"!<arch>\n" + ar_member("debian-binary", b"2.0\n"), r"holds no data\.tar"),
        (b"!<arch>\n" + b"x" * 60, "its ar container is damaged near byte 68"),
        (deb_bytes("data.tar.lzma", b""), r"data\.tar\.lzma is compressed in a way not known here"),
    ],
)
def test_what_is_no_debian_package_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.deb"
    path.write_bytes(content)
    with pytest.raises(DataeffError, match=rf"odd\.deb: .*{message}"):
        list(members(path, []))


def read_source(path: Path) -> None:
    how = {"kind": "path", "path": str(path)}
    base = {"domain": "D", "about": "a", "licence": "l", "stands_in_for": "s", "reader": "text", "fetch": how}
    file = FetchedFile(path=str(path), name=path.name, bytes=1, sha256="0" * 64)
    manifest = Manifest(source="s", licence="l", url=None, folder=False, files=[file])
    for _ in raw_documents(Source.model_validate(base), manifest):
        pass


@given(inner=st.sampled_from(sorted(PACKERS)), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_debian_package_is_read_or_one_clear_error(tmp_path: Path, inner: str, data: st.DataObject) -> None:
    path = archive_of(tmp_path, f".deb {inner}")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_source(path)
    except DataeffError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message


def test_a_package_that_dpkg_built(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this machine")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: texts\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.org>\nDescription: texts\n"
    )
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share/a.txt").write_text("A")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "texts.deb")], check=True, capture_output=True)
    assert [(m.name, m.stream.read()) for m in members(tmp_path / "texts.deb", ["*.txt"])] == [
        ("usr/share/a.txt", b"A")
    ]
