"""Jobs elsewhere parse the Snakefile again, perhaps after an edit: they see the study as it was when they were submitted."""

from __future__ import annotations

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


def test_the_main_process_takes_no_frozen_study_from_its_surroundings(study: Checkout, frozen: Path) -> None:
    """A study started from within a job of another one is its own."""
    study.edit(*LTD, "1/8")
    assert f"plan {RUN}" in study.todo(**{FROZEN: str(frozen)})
