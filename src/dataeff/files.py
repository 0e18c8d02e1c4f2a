"""Files that appear whole or not at all, and the digests and manifests that prove it.

Every output is written under a temporary name in its own folder, flushed to disk and renamed; a process killed
at any moment leaves either the old file or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dataeff.errors import DataeffError

MANIFEST = "manifest.json"


def temporary_sibling(path: Path) -> Path:
    """A name beside `path`, of this process alone, that no rule declares."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write a file to; renames it to `path` on success, removes it on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; replaces the folder `path` by it on success, removes it on failure.

    A non-empty folder cannot be renamed over, so an old one is moved aside first: between the two renames `path`
    is absent, never half-written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataeffError(f"{path}: not JSON ({error}); delete it and run again") from None


def write_if_changed(path: Path, text: str) -> bool:
    """Writes `text` unless the file already holds it (so that its time stays and nothing reruns); True if written."""
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except FileNotFoundError:
        pass
    write_text(path, text)
    return True


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent override."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            continue  # construct_mapping says what is wrong with it
        if key in seen:
            raise DataeffError(f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}: key '{key}' is given twice")
        seen.add(key)
    return loader.construct_mapping(node, deep=deep)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def read_yaml(path: Path) -> Any:
    try:
        with Path(path).open(encoding="utf-8") as stream:
            return yaml.load(stream, Loader=_UniqueKeys)
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataeffError(f"{path}: not YAML: {error}") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_digest(value: Any) -> str:
    """sha256 of the value as JSON with sorted keys and no spaces: the identity of a spec."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def write_manifest(folder: Path, **facts: Any) -> None:
    """Records size and sha256 of every file below `folder`, and any further facts, in its manifest.json."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(folder / MANIFEST, {**facts, "files": files})


def check_manifest(folder: Path) -> str | None:
    """None if every file is as the folder's manifest says; otherwise what is wrong, in words."""
    if not (folder / MANIFEST).is_file():
        return f"{folder} has no {MANIFEST}"
    try:
        return _first_fault(folder)
    except (DataeffError, LookupError, TypeError, AttributeError):
        return f"{folder / MANIFEST} is damaged"


def _first_fault(folder: Path) -> str | None:
    for name, fact in read_json(folder / MANIFEST)["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{file} is missing"
        if file.stat().st_size != fact["bytes"]:
            return f"{file} has {file.stat().st_size} bytes, its manifest says {fact['bytes']}"
        if sha256_file(file) != fact["sha256"]:
            return f"{file} does not match its sha256"
    return None
