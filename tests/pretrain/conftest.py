"""The material of all training tests, made once: text, tokens, samples, difficulty, plans."""

from __future__ import annotations

import pytest

from tests.pretrain.training import Material, Training, start_server, study_of, write_text


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


@pytest.fixture(scope="session")
def undisturbed(material: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """Runs with dropout that nothing interrupted, by variant."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return {variant: material.training(variant, folder / variant).finish() for variant in ("baseline", "composed")}


@pytest.fixture(scope="session")
def one_process(still: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The composed run without dropout: one process, micro-batches of 8, no ZeRO."""
    return still.training("composed", tmp_path_factory.mktemp("one_process")).finish()


@pytest.fixture(scope="session")
def two_ranks(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The composed run with dropout on two ranks that nothing interrupted."""
    return material.training("composed", tmp_path_factory.mktemp("two_ranks")).finish_ranks(2)
