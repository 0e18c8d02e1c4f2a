"""The command that this is for, `snakemake --profile slurm`, on a real SLURM, and where there is none."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dataeff.study.workflow import cache_folder
from tests.factory import load
from tests.slurm.cluster import Cluster
from tests.slurm.study import Started, Study
from tests.workflow.checkout import NOTHING

TWO = {
    "scale": "smoke",
    "grid": "two",
    "grids": {"two": [{"family": "gpt", "variants": ["baseline", "ltd"]}]},
    "hardware": {"gpus": 1},
}
SITE = {
    "DATAEFF_SLURM_PARTITION": "gpu",
    "DATAEFF_SLURM_CPU_PARTITION": "cpu",
    "DATAEFF_SLURM_GPU_TYPE": "h200",
    "DATAEFF_SLURM_MINUTES": "30",
    "DATAEFF_SLURM_EXTRA": "--nice=1",
}
ON_GPUS = {"pretrain", "evaluate", "evaluate_heldout"}
CANARIES = ("gpt-composed-100-s1234", "bert-composed-100-s1234")
FILES_OF_A_RUN = 48
"""With two groups of tasks at two counts of shots."""


@pytest.mark.parametrize("arguments", [(), ("--config", "scale=paper"), ("--config", "scale=paper", "grid=papers")])
def test_a_dry_run_needs_no_slurm(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    study = Study(tmp_path / "study", {})
    (tmp_path / "bin").mkdir()
    for name in ("bash", "which", "git"):
        found = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        if found:
            (tmp_path / "bin" / name).symlink_to(found)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path / "bin")])
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--profile", "slurm", *arguments],
        cwd=study.folder,
        env={"PATH": path, "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\npretrain " in done.stdout + done.stderr


@pytest.mark.timeout(900)
def test_the_study_on_a_cluster(cluster: Cluster, texts: None, start: Callable[..., Started], tmp_path: Path) -> None:
    """Results on another file system, no home folder, and no network: the texts are in a cache that all nodes see."""
    scratch = tmp_path / "scratch"
    study = Study(tmp_path / "study", {**TWO, "results": str(scratch / "results"), "cache": cache_folder(load())})
    offline = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    start(study, HOME="/nowhere", XDG_CACHE_HOME=str(scratch / "cache"), **offline, **SITE).finish(seconds=800)
    results = scratch / "results/smoke"
    assert (results / "tables/two/quality.csv").read_text().count("\n") == 3
    assert (results / "report/index.html").is_file()
    listed = cluster.command("squeue", "-h", "-t", "all", "-o", "%k %P %l %T %i %Z").splitlines()
    jobs = [line.split() for line in listed if line.endswith(f" {study.folder}")]
    rules = Counter(map(rule_of, jobs))
    assert {"corpus", "tokens", "samples", "plan", "tables", "report"} < set(rules)
    assert "corpus_fetch" not in rules
    assert rules["pretrain"] == 2
    asked = cluster.command("squeue", "-h", "-t", "all", "-O", "JobID:20,tres-per-job:60").splitlines()
    gpus = dict(line.split() for line in asked)
    for job in jobs:
        partition, asked_gpus = ("gpu", "gres:gpu:h200:1") if rule_of(job) in ON_GPUS else ("cpu", "N/A")
        assert job[1:4] == [partition, "30:00", "COMPLETED"], job
        assert gpus[job[4]] == asked_gpus, job
    assert NOTHING in study.snakemake("-n", "--profile", "slurm")
    assert files_of("gpt-ltd-100-s1234", scratch, study.folder) <= FILES_OF_A_RUN
    assert not list((study.folder / ".snakemake").glob("slurm_logs/**/*.log"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_canary(cluster: Cluster, texts: None, start: Callable[..., Started], tmp_path: Path) -> None:
    """Before a study: its command alone makes the data, and tries every stage in a job shaped like a training's."""
    study = Study(tmp_path / "study", {"hardware": {"gpus": 1}})
    start(study, "canary", "--config", "scale=smoke", **SITE).finish(seconds=1100)
    said = (study.folder / "said.txt").read_text()
    listed = cluster.command("squeue", "-h", "-t", "all", "-o", "%k %P %l %T %b %Z").splitlines()
    jobs = [line.split() for line in listed if line.endswith(f" {study.folder}")]
    canaries = [job[1:5] for job in jobs if rule_of(job) == "canary_run"]
    assert canaries == [["gpu", "30:00", "COMPLETED", "gres:gpu:h200:1"]] * len(CANARIES)
    assert "pretrain" not in set(map(rule_of, jobs))
    folder = study.folder / "results/smoke/canary"
    made = [f"{run}{suffix}" for run in CANARIES for suffix in (".json", ".txt")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(made)
    for run in CANARIES:
        facts = json.loads((folder / f"{run}.json").read_text())
        assert facts["resumed_after_step"] <= facts["after_step"] < facts["steps"]
        assert {"plan", "pretrain", "heldout"} < set(facts["stage_seconds"])
        assert f"canary {run}: all stages passed on 1 x 1 ranks" in said


def rule_of(job: list[str]) -> str:
    return job[0].removeprefix("rule_").split("_wildcards_")[0]


def files_of(run: str, *folders: Path) -> int:
    """The files whose path has the run's name; Snakemake's own are named by such a path, encoded."""
    plain = sum(1 for folder in folders for path in folder.rglob("*") if path.is_file() and run in str(path))
    encoded = [path for folder in folders for path in folder.glob(".snakemake/metadata/**/*") if path.is_file()]
    return plain + sum(1 for path in encoded if run.encode() in _decoded(path.name))


def _decoded(name: str) -> bytes:
    return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4))
