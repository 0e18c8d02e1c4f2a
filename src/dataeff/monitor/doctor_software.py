"""doctor: Python, the packages against the versions that were tested, the compiler, the caches."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from dataeff.monitor.finding import Finding, ok, problem, warning
from dataeff.study import workflow as study_of
from dataeff.study.load import Study

OLDEST_PYTHON = TESTED_PYTHON = (3, 11)
_PIN = re.compile(r"^\s*([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;]+)")


def software(study: Study, root: Path) -> Iterator[Finding]:
    yield _python()
    yield from _packages(root / "envs/constraints.txt")
    yield from _compiler(study)
    yield from _caches(study)


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return problem("Python", version, "3.11 or newer is needed; PYTHON=python3.11 make setup")
    if sys.version_info[:2] != TESTED_PYTHON:
        return warning("Python", version, "3.11 is what this was tested with")
    return ok("Python", f"{version} in {sys.prefix}")


def pins_of(lines: list[str]) -> dict[str, str]:
    """The exact versions among lines of requirements, by the package's name in its normal form."""
    found = (_PIN.match(line) for line in lines if not line.lstrip().startswith("#"))
    return {_normal(match[1]): match[2] for match in found if match is not None}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def compared(pins: Mapping[str, str], installed: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(missing, different from its pin) of the packages that are pinned."""
    missing = [name for name in pins if name not in installed]
    other = [f"{name} {installed[name]} for {pin}" for name, pin in pins.items() if installed.get(name, pin) != pin]
    return missing, other


def _packages(constraints: Path) -> Iterator[Finding]:
    """Those that the study names must be there; of the others, versions are compared where they are installed."""
    installed = {_normal(found.name): found.version for found in metadata.distributions()}
    own = [line for line in metadata.requires("dataeff") or [] if re.search(r"extra == ['\"]study['\"]", line)]
    needed = pins_of(own)
    missing, other = compared(needed, installed)
    if "torch" not in installed:
        missing.append("torch")
    if missing:
        remedy = "make setup, or pip install -c envs/constraints.txt with these"
        yield problem("packages", f"missing: {', '.join(sorted(missing))}", remedy)
    if constraints.is_file():
        pinned = {name: pin for name, pin in pins_of(constraints.read_text().splitlines()).items() if name in installed}
        other = list(dict.fromkeys([*other, *compared(pinned, installed)[1]]))
    if other:
        shown = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
        yield warning("packages", f"other than tested: {shown}", "results may differ in their last digits; make setup")
    if not missing and not other:
        yield ok("packages", f"{len(needed)} of the study and torch {installed['torch']}, as tested")


def _compiler(study: Study) -> Iterator[Finding]:
    """DeepSpeed compiles its communication between processes of a CPU; GPUs have NCCL."""
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    missing = [
        name
        for name, commands in (("a C++ compiler", ("c++", "g++")), ("ninja", ("ninja",)))
        if not any(shutil.which(command, path=scripts) for command in commands)
    ]
    if not missing:
        yield ok("compiler", "C++ and ninja are there")
    elif study.hardware.gpus:
        yield warning("compiler", f"no {' and no '.join(missing)}", "trainings without a GPU need it (Debian: g++)")
    else:
        yield problem("compiler", f"no {' and no '.join(missing)}", "install it (Debian: g++; pip install ninja)")


def _caches(study: Study) -> Iterator[Finding]:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = {
        "cache of downloads": Path(study_of.cache_folder(study)),
        "cache of compiled code": base,
        "temporary folder": Path(tempfile.gettempdir()),
    }
    for what, folder in folders.items():
        place = existing(folder)
        if os.access(place, os.W_OK | os.X_OK):
            yield ok(what, f"{folder} can be written")
        else:
            variable = {"cache of downloads": "the setting cache", "temporary folder": "TMPDIR"}.get(
                what, "XDG_CACHE_HOME"
            )
            yield problem(what, f"{folder} cannot be written", f"name another by {variable}")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
