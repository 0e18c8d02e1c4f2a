"""The rule's command outside SLURM, and how SLURM's clock is read. tests/slurm shows its jobs on a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dataeff.pretrain.slurm import _seconds


def launched(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dataeff.pretrain.slurm", "--processes", "2", "--cpus", "2", "--state", "state"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run([*command, *words], env={**own, **environment}, capture_output=True, text=True)


def test_elsewhere_the_command_is_run_as_it_stands() -> None:
    done = launched("--nodes", "1", "sh", "-c", 'echo "$0 $1"; exit 75', "one two", "--nodes")
    assert (done.returncode, done.stdout) == (75, "one two --nodes\n")


def test_in_an_allocation_that_is_not_snakemake_s_too() -> None:
    assert launched("--nodes", "1", "echo", "here", SLURM_JOB_ID="12").stdout == "here\n"


def test_several_nodes_need_slurm() -> None:
    done = launched("--nodes", "2", "echo", "here")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "dataeff: error: hardware: nodes is 2; several nodes are started by SLURM (snakemake --profile slurm), "
        "here set nodes: 1\n"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:07", 7), ("2:03", 123), ("1:02:03", 3723), ("1-00:00:10", 86410), ("UNLIMITED", 365 * 86400)],
)
def test_slurm_s_clock(text: str, seconds: int) -> None:
    assert _seconds(text) == seconds
