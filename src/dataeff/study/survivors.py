"""Jobs that outlived their Snakemake: looked for, where the profile slurm/ is used, before the next one builds its DAG.

A Snakemake that dies by kill -9, or with its login node, leaves its jobs in SLURM's queue. The next one knows nothing
of them and would do their work a second time. Those that run are waited for: what they make counts as made. Those that
have not begun are cancelled, and so are trainings that wait to continue: their checkpoints are kept, and the new job
continues from them.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataeff.errors import DataeffError

POLL_SECONDS = 30.0
_COMMENT = "rule_"
"""What the executor writes into the comment of a rule's job, before the rule's name."""
_ELSE = (
    "archive cleanup_metadata cleanup_shadow conda_cleanup_envs conda_create_envs_only container_cleanup_images "
    "containerize d3dag dag delete_all_output delete_temp_output dryrun filegraph generate_unit_tests lint "
    "list_changes list_conda_envs list_input_changes list_params_changes list_rules list_target_rules list_untracked "
    "print_compilation rulegraph summary detailed_summary touch unlock"
)
"""Options of Snakemake, as its parser names them, that run no jobs."""


@dataclass(frozen=True)
class Survivor:
    job: str
    state: str
    comment: str

    def __str__(self) -> str:
        return f"{self.job} ({self.comment.removeprefix(_COMMENT)}, {self.state.lower()})"


def settle(arguments: Sequence[str] | None = None, *, poll_seconds: float = POLL_SECONDS) -> None:
    """Returns when no job of an earlier Snakemake of this folder is left, where a Snakemake is about to run jobs."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if shutil.which("squeue") is None or _is_locked() or not runs_jobs(arguments):
        return
    told: set[str] = set()
    while survivors := find():
        waiting = [survivor for survivor in survivors if survivor.state == "PENDING"]
        if waiting:
            _tell("cancelling what has not begun: " + ", ".join(map(str, waiting)))
            subprocess.run(["scancel", "--state=PENDING", *(survivor.job for survivor in waiting)], check=True)
            continue
        if new := [survivor for survivor in survivors if survivor.job not in told]:
            jobs = " ".join(survivor.job for survivor in survivors)
            _tell(
                f"waiting for {', '.join(map(str, new))}, of an earlier snakemake; to have them save and stop instead, "
                f"in another terminal: scancel {jobs}"
            )
            told.update(survivor.job for survivor in new)
        time.sleep(poll_seconds)


def find() -> list[Survivor]:
    """The jobs in SLURM's queue that a Snakemake started in this folder has submitted."""
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%Z|%k"]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode != 0:
        raise DataeffError(f"squeue: {said.stderr.strip()}; jobs of an earlier snakemake cannot be looked for")
    here, found = Path.cwd().resolve(), []
    for line in said.stdout.splitlines():
        job, state, folder, comment = line.split("|", 3)
        if comment.startswith(_COMMENT) and Path(folder).resolve() == here:
            found.append(Survivor(job, state, comment))
    return found


def runs_jobs(arguments: Sequence[str]) -> bool:
    """Whether Snakemake runs jobs with these arguments; its own parser knows its short and shortened options."""
    from snakemake.cli import get_argument_parser

    asked, _ = get_argument_parser().parse_known_args(list(arguments))
    only_report = asked.report is not None and not asked.report_after_run
    return not only_report and not any(getattr(asked, name, None) for name in _ELSE.split())


def _is_locked() -> bool:
    """Whether another Snakemake works in this folder, or left its lock: then this one will end, and says so itself."""
    return any(Path(".snakemake/locks").glob("*"))


def _tell(text: str) -> None:
    print(f"dataeff: {text}", file=sys.stderr, flush=True)
