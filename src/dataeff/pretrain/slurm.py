"""A training as a SLURM job: `python -m dataeff.pretrain.slurm OPTIONS dataeff pretrain ...`, the rule's command.

In a job that Snakemake's SLURM executor submitted, the training is a step of its own on all nodes of the job; several
nodes meet at the one that the step was started from. Where SLURM warns of the time limit or a partition takes its nodes
back, the ranks save and end with code 75 (signals.py); the job then requeues itself under its own id, unless SLURM
does so already, its user cancelled it, or its time limit is too short to save anything. Everywhere else the command is
run as it stands.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dataeff.errors import DataeffError
from dataeff.pretrain.signals import EXIT_INTERRUPTED, STOPPING

_PORT = "DATAEFF_MEETING_PORT"
"""Set for the processes that the step starts, which read the rest of their place from SLURM's own variables."""
_EXECUTOR = "slurm-jobstep"
_LAST_TASK_SECONDS = 60
"""How long the step goes on after a node's processes ended: they end together, or some are lost."""
_REQUEUE_SECONDS = 120
_STOPPED = (EXIT_INTERRUPTED, *(128 + number for number in STOPPING))
"""What the step ends with that a signal stopped; the last ones where Python was still starting."""


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job: its state, the seconds it has run and those it has left, and whether its nodes are
    being taken back.
    """

    state: str
    used_seconds: int
    left_seconds: int
    preempted: bool = False

    @classmethod
    def ask(cls, job: str) -> JobState:
        facts = "State:30,TimeUsed:30,TimeLeft:30,PreemptTime:30"
        said = subprocess.run(["squeue", "-h", "-j", job, "-O", facts], capture_output=True, text=True)
        words = said.stdout.split()
        if said.returncode != 0 or len(words) != 4:
            return cls("UNKNOWN", 0, 0)
        return cls(words[0], _seconds(words[1]), _seconds(words[2]), words[3] != "N/A")


def _seconds(text: str) -> int:
    """Of SLURM's `1-02:03:04`, `02:03` or a word such as UNLIMITED, which counts as a year."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in parts) or not (days or "0").isdecimal():
        return 365 * 86400
    total = int(days or 0) * 86400
    for part, unit in zip(reversed(parts), (1, 60, 3600), strict=False):
        total += int(part) * unit
    return total


def main(words: Sequence[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m dataeff.pretrain.slurm")
    for name, what in (("nodes", "of the job"), ("processes", "ranks on each node"), ("cpus", "for a node's ranks")):
        parser.add_argument(f"--{name}", type=int, required=True, help=what)
    parser.add_argument("--state", type=Path, required=True, help="the run's resume checkpoints")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="dataeff pretrain and its options")
    args = parser.parse_args(words)
    if _PORT in os.environ:
        _on_a_node(args.nodes, args.processes, args.command)
    if _in_a_job():
        sys.exit(_run_step(args, [sys.executable, "-m", "dataeff.pretrain.slurm", *words]))
    if args.nodes > 1:
        raise DataeffError(
            f"hardware: nodes is {args.nodes}; several nodes are started by SLURM (snakemake --profile slurm), "
            "here set nodes: 1"
        )
    os.execvp(args.command[0], args.command)


def _in_a_job() -> bool:
    """Whether this is the batch part of a job that Snakemake's SLURM executor submitted for this command. Snakemake on
    all cores of an allocation that someone else asked for runs its commands as on any machine.
    """
    import psutil

    if "SLURM_JOB_ID" not in os.environ:
        return False
    return any(_EXECUTOR in process.cmdline() for process in psutil.Process().parents())


def _on_a_node(nodes: int, processes: int, command: list[str]) -> NoReturn:
    """Starts the ranks of this node. One node alone has its command do so, as on any machine."""
    port = int(os.environ.pop(_PORT))
    if nodes == 1:
        os.execvp(command[0], command)
    from dataeff.pretrain.launch import Meeting, start

    # The node that the step was started from is the job's first, and all others reach it by this address already.
    meeting = Meeting(nodes, int(os.environ["SLURM_NODEID"]), os.environ["SLURM_LAUNCH_NODE_IPADDR"], port)
    start(processes, command[1:], meeting)


def _run_step(args: argparse.Namespace, task: Sequence[str]) -> int:
    """Runs the task once on each node; the exit code of the job."""
    job, before = os.environ["SLURM_JOB_ID"], _newest_checkpoint(args.state)
    step = ["srun", f"--nodes={args.nodes}", f"--ntasks={args.nodes}", "--ntasks-per-node=1"]
    step += [f"--cpus-per-task={args.cpus}", "--mpi=none", f"--wait={_LAST_TASK_SECONDS}"]
    for number in STOPPING:  # the ranks', who have them from SLURM
        signal.signal(number, _pass)
    with socket.socket() as free:
        free.bind(("", 0))
        environment = {**os.environ, _PORT: str(free.getsockname()[1])}
    code = subprocess.run([*step, *task], env=environment).returncode
    if code not in _STOPPED:
        return code
    state = JobState.ask(job)
    if state.state != "RUNNING":
        return code
    if _newest_checkpoint(args.state) == before and not state.preempted:
        # It would be so the next time, too, and for ever.
        print(
            f"dataeff: error: job {job} was stopped {state.left_seconds} s before its time limit, with no step to "
            f"save; raise hardware: minutes"
        )
        return 1
    return _requeue(job)


def _pass(number: int, frame: FrameType | None) -> None:
    """Does nothing; unlike an ignored signal, it is not ignored by the processes started from here."""


def _newest_checkpoint(state: Path) -> str:
    return max((path.name for path in state.glob("step-*")), default="")


def _requeue(job: str) -> int:
    """Gives the nodes back and waits for SLURM to end this job, which will begin again under the same id."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    said = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    if said.returncode != 0:
        print(f"job {job} cannot requeue itself ({said.stderr.strip()}); Snakemake will submit it again", flush=True)
        return EXIT_INTERRUPTED
    print(f"job {job}: requeued; it continues when its turn comes", flush=True)
    time.sleep(_REQUEUE_SECONDS)
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")
