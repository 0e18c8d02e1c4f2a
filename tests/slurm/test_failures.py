"""What ends a training on a cluster, each on a real one: it ends as the run that nothing disturbed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from dataeff.pretrain.slurm import JobState
from tests.factory import ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.study import DRILL, RESULT, Started, Study, training_job

Start = Callable[..., Started]
# Read by every Python that starts with its folder on the path; the training's starts as on a slow file system.
_IN_TRAINING = "import sys, time\nif sys.orig_argv[2:3] == ['pretrain']:\n"
SLOW_START = {
    "import": f"{_IN_TRAINING}    time.sleep(300)\n",
    "reading": f"""{_IN_TRAINING}
    from dataeff.plan import TrainingPlan
    load = TrainingPlan.load
    TrainingPlan.load = lambda folder: time.sleep(300) or load(folder)
""",
}


def restarts(cluster: Cluster, job: int) -> int:
    words = cluster.command("scontrol", "show", "job", str(job)).split()
    return int(next(word.removeprefix("Restarts=") for word in words if word.startswith("Restarts=")))


def nodes_of(cluster: Cluster, job: int) -> str:
    """As SLURM writes them: `n1` or `n[1-2]`."""
    return cluster.command("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%N").strip()


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_preempted(cluster: Cluster, study: Study, undisturbed: Study, start: Start, nodes: int) -> None:
    """Another job takes all nodes: SLURM requeues ours, which continues after the other's end."""
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "nodes": nodes}})
    snakemake = start(study, RESULT)
    snakemake.wait_for_steps()
    job = training_job(cluster)
    cluster.command("sbatch", "-p", "urgent", "-N3", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    snakemake.finish()
    assert np.abs(np.array(study.losses) - np.array(undisturbed.losses)).max() <= (0 if nodes == 1 else 1e-5)
    assert cluster.jobs()[job] == "COMPLETED"
    assert restarts(cluster, job) == 1
    assert "continues after step" in study.log


@pytest.mark.slow
def test_node_dies(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """slurmd, its step managers and what they started are gone at once; the job begins again on another node."""
    snakemake = start(study, RESULT)
    snakemake.wait_for_steps()
    job = training_job(cluster)
    node = nodes_of(cluster, job)
    cluster.kill_node(node)
    snakemake.finish()
    assert study.losses == undisturbed.losses
    assert cluster.jobs()[job] == "COMPLETED"
    assert restarts(cluster, job) == 1
    assert nodes_of(cluster, job) != node


@pytest.mark.slow
def test_one_of_two_nodes_dies(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """The job's second node goes; the whole job begins again, on two that are left."""
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "nodes": 2}})
    snakemake = start(study, RESULT)
    snakemake.wait_for_steps()
    job = training_job(cluster)
    held = cluster.command("scontrol", "show", "hostnames", nodes_of(cluster, job)).split()
    cluster.kill_node(held[1])
    snakemake.finish()
    assert np.abs(np.array(study.losses) - np.array(undisturbed.losses)).max() < 1e-5
    assert cluster.jobs()[job] == "COMPLETED"
    assert restarts(cluster, job) == 1
    assert held[1] not in cluster.command("scontrol", "show", "hostnames", nodes_of(cluster, job)).split()


@pytest.mark.slow
def test_cancelled(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """A person cancels the job: it saves and stays cancelled; the next attempt continues it."""
    snakemake = start(study, RESULT, DATAEFF_SLURM_RETRIES="0")
    snakemake.wait_for_steps()
    job = training_job(cluster)
    cluster.command("scancel", str(job))
    assert snakemake.process.wait(timeout=120) != 0
    assert cluster.jobs()[job] == "CANCELLED"
    assert study.is_past(5)
    start(study, RESULT).finish()
    assert study.losses == undisturbed.losses
    assert "continues after step" in study.log


@pytest.mark.slow
def test_out_of_memory(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """A job that gets too little is submitted again with more, and the first one's end is told."""
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "memory_mb": 100}})
    said = start(study, RESULT, DATAEFF_SLURM_RETRIES="3").finish()
    assert study.losses == undisturbed.losses
    listed = cluster.command("squeue", "-h", "-t", "all", "-S", "i", "-o", "%m %T %Z").splitlines()
    ours = [line.split()[:2] for line in listed if line.endswith(f" {study.folder}")]
    assert [memory for memory, _ in ours] == ["600M", "900M", "1200M", "1500M"][: len(ours)]
    assert ours[0][1] in ("FAILED", "OUT_OF_MEMORY")
    assert ours[-1][1] == "COMPLETED"
    assert "Trying to restart" in said
    kept = (study.folder / ".snakemake/slurm_logs").rglob("*.log")
    assert any("Exceeded job memory limit" in path.read_text() for path in kept)


