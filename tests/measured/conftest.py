"""A grid that was collected, and the same folder with its tables, figures and page made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dataeff import tables
from dataeff.files import write_text
from dataeff.measured.build import build
from dataeff.measured.collect import collect
from dataeff.study.specs import GridSpec, write_spec
from tests.result_factory import grid_spec, write_results

COMMAND = "snakemake --cores 2 core"


def write_specs_of(results: Path, spec: GridSpec) -> None:
    write_spec(results / f"specs/grid/{spec.grid}.yaml", spec)
    for run in spec.runs:
        for stage in ("plan", "pretrain"):
            write_text(results / f"specs/{stage}/{run.name}.yaml", f"of {run.name}\n")


@pytest.fixture(scope="package")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The collected folder, and tables made of the whole results, which are gone."""
    root = tmp_path_factory.mktemp("measured")
    spec = grid_spec(seeds=(1, 2, 3))
    results, data, _ = write_results(root, spec)
    write_specs_of(results, spec)
    tables.build(spec, results, root / "tables", data)
    collect(spec, results, data, root / "collected", COMMAND)
    shutil.rmtree(results)
    shutil.rmtree(data)
    return root / "collected", root / "tables"


@pytest.fixture(scope="package")
def built(collected: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the collected folder in which everything is made again."""
    folder = tmp_path_factory.mktemp("built") / "tiny"
    shutil.copytree(collected[0], folder)
    build(folder)
    return folder
