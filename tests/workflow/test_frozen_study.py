"""Jobs elsewhere parse the Snakefile again, perhaps after an edit: they see the study that they were submitted with."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataeff.study.workflow import FROZEN
from tests.workflow.checkout import Checkout

RUN = "gpt-ltd-100-s1234"
LTD = ("variants/gpt.yaml", "ltd.token_drop.pacing.start")


def job(checkout: Checkout, target: str, frozen: Path) -> tuple[int, str]:
    """One job as an executor starts it on another machine."""
    arguments = ("--mode", "remote", "--target-jobs", target, "--allowed-rules", target.split(":")[0])
    return checkout.snakemake(*arguments, "--force", "--cores", "1", "--nolock", **{FROZEN: str(frozen)})


@pytest.fixture
def frozen(study: Checkout) -> Path:
    """The one study that the finished checkout's main process froze."""
    (path,) = (study.results / ".study").glob("*.json")
    return path


def test_a_job_does_not_see_an_edit(study: Checkout, frozen: Path) -> None:
    """Not even one that takes its run out, or that is no configuration at all."""
    spec = study.results / f"tiny/specs/plan/{RUN}.yaml"
    plan = study.results / f"tiny/plan/{RUN}/plan.json"
    before, made = spec.read_bytes(), plan.stat().st_mtime_ns
    study.edit(*LTD, "1/8")
    study.edit("config.yaml", "seeds", [99])
    study.edit("tasks.yaml", "tasks", "none")
    status, said = job(study, f"plan:run={RUN}", frozen)
    assert status == 0, said
    assert plan.stat().st_mtime_ns > made, "the job ran"
    assert spec.read_bytes() == before


def test_without_a_frozen_study_the_edit_would_be_seen(study: Checkout) -> None:
    """What the test above relies on: the same job fails where there is only config/ to read."""
    study.edit("tasks.yaml", "tasks", "none")
    arguments = ("--mode", "remote", "--target-jobs", f"plan:run={RUN}", "--allowed-rules", "plan")
    status, said = study.snakemake(*arguments, "--force", "--cores", "1", "--nolock")
    assert status != 0
    assert "tasks: a mapping is needed; found 'none'" in said


def test_a_job_whose_spec_was_changed_stops(study: Checkout, frozen: Path) -> None:
    """A second main process has written the edited specs: the job must not make its outputs from them."""
    plan = study.results / f"tiny/plan/{RUN}/plan.json"
    made = plan.stat().st_mtime_ns
    study.edit(*LTD, "1/8")
    study.todo()
    status, said = job(study, f"plan:run={RUN}", frozen)
    assert status != 0
    message = said.splitlines()[-1]
    assert message.startswith("dataeff: error: results/tiny/specs/plan/gpt-")
    assert "changed since this job was submitted" in message
    assert message.endswith("Let snakemake finish or stop it, then start it again")
    assert plan.stat().st_mtime_ns == made


def test_a_frozen_study_that_was_changed_is_refused(study: Checkout, frozen: Path) -> None:
    frozen.write_text(frozen.read_text().replace('"tiny"', '"mine"', 1))
    status, said = job(study, f"plan:run={RUN}", frozen)
    assert status != 0
    assert "its content does not match its digest; run snakemake again from the start" in said.splitlines()[-1]


def test_a_running_study_keeps_its_specs(study: Checkout, tmp_path: Path) -> None:
    """Its waiting jobs read them when they start, so that not even a dry run after an edit may write them."""
    go = tmp_path / "go"
    shutil.rmtree(study.results / "tiny/logs/pretrain")
    spec = study.results / f"tiny/specs/pretrain/{RUN}.yaml"
    study.edit(*LTD, "1/8")
    running = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--cores", "4"],
        cwd=study.folder,
        env=study.starter.environment(WAIT=str(go)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not list((study.results / "tiny/logs/pretrain").glob("*")):
            assert running.poll() is None, "snakemake ended before a pretrain began"
            time.sleep(0.02)
        before = spec.read_bytes()
        study.edit("scales/tiny.yaml", "families.gpt.model.init_std", 0.5)
        said = study.error().splitlines()[-1]
        assert f"snakemake works here as process {running.pid}" in said
        assert "let it end or stop it first, or give this one a `results` folder of its own" in said
        assert spec.read_bytes() == before
        own = tmp_path / "own"
        assert study.todo("--config", f"results={own}")
    finally:
        go.touch()
        assert running.wait(timeout=100) == 0
    assert f"pretrain {RUN}" in study.todo(), "now that nothing runs, the edit counts"


def test_the_main_process_takes_no_frozen_study_from_its_surroundings(study: Checkout, frozen: Path) -> None:
    """A study started from within a job of another one is its own."""
    study.edit(*LTD, "1/8")
    assert f"plan {RUN}" in study.todo(**{FROZEN: str(frozen)})