@pytest.mark.slow
def test_memory_never_suffices(cluster: Cluster, study: Study, start: Start) -> None:
    """It is submitted again as often as the profile says, and no more."""
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "memory_mb": 10}})
    before = set(cluster.jobs())
    snakemake = start(study, RESULT, DATAEFF_SLURM_RETRIES="1", DATAEFF_SLURM_MEMORY_MB="400")
    assert snakemake.process.wait(timeout=200) != 0
    assert len(set(cluster.jobs()) - before) == 2


@pytest.mark.slow
def test_time_limit(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """A run that takes longer than its limit of two minutes (its process is made to sleep through most of them): SLURM
    warns, it saves, and begins again under the same id.
    """
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "minutes": 2}})
    snakemake = start(study, RESULT, DATAEFF_SLURM_RETRIES="0")
    snakemake.wait_for_steps()
    job = training_job(cluster)
    training = training_process(study)
    training.suspend()

    def requeued() -> bool:
        return restarts(cluster, job) > 0

    # Some SLURMs wake a process before they signal it.
    snakemake.wait(lambda: requeued() or JobState.ask(str(job)).used_seconds >= 100, "the job did not run on", 180)
    if not requeued():
        training.resume()
    snakemake.wait(requeued, "it was not requeued", 30)
    snakemake.finish()
    assert study.losses == undisturbed.losses
    assert cluster.jobs()[job] == "COMPLETED"
    assert "continues after step" in study.log


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["import", "reading"])
def test_time_limit_too_short(cluster: Cluster, study: Study, start: Start, tmp_path: Path, slow: str) -> None:
    """SLURM's warning comes while Python or the run still starts: it is said, and the job does not requeue for ever."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_START[slow])
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], "minutes": 1}})
    before = set(cluster.jobs())
    snakemake = start(study, RESULT, DATAEFF_SLURM_RETRIES="0", PYTHONPATH=f"{tmp_path}:{ROOT}:{ROOT}/src")
    assert snakemake.process.wait(timeout=240) != 0, snakemake.all_said()
    (job,) = set(cluster.jobs()) - before
    assert f"job {job} was stopped" in study.log, snakemake.all_said()
    assert "s before its time limit, with no step to save; raise hardware: minutes" in study.log
    assert (cluster.jobs()[job], restarts(cluster, job)) == ("FAILED", 0)


def training_process(study: Study) -> psutil.Process:
    """The one that trains; not Snakemake, a shell or the step's launcher, whose command lines hold the same words."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[2:3] == ["pretrain"] and process.cwd() == str(study.folder)
    ]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.slow
def test_controller_dies(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """slurmctld is killed and comes back half a minute later: nobody but Snakemake's questions noticed."""
    snakemake = start(study, RESULT)
    snakemake.wait_for_steps()
    job = training_job(cluster)
    cluster.kill("slurmctld")
    time.sleep(30)
    cluster.start_controller()
    snakemake.finish()
    assert study.losses == undisturbed.losses
    assert cluster.jobs()[job] == "COMPLETED"
    assert restarts(cluster, job) == 0


@pytest.mark.slow
def test_snakemake_dies(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """The next Snakemake waits for the job that survived, and takes what it made."""
    first = start(study, RESULT)
    first.wait_for_steps()
    job = training_job(cluster)
    first.kill()
    assert "LockException" in refused(start(study, RESULT))
    study.snakemake("--profile", "slurm", "--unlock", RESULT)
    said = start(study, RESULT).finish()
    assert f"waiting for {job} (pretrain_wildcards_" in said
    assert study.losses == undisturbed.losses
    assert cluster.jobs()[job] == "COMPLETED"
    assert max(cluster.jobs()) == job, "the run was submitted a second time"


@pytest.mark.slow
def test_snakemake_dies_and_nobody_waits(cluster: Cluster, study: Study, undisturbed: Study, start: Start) -> None:
    """The survivor is cancelled while the next Snakemake waits for it: it saves, and a new job continues."""
    first = start(study, RESULT)
    first.wait_for_steps()
    job = training_job(cluster)
    first.kill()
    shutil.rmtree(study.folder / ".snakemake/locks")
    second = start(study, RESULT)
    second.wait(lambda: "scancel" in second.said.read_text(), "no survivor was found")
    cluster.command("scancel", str(job))
    second.finish()
    assert study.losses == undisturbed.losses
    assert cluster.jobs()[job] == "CANCELLED"
    assert "continues after step" in study.log


def refused(snakemake: Started) -> str:
    assert snakemake.process.wait(timeout=60) != 0
    return snakemake.said.read_text()


def test_nothing_of_a_finished_cluster_runs(cluster: Cluster) -> None:
    cluster.clear()
    assert cluster.steps_at_work() == []
