"""What the package imports is declared, at the versions that envs/constraints.txt was tested with."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
APART = {"torch", "dataeff"}
"""envs/setup.sh installs torch first, alone."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> dict[str, str]:
    """Distribution -> its version specifier, of the package itself and of these extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    parts = [re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?(.*)", line) for line in lines]
    return {normal(part[1]): part[2] for part in parts if part is not None}


def imported(folder: Path) -> dict[str, str]:
    """Top-level package -> a file that imports it, without the standard library."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                found.setdefault(name.split(".")[0], str(path.relative_to(ROOT)))
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("folder", "extras", "own"), [("src", ("study",), set()), ("tests", ("study", "dev"), {"tests", "bench"})]
)
def test_what_is_imported_is_declared(folder: str, extras: tuple[str, ...], own: set[str]) -> None:
    distributions, known = packages_distributions(), declared(*extras)
    missing = {
        name: file
        for name, file in imported(ROOT / folder).items()
        if name not in APART | own and not {normal(one) for one in distributions.get(name, [])} & set(known)
    }
    assert missing == {}


def test_pins_are_the_tested_versions() -> None:
    lines = (ROOT / "envs/constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    pinned = {name: found.removeprefix("==") for name, found in declared("study", "dev").items() if "==" in found}
    assert {name: tested.get(name) for name in pinned} == pinned
