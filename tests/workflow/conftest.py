"""One study, run once per session with the stand-in; each test gets a copy of it to edit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, Starter


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts Snakemake with a folder first on PATH in which `dataeff` is the stand-in."""
    folder = tmp_path_factory.mktemp("starter")
    script = folder / "bin/dataeff"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stand_in.py")} "$@"\n')
    script.chmod(0o755)
    starter = Starter(folder / "said", script.parent)
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Checkout:
    """A study that ran to its end at the default scale. Only for copying and for dry runs that change nothing."""
    checkout = Checkout(tmp_path_factory.mktemp("study") / "checkout", starter)
    checkout.run()
    return checkout


@pytest.fixture
def study(finished: Checkout, tmp_path: Path) -> Checkout:
    """A finished study to edit."""
    return finished.copy_to(tmp_path / "checkout")


@pytest.fixture
def checkout(tmp_path: Path, starter: Starter) -> Checkout:
    """A fresh checkout."""
    return Checkout(tmp_path / "checkout", starter)
