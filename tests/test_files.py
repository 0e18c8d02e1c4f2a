"""What is on disk after an exception and after kill -9, and what a manifest notices."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.files import (
    MANIFEST,
    atomic_directory,
    atomic_path,
    canonical_digest,
    check_manifest,
    read_json,
    read_yaml,
    write_if_changed,
    write_json,
    write_manifest,
    write_text,
)

KILLED_IN_BLOCK = """
import os, signal, sys
from pathlib import Path
from dataeff.files import {name}
with {name}(Path(sys.argv[1])) as temporary:
    (temporary / "part" if temporary.is_dir() else temporary).write_text("half of the new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder that is not a temporary one."""
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "made/here/file"
    for text in ("old", "new"):
        with atomic_path(target) as temporary:
            temporary.write_text(text)
            assert not target.exists() or target.read_text() == "old"
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "made/here/folder"
    for name in ("old", "new"):
        with atomic_directory(target) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / name).write_text(name)
            assert not (target / "deep/new").exists()
        assert contents(target) == {f"deep/{name}": name}
    assert list(target.parent.iterdir()) == [target]


def test_after_an_exception_the_old_file_stands_alone(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half of the new")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_after_an_exception_the_old_folder_stands_alone(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").write_text("old")

    def write_half() -> None:
        with atomic_directory(target) as temporary:
            (temporary / "file").write_text("half of the new")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert contents(tmp_path) == {"folder/file": "old"}
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("name", ["atomic_path", "atomic_directory"])
def test_after_kill_9_the_old_content_stands(tmp_path: Path, name: str, existing: bool) -> None:
    target, folder = tmp_path / "target", name == "atomic_directory"
    if existing and folder:
        target.mkdir()
        (target / "part").write_text("old")
    elif existing:
        target.write_text("old")
    before = contents(tmp_path)
    code = KILLED_IN_BLOCK.format(name=name)
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert contents(tmp_path) == before
    assert target.exists() == existing
    # The next process is not disturbed by what the dead one left.
    if folder:
        with atomic_directory(target) as temporary:
            (temporary / "part").write_text("new")
    else:
        write_text(target, "new")
    assert set(contents(tmp_path).values()) == {"new"}


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    path = tmp_path / "spec"
    assert write_if_changed(path, "one")
    before = path.stat()
    assert not write_if_changed(path, "one")
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert write_if_changed(path, "two")
    assert path.read_text() == "two"


def _lose(file: Path) -> None:
    file.unlink()


def _resize(file: Path) -> None:
    file.write_text(file.read_text() + "x")


def _change(file: Path) -> None:
    file.write_text(file.read_text().swapcase())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_lose, "is missing"),
        (_resize, r"has 5 bytes, its manifest says 4"),
        (_change, "does not match its sha256"),
    ],
)
def test_a_manifest_notices(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text("text")
    (tmp_path / "other").write_text("")
    write_manifest(tmp_path, step=3)
    assert check_manifest(tmp_path) is None
    assert read_json(tmp_path / MANIFEST)["step"] == 3
    damage(tmp_path / "deep/file")
    fault = check_manifest(tmp_path)
    assert fault is not None
    assert fault.startswith(f"{tmp_path}/deep/file ")
    assert fault.endswith(message)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"files": 3}'])
def test_a_folder_without_a_readable_manifest_is_unsound(tmp_path: Path, text: str | None) -> None:
    """Never an exception: a checkpoint whose manifest is torn is passed over, not the end of the run."""
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    fault = check_manifest(tmp_path)
    assert fault is not None
    assert MANIFEST in fault


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "top:\n  a: 1\n  a: 3\n"])
def test_a_yaml_key_given_twice_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(DataeffError, match=rf"{path}:3: key 'a' is given twice"):
        read_yaml(path)


def test_yaml_anchors_and_merges_stay_usable(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("base: &base {a: 1, b: 2}\nuser: {<<: *base, b: 3}\n")
    assert read_yaml(path)["user"] == {"a": 1, "b": 3}


def test_a_key_that_is_a_mapping_is_refused(tmp_path: Path) -> None:
    """What is left of a template that nobody filled in: `{{name}}`."""
    path = tmp_path / "file.yaml"
    path.write_text("a: {{name}}\n")
    with pytest.raises(DataeffError, match=rf"(?s){path}: not YAML:.*unhashable key"):
        read_yaml(path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, read, wrong in (("x.json", read_json, "{"), ("x.yaml", read_yaml, "a: [")):
        path = tmp_path / name
        with pytest.raises(DataeffError, match=rf"{path}: no such file"):
            read(path)
        path.write_text(wrong)
        with pytest.raises(DataeffError, match=rf"{path}: not {path.suffix[1:].upper()}"):
            read(path)
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(DataeffError, match=r"x\.yaml: not YAML"):
        read_yaml(tmp_path / "x.yaml")
    write_json(tmp_path / "y.json", {"a": [1, "ä"]})
    assert read_json(tmp_path / "y.json") == {"a": [1, "ä"]}


def test_a_digest_is_of_the_content_alone() -> None:
    assert canonical_digest({"a": 1, "b": [2]}) == canonical_digest({"b": [2], "a": 1})
    assert canonical_digest({"a": 1}) != canonical_digest({"a": 1.5})
    assert canonical_digest({"a": [1, 2]}) != canonical_digest({"a": [2, 1]})
