"""When a Snakemake looks for jobs of an earlier one. What it does then is shown on a real cluster (tests/slurm)."""

from __future__ import annotations

import pytest

from dataeff.study.survivors import runs_jobs


@pytest.mark.parametrize(
    "words",
    [
        *("-n", "-np", "--dry-run", "--dryrun", "--dry-r", "--unlock", "--unl", "--summary", "--touch", "-t"),
        *("--list-rules", "--report", "--report=page.html", "--lint", "--dag", "--rulegraph", "-D", "--list-untracked"),
    ],
)
def test_not_where_no_job_is_run(words: str) -> None:
    assert not runs_jobs(["--profile", "slurm", *words.split(), "--config", "scale=paper"])


@pytest.mark.parametrize(
    "words",
    [
        *("", "analysis", "--config scale=paper", "-j 10 -k", "--rerun-incomplete", "-- dry-run"),
        *("--report page.html --report-after-run", "--set-threads pretrain=2", "--forcerun summary -p"),
    ],
)
def test_where_jobs_are_run(words: str) -> None:
    assert runs_jobs(["--profile", "slurm", *words.split()])
