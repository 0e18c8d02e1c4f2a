"""Snakemake's SLURM executor, told once how long finished jobs stay in the queue."""

from __future__ import annotations

import snakemake_executor_plugin_slurm as executor

from dataeff.study.queue import _remembering, remember_min_job_age


def test_the_last_answer_stands() -> None:
    answers = iter([None, 300, None, 60, None])
    ask = _remembering(lambda: next(answers))
    assert [ask() for _ in range(5)] == [None, 300, 300, 60, 60]


def test_the_executor_asks_so() -> None:
    before = executor.get_min_job_age
    try:
        remember_min_job_age()
        assert executor.get_min_job_age is not before
        assert "get_min_job_age" in executor.Executor.check_active_jobs.__code__.co_names
    finally:
        executor.get_min_job_age = before
