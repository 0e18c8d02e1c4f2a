"""A job that fails: the user sees its last words and its command; starting again makes only what is missing."""

from __future__ import annotations

import pytest

from tests.workflow.checkout import Checkout
from tests.workflow.test_reruns import jobs

RUN = "gpt-ltd-100-s1234"
EVALUATED = jobs("evaluate", [RUN])
FAILING = {"FAIL": f"pretrain {RUN}"}
CLOSING = {"tables core", "figures core", "report index"}


def made(checkout: Checkout) -> dict[str, int]:
    """What jobs have made: neither specs nor records."""
    files = {path.relative_to(checkout.results): path for path in checkout.results.rglob("*") if path.is_file()}
    skipped = {"specs", "logs", "benchmarks", ".study"}
    return {str(name): path.stat().st_mtime_ns for name, path in files.items() if not skipped & set(name.parts)}


@pytest.fixture
def checkout(study: Checkout) -> Checkout:
    """A finished study in which four runs are to be made anew."""
    study.edit("variants/gpt.yaml", "ltd.token_drop.pacing.start", "1/8")
    return study


def test_the_last_lines_and_the_command_are_shown(checkout: Checkout) -> None:
    status, said = checkout.snakemake("--cores", "4", **FAILING)
    assert status != 0
    told = said[said.index("Error in rule pretrain:") :]
    assert f"stand-in: pretrain of {RUN} was told to fail" in told, "the job's own last words"
    assert f"log: results/tiny/logs/pretrain/{RUN}.log" in told
    assert f"dataeff pretrain --spec results/tiny/specs/pretrain/{RUN}.yaml" in told, "the command to try it by hand"
    assert "the same command again" in told
    assert "Traceback" not in said
    assert not (checkout.results / f"tiny/pretrain/{RUN}/run.json").exists()
    missing = checkout.todo()
    assert {f"pretrain {RUN}", *EVALUATED} | CLOSING <= missing
    assert f"plan {RUN}" not in missing
    before = made(checkout)
    checkout.run()
    after = made(checkout)
    again = {tuple(name.split("/")[1:3]) for name in before if after[name] != before[name]}
    of_run = {("pretrain", RUN), ("evaluate", RUN)}
    page = {("report", "index.html"), ("report", "index.claims.json")}
    assert again <= of_run | {tuple(job.split()) for job in CLOSING} | page
    assert checkout.todo() == set()


def test_the_others_go_on_if_asked(checkout: Checkout) -> None:
    """`--keep-going`: all that does not depend on the failed run is made."""
    status, _ = checkout.snakemake("--cores", "4", "--keep-going", **FAILING)
    assert status != 0
    assert checkout.todo() == {f"pretrain {RUN}", *EVALUATED} | CLOSING


def test_data_of_tasks_that_cannot_be_had_stop_every_training(checkout: Checkout) -> None:
    """Named before a card is asked for, however much else may go on."""
    (checkout.results / "data/datasets/package_quartz.json").unlink()
    status, said = checkout.snakemake("--cores", "4", "--keep-going", FAIL="fetch_eval package_quartz.json")
    assert status != 0
    assert "stand-in: fetch_eval of package_quartz.json was told to fail" in said
    missing = checkout.todo()
    assert f"pretrain {RUN}" in missing
    assert f"plan {RUN}" not in missing, "what needs no such data goes on"
