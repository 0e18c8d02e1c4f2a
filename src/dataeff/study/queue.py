"""Has Snakemake's SLURM executor go on asking squeue while slurmctld is down (profile.py calls it).

The executor asks slurmctld for MinJobAge before each look at its jobs and turns to sacct where there is no answer. A
site without a database answers sacct with an error: the executor would ask for that until its attempts are used up, and
then forget its jobs and wait without end. MinJobAge does not change while Snakemake runs: the last answer stands.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def remember_min_job_age() -> None:
    """Replaces the executor's question by one that remembers its last answer."""
    executor: Any = importlib.import_module("snakemake_executor_plugin_slurm")
    executor.get_min_job_age = _remembering(executor.get_min_job_age)


def _remembering(ask: Callable[[], int | None]) -> Callable[[], int | None]:
    known: list[int] = []

    def min_job_age() -> int | None:
        answer = ask()
        if answer is not None:
            known[:] = [answer]
        return known[0] if known else None

    return min_job_age
