"""The results that are committed: their tables, claims and statement are those that their own files give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dataeff import cli
from dataeff.files import check_manifest, read_json
from dataeff.measured.build import build, grids_in
from tests.factory import ROOT

MEASURED = sorted(path.parent for path in (ROOT / "results" / "measured").glob("*/measured.json"))
STATED = ROOT / "results" / "measured" / "cpu_night"


@pytest.fixture(scope="module", params=MEASURED, ids=lambda folder: folder.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A committed folder, and what is made of its runs' files alone."""
    out = tmp_path_factory.mktemp("made")
    build(request.param, out)
    return request.param, out


def test_tables_and_claims_are_made_again_to_the_byte(made: tuple[Path, Path]) -> None:
    committed, out = made
    for spec in grids_in(committed):
        tables = Path("tables") / spec.stem
        names = sorted(path.name for path in (committed / tables).iterdir())
        assert names == sorted(path.name for path in (out / tables).iterdir())
        for name in names:
            assert (out / tables / name).read_bytes() == (committed / tables / name).read_bytes(), name


def test_figures_say_what_the_committed_ones_do(made: tuple[Path, Path]) -> None:
    """Not to the byte: the fonts and the drawing library of a machine decide on pixels."""
    committed, out = made
    for spec in grids_in(committed):
        figures = Path("figures") / spec.stem
        assert sorted(path.name for path in (committed / figures).iterdir()) == sorted(
            path.name for path in (out / figures).iterdir()
        )
        assert read_json(out / figures / "captions.json") == read_json(committed / figures / "captions.json")


@pytest.mark.parametrize("folder", MEASURED, ids=lambda folder: folder.name)
def test_no_file_of_a_run_was_edited(folder: Path) -> None:
    assert check_manifest(folder) is None


@pytest.mark.skipif(not STATED.exists(), reason="no results of cpu_night are committed")
def test_the_documents_say_what_the_results_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a copy beside the results, so that links are the same; nothing in it has to be written."""
    for name in ("README.md", "docs/reproduction.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "results").mkdir()
    shutil.copytree(STATED, tmp_path / "results" / "measured" / STATED.name)
    documents = ["--summary", str(tmp_path / "README.md"), "--document", str(tmp_path / "docs/reproduction.md")]
    cli.main(["measured", "state", str(tmp_path / "results" / "measured" / STATED.name), *documents])
    assert capsys.readouterr().out.count("up to date") == 2
