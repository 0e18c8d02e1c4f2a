"""One run on several nodes: the settings say how many, and the losses are those of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataeff.plan import TrainingPlan
from tests.factory import ROOT
from tests.slurm.cluster import Cluster
from tests.slurm.study import DRILL, RESULT, RUN, Started, Study

# Read by every Python that starts with its folder on the path; it has the ranks write down what they train on.
TELLING = """
import os, sys
if "pretrain" in sys.orig_argv and "RANK" in os.environ:
    from tests.pretrain.faults import tell_samples_and_kept_tokens
    tell_samples_and_kept_tokens()
"""


@pytest.mark.parametrize(
    ("nodes", "processes", "gpus"),
    [(2, 2, 2), (1, 2, 2), (3, 1, 0)],
)
@pytest.mark.slow
def test_nodes_and_ranks_change_nothing(
    cluster: Cluster,
    study: Study,
    undisturbed: Study,
    start: Callable[..., Started],
    tmp_path: Path,
    nodes: int,
    processes: int,
    gpus: int,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELLING)
    changes = {"nodes": nodes, "processes": processes, "gpus": gpus, "memory_mb": 1500}
    study.configure({**DRILL, "hardware": {**DRILL["hardware"], **changes}})
    site = {"DATAEFF_SLURM_PARTITION": "gpu", "DATAEFF_SLURM_CPU_PARTITION": "cpu", "DATAEFF_SLURM_GPU_TYPE": "h200"}
    start(study, RESULT, PYTHONPATH=f"{tmp_path}:{ROOT}:{ROOT}/src", **site).finish()
    assert np.abs(np.array(study.losses) - np.array(undisturbed.losses)).max() < 1e-5
    job = max(cluster.jobs())
    said = cluster.command("squeue", "-h", "-t", "all", "-j", str(job), "-o", "%D %P %b").split()
    assert said[:2] == [str(nodes), "gpu" if gpus else "cpu"]
    assert said[2] == (f"gres:gpu:h200:{gpus}" if gpus else "N/A")
    timings = json.loads((study.folder / RESULT).with_name("timings.json").read_text())
    assert timings["world_size"] == nodes * processes
    planned = list(TrainingPlan.load(study.folder / f"results/drill/plan/{RUN}").order.iterate(0))
    for rank in range(nodes * processes):
        seen = [json.loads(line) for line in (study.state.parent / f"seen-{rank}").read_text().splitlines()]
        steps = [line["ids"] for line in seen if "ids" in line]
        assert steps == [ids.tolist() for ids in planned]
