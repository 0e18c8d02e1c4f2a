"""The material of all training tests, made once: text, tokens, samples, difficulty, plans."""

from __future__ import annotations

import pytest

from tests.pretrain.training import Material, start_server, study_of, write_text


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """With dropout 0.1."""
    folder = tmp_path_factory.mktemp("material")
    start_server()
    write_text(folder / "text")
    made = Material(folder, study_of(folder, "noisy"))
    made.make_data()
    made.make_plans()
    return made


@pytest.fixture(scope="session")
def still(material: Material) -> Material:
    """Without dropout: what does not depend on the number of ranks or the micro-batch."""
    made = Material(material.folder, study_of(material.folder, "still", dropout=0.0))
    made.make_plans()
    return made
