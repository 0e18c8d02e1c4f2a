"""What the Snakefile is given: a study that jobs on a cluster see as the main process saw it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dataeff.study import workflow
from tests.factory import ROOT, config


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("working_folder"))  # `prepare` leaves a note in .snakemake/
    monkeypatch.setenv(workflow.FROZEN, "")  # set, so that what `prepare` exports is taken back at the end
    monkeypatch.delenv(workflow.FROZEN)


def raw(results: Path, **changes: object) -> dict[str, object]:
    return config(scale="smoke", results=str(results), **changes)


def test_a_job_sees_the_study_of_its_submission(tmp_path: Path) -> None:
    submitted = workflow.prepare(raw(tmp_path), ROOT, is_main_process=True)
    job = workflow.prepare(raw(tmp_path, seeds=[99]), ROOT, is_main_process=False)
    assert job == submitted


def test_a_job_stops_after_an_edit(tmp_path: Path) -> None:
    workflow.prepare(raw(tmp_path), ROOT, is_main_process=True)
    frozen = os.environ[workflow.FROZEN]
    edited = raw(tmp_path, scales={"smoke": {"families": {"gpt": {"batch_size": 4}}}})
    workflow.prepare(edited, ROOT, is_main_process=True)
    os.environ[workflow.FROZEN] = frozen
    with pytest.raises(SystemExit, match=r"dataeff: error: .*changed since this job was submitted"):
        workflow.prepare(edited, ROOT, is_main_process=False)


def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        workflow.prepare(raw(tmp_path / "results", sead=[1]), ROOT, is_main_process=True)
    assert caught.value.code == "dataeff: error: config: unknown key 'sead'; did you mean 'seeds'?"
    assert list(tmp_path.iterdir()) == []


def test_names_for_the_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = workflow.prepare(raw(tmp_path, hardware={"processes": 2}), ROOT, is_main_process=True)
    assert workflow.data_item(study, "gpt-composed-50-s1234") == "bpe4k/gpt-256"
    assert workflow.metrics_of(study, "gpt-composed-50-s1234") == ["vocab_rarity"]
    assert workflow.metrics_of(study, "gpt-cl_seqtru-100-s1234") == []
    assert workflow.shard_names(study) == ["00", "01"]
    assert workflow.names(study.runs)[0] == "gpt-baseline-100-s1234"
    assert workflow.data_item(study, "bert-ltd-100-s1234") == "wordpiece4k/bert-128"
    assert "gpt-ltd-100-s1234" in workflow.prompted(study.runs)
    assert "bert-ltd-100-s1234" in workflow.not_prompted(study.runs)
    assert workflow.hardware_options(study) == (
        "--processes 2 --threads 1 --micro-batch 16 --zero-stage 0 --activation-checkpointing false "
        "--compile false --checkpoint-every 10 --keep-last 2 --heldout-points 4 --max-skipped 5 --timeout-seconds 600 "
        "--tensorboard false"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", "/where/caches/are")
    assert workflow.cache_folder(study) == "/where/caches/are/dataeff"
    named = study.model_copy(update={"cache": "/own"})
    assert workflow.cache_folder(named) == "/own"


def test_lists_of_the_command_line_hold_numbers(tmp_path: Path) -> None:
    """`--config seeds=[5,6]` arrives from Snakemake as a list of texts."""
    given = raw(tmp_path, seeds=["5", "6"], hardware={"threads": "2"})
    arguments = ["scale=smoke", "seeds=[5,6]", "hardware={threads: 2}"]
    study = workflow.prepare(given, ROOT, is_main_process=True, arguments=arguments)
    assert {run.seed for run in study.grids[study.grid]} == {5, 6}
    assert study.hardware.threads == 2
