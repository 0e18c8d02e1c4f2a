"""A user's checkout to run Snakemake in: the Snakefile, its rules, profiles/ and config/, copied to a folder of its own.

The jobs' commands go to stand_in.py, or to the real `dataeff` where a test asks for it. What Snakemake would run is
read from its dry run, job by job.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.factory import ROOT

PARTS = ("Snakefile", "workflow", "config", "profiles")
NOTHING = "Nothing to be done (all requested files are present and up to date)."
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", re.MULTILINE)
WILDCARDS = re.compile(r"^ {4}wildcards: (.*)$", re.MULTILINE)


class Checkout:
    """One folder with the tracked parts of the repository, and Snakemake started in it as a user does."""

    def __init__(self, folder: Path, source: Path = ROOT, commands: Path | None = None) -> None:
        self.folder, self.commands = folder, commands
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            copy = shutil.copytree if (source / part).is_dir() else shutil.copy2
            copy(source / part, folder / part)

    def copy_to(self, folder: Path) -> Checkout:
        """The same checkout in another folder, with its results and Snakemake's records of them."""
        copied = Checkout(folder, self.folder, self.commands)
        for part in ("results", ".snakemake"):
            shutil.copytree(self.folder / part, folder / part)
        return copied

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def environment(self, **changes: str) -> dict[str, str]:
        """This process's environment, in which `dataeff` is the stand-in where there is one."""
        folders = [] if self.commands is None else [str(self.commands)]
        folders += [str(Path(sys.executable).parent), os.environ["PATH"]]
        inherited = {name: value for name, value in os.environ.items() if name != "DATAEFF_STUDY"}
        return {**inherited, "PATH": os.pathsep.join(folders), **changes}

    def snakemake(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs `snakemake ARGUMENTS`; its output and messages come as one text in `stdout`."""
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )

    def run(self, *arguments: str, **environment: str) -> str:
        """Runs the study to its end."""
        done = self.snakemake("--cores", "4", *arguments, **environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def todo(self, *arguments: str, **environment: str) -> set[str]:
        """The jobs that a dry run lists, as `rule wildcard ...`; less the target rule `all`, which runs nothing."""
        done = self.snakemake("--dry-run", *arguments, **environment)
        assert done.returncode == 0, done.stdout
        assert "profiles/default" in done.stdout, "the dry run did not find the checkout's profile"
        jobs = [_job(match) for match in JOB.finditer(done.stdout)]
        assert len(jobs) == len(set(jobs))
        assert bool(jobs) != (NOTHING in done.stdout), done.stdout
        return set(jobs) - {"all"}

    def error(self, *arguments: str, **environment: str) -> str:
        """What a dry run that is refused says."""
        done = self.snakemake("--dry-run", *arguments, **environment)
        assert done.returncode != 0, done.stdout
        return done.stdout

    def edit(self, file: str, old: str, new: str) -> None:
        """Replaces a text that a file of the checkout holds once."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")


def _job(match: re.Match[str]) -> str:
    """`pretrain gpt-ltd-100-s1234` of a job's block in the dry run's text."""
    if match[1].startswith("report"):
        return "report"  # of the grid asked for
    wildcards = WILDCARDS.search(match[2])
    values = [] if wildcards is None else [pair.split("=", 1)[1] for pair in wildcards[1].split(", ")]
    return " ".join([match[1], *values])


def count(jobs: set[str]) -> Counter[str]:
    """How many jobs there are of each rule."""
    return Counter(job.split()[0] for job in jobs)
