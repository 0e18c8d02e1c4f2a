"""One small grid of one seed and one of three, with their pages, for all tests of the report."""

from pathlib import Path

import pytest

from tests.report.pages import Inputs, Page, small_grid


@pytest.fixture(scope="package")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return small_grid(tmp_path_factory.mktemp("report"), (1234,))


@pytest.fixture(scope="package")
def text(inputs: Inputs) -> str:
    return inputs.build()


@pytest.fixture(scope="package")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="package")
def three_seeds(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    built: Path = tmp_path_factory.mktemp("three")
    found = small_grid(built, (1, 2, 3), inputs.figures)
    found.build()
    return found
