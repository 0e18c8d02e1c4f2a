"""When a Snakemake looks for jobs of an earlier one. What it does then is shown on a real cluster (tests/slurm)."""

from __future__ import annotations

import pytest

from dataeff.study.survivors import _runs_jobs


@pytest.mark.parametrize(
    "words",
    ["-n", "-np", "--dry-run", "--unlock", "--summary", "--touch", "--list-rules", "--report=page.html", "-h"],
)
def test_not_where_no_job_is_run(words: str) -> None:
    assert not _runs_jobs(["--profile", "slurm", *words.split(), "--config", "scale=paper"])


@pytest.mark.parametrize("words", ["", "analysis", "--config scale=paper", "-j 10 -k", "--rerun-incomplete"])
def test_where_jobs_are_run(words: str) -> None:
    assert _runs_jobs(["--profile", "slurm", *words.split()])
