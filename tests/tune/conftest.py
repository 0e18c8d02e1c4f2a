"""A study's data, made once for all searches of the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.training import start_server, write_text
from tests.tune.small import make_data, write_study


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study whose data are made."""
    folder = tmp_path_factory.mktemp("tuned")
    start_server()
    write_text(folder / "text")
    write_study(folder)
    make_data(folder)
    return folder
