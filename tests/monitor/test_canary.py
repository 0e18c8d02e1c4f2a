"""The canary with the real stages, at scale smoke: everything is gone through, a kill survived, a report left."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.checkout import Checkout, Starter

CANARIES = ("gpt-composed-100-s1234", "bert-composed-100-s1234")


@pytest.mark.study
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_through_every_stage(tmp_path: Path) -> None:
    """From nothing to the report, which also tells of the kill; what was made on the way is removed."""
    checkout = Checkout(tmp_path / "checkout", Starter(tmp_path / "said"))
    checkout.starter.close()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "canary", "--cores", "2", "--config", "scale=smoke"],
        cwd=checkout.folder,
        env={**checkout.starter.environment(), "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if "could not be fetched" in done.stderr:
        pytest.skip("the package texts are neither in the cache nor to be had")
    assert done.returncode == 0, done.stderr[-4000:]
    folder = checkout.results / "smoke/canary"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{run}{suffix}" for run in CANARIES for suffix in (".json", ".txt")
    )
    assert not (checkout.results / "smoke/pretrain").exists()
    for run in CANARIES:
        facts = json.loads((folder / f"{run}.json").read_text())
        assert facts["resumed_after_step"] is not None
        assert facts["resumed_after_step"] <= facts["after_step"] < facts["steps"]
        asked = {"gpt": {"evaluate"}, "bert": {"finetune"}}[run.split("-")[0]]
        assert set(facts["stage_seconds"]) == {"plan", "pretrain", "heldout"} | asked
        assert facts["step_seconds"]["median"] > 0
        assert all(hours > 0 for hours in facts["projected_hours"].values())
        assert f"canary {run}: all stages passed" in done.stdout
