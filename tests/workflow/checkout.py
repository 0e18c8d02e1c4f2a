"""A user's checkout to run Snakemake in: Snakefile, rules, profiles/ and config/, copied to a folder of its own.

Its jobs' commands go to stand_in.py, or to the real `dataeff` where a test asks for it. What Snakemake would run is
read from its dry run, job by job.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from dataeff.study.workflow import FROZEN
from tests.factory import ROOT

PARTS = ("Snakefile", "workflow", "config", "profiles")
NOTHING = "Nothing to be done (all requested files are present and up to date)."
JOB = re.compile(r"^Job \d+: (.*)$", re.MULTILINE)
STATS = re.compile(r"^Job stats:\njob +count\n-+ +-+\n((?:\S+ +\d+\n)*)", re.MULTILINE)


class Starter:
    """Starts Snakemake in a folder (zygote.py), with `dataeff` as the stand-in where `commands` names its folder."""

    def __init__(self, output: Path, commands: Path | None = None) -> None:
        self.output, self.commands = output, commands
        self.zygote = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def environment(self, **changes: str) -> dict[str, str]:
        folders = [] if self.commands is None else [str(self.commands)]
        folders += [str(Path(sys.executable).parent), os.environ["PATH"]]
        inherited = {name: value for name, value in os.environ.items() if name != FROZEN}
        return {**inherited, "PATH": os.pathsep.join(folders), **changes}

    def start(self, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str]:
        request = {"folder": str(folder), "arguments": arguments, "output": str(self.output)}
        assert self.zygote.stdin is not None
        assert self.zygote.stdout is not None
        self.zygote.stdin.write(json.dumps({**request, "environment": self.environment(**environment)}) + "\n")
        return int(self.zygote.stdout.readline()), self.output.read_text(encoding="utf-8")

    def close(self) -> None:
        self.zygote.communicate(timeout=60)


class Checkout:
    """One folder with the tracked parts of the repository, and Snakemake started in it as a user does."""

    def __init__(self, folder: Path, starter: Starter, source: Path = ROOT) -> None:
        self.folder, self.starter = folder, starter
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            copy = shutil.copytree if (source / part).is_dir() else shutil.copy2
            copy(source / part, folder / part)

    def copy_to(self, folder: Path) -> Checkout:
        """The same checkout in another folder, with its results and Snakemake's records of them."""
        copied = Checkout(folder, self.starter, self.folder)
        for part in ("results", ".snakemake"):
            shutil.copytree(self.folder / part, folder / part)
        return copied

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def snakemake(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Runs `snakemake ARGUMENTS`: its exit status and all that it said."""
        return self.starter.start(self.folder, arguments, environment)

    def run(self, *arguments: str, **environment: str) -> str:
        """Runs the study to its end."""
        status, said = self.snakemake("--cores", "4", *arguments, **environment)
        assert status == 0, said
        return said

    def dry_run(self, *arguments: str, **environment: str) -> str:
        status, said = self.snakemake("--dry-run", *arguments, **environment)
        assert status == 0, said
        return said

    def todo(self, *arguments: str, **environment: str) -> set[str]:
        """The jobs that a dry run lists, as it names them; less the grid itself, which runs nothing."""
        said = self.dry_run(*arguments, **environment)
        assert "profiles/default" in said, "the dry run did not find the checkout's profile"
        jobs, counts = JOB.findall(said), self.counts(said)
        assert len(jobs) == len(set(jobs)) == counts.total(), said
        assert bool(jobs) != (NOTHING in said), said
        return {job for job in jobs if not job.startswith("grid ")}

    @staticmethod
    def counts(said: str) -> Counter[str]:
        """How many jobs of each rule the table of a dry run tells of."""
        table = STATS.search(said)
        rows = {} if table is None else dict(line.split() for line in table[1].splitlines())
        return Counter({rule: int(count) for rule, count in rows.items() if rule != "total"})

    def error(self, *arguments: str, **environment: str) -> str:
        """What a dry run that is refused says."""
        status, said = self.snakemake("--dry-run", *arguments, **environment)
        assert status != 0, said
        return said

    def edit(self, file: str, key: str, value: Any) -> Any:
        """Sets the value at a dotted key of a file of config/; returns the old one. Comments and layout are lost."""
        path = self.folder / "config" / file
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        *parents, last = key.split(".")
        place = reduce(getitem, parents, content)
        old = place[last]
        assert old != value, f"{file}: {key} is {value!r} already"
        place[last] = value
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return old
