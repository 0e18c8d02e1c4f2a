"""One study, run once per session with the stand-in; each test gets a copy of it to edit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH in which `dataeff` is the stand-in."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "dataeff"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stand_in.py")} "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, commands: Path) -> Checkout:
    """A study that ran to its end at the default scale. Only for copying and for dry runs that change nothing."""
    checkout = Checkout(tmp_path_factory.mktemp("study") / "checkout", commands=commands)
    checkout.run()
    return checkout


@pytest.fixture
def study(finished: Checkout, tmp_path: Path) -> Checkout:
    """A finished study to edit."""
    return finished.copy_to(tmp_path / "checkout")


@pytest.fixture
def checkout(tmp_path: Path, commands: Path) -> Checkout:
    """A fresh checkout."""
    return Checkout(tmp_path / "checkout", commands=commands)
