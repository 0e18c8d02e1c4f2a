"""doctor: SLURM's commands, the partition that trainings would go to, its time limit and GPUs, and what sbatch says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from dataeff.monitor.finding import Finding, ok, problem, warning
from dataeff.study.load import Study
from dataeff.study.site import Site, training_job
from dataeff.study.types import Hardware

COMMANDS = ("sbatch", "squeue", "scancel", "srun", "scontrol", "sinfo")
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Partition:
    """One row of sinfo: nodes of a partition that are alike. `minutes` is None where there is no limit."""

    name: str
    is_default: bool
    is_up: bool
    minutes: int | None
    nodes: int
    gpus: int


def slurm(study: Study, site: Site, *, wanted: bool) -> Iterator[Finding]:
    """`wanted`: whether a site without SLURM is at fault."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if len(missing) == len(COMMANDS):
        if wanted:
            yield problem("SLURM", "none of its commands is here", "go to a login node, or load the site's module")
        else:
            yield ok("SLURM", "not here; --profile slurm is for machines that have it")
        return
    if missing:
        yield problem("SLURM", f"{', '.join(missing)} not found", "load the site's module for SLURM, or mend PATH")
        return
    yield _plugin()
    said = _ask(["sinfo", "--noheader", "--format=%P|%a|%l|%D|%G"])
    queue = _ask(["squeue", "--noheader", "--me", "--format=%i"])
    if said is None or queue is None:
        yield problem("SLURM", "sinfo or squeue does not answer", "its controller may be down; ask the site")
        return
    yield from of_partitions(partitions(said.splitlines()), study.hardware, site)
    yield _accounting()
    yield _submission(study.hardware, site)


def partitions(lines: Sequence[str]) -> list[Partition]:
    """The rows of `sinfo --format=%P|%a|%l|%D|%G`."""
    found = []
    for line in lines:
        name, up, limit, nodes, gres = (part.strip() for part in line.split("|"))
        found.append(
            Partition(name.rstrip("*"), name.endswith("*"), up == "up", minutes_of(limit), int(nodes), gpus_of(gres))
        )
    return found


def minutes_of(text: str) -> int | None:
    """Of SLURM's `1-02:00:00`, `2:30:00`, `30:00`; None for `infinite`."""
    days, _, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]):
        return None
    seconds = sum(int(part) * int(60**place) for place, part in enumerate(reversed(parts)))
    return int(days or 0) * 1440 + seconds // 60


def gpus_of(gres: str) -> int:
    """`gpu:h100:8(S:0-1),shard:4` -> 8."""
    counts = [entry.split("(")[0].split(":")[-1] for entry in gres.split(",") if entry.startswith("gpu")]
    return sum(int(count) if count.isdecimal() else 1 for count in counts)


def of_partitions(found: Sequence[Partition], hardware: Hardware, site: Site) -> Iterator[Finding]:
    """Whether the trainings of this hardware fit the partition that they would go to."""
    names = list(dict.fromkeys(part.name for part in found))
    wanted = site.partition_of(hardware)
    rows = [part for part in found if (part.name == wanted if wanted else part.is_default)]
    if not rows:
        said = f"no partition '{wanted}'" if wanted else "SLURM has no default partition"
        variable = "DATAEFF_SLURM_CPU_PARTITION" if wanted and wanted != site.partition else "DATAEFF_SLURM_PARTITION"
        yield problem("partition", said, f"set {variable} to one of: {', '.join(names)}")
        return
    name = rows[0].name
    if not any(part.is_up for part in rows):
        yield problem(
            "partition", f"{name} is not up", f"set DATAEFF_SLURM_PARTITION to another of: {', '.join(names)}"
        )
    fitting = sum(part.nodes for part in rows if part.gpus >= hardware.gpus)
    if fitting < hardware.nodes:
        gpus = f" with {hardware.gpus} GPUs" if hardware.gpus else ""
        yield problem(
            "partition",
            f"{name} has {fitting} nodes{gpus}; a training takes {hardware.nodes}",
            "set hardware: nodes, processes and gpus to what it has, or DATAEFF_SLURM_PARTITION to another",
        )
    else:
        yield ok("partition", f"{name}: {fitting} nodes that fit, {hardware.nodes} x {hardware.gpus} GPUs a training")
    yield _limit(name, min((part.minutes for part in rows if part.minutes), default=None), hardware, site)


def _limit(name: str, limit: int | None, hardware: Hardware, site: Site) -> Finding:
    asked = site.minutes_of(hardware.minutes)
    if limit is not None and asked > limit:
        return problem(
            "time limit",
            f"trainings ask for {asked} minutes, {name} allows {limit}",
            f"set DATAEFF_SLURM_MINUTES={limit}: a training continues in the next job",
        )
    return ok("time limit", f"trainings ask for {asked} minutes, {name} allows {limit or 'any'}")


def _plugin() -> Finding:
    try:
        return ok(
            "SLURM plugin", f"snakemake-executor-plugin-slurm {metadata.version('snakemake-executor-plugin-slurm')}"
        )
    except metadata.PackageNotFoundError:
        return problem("SLURM plugin", "snakemake-executor-plugin-slurm is not installed", "make setup")


def _accounting() -> Finding:
    """Nothing here needs the accounting database."""
    works = shutil.which("sacct") is not None and _ask(["sacct", "--noheader", "--format=jobid"]) is not None
    return ok("accounting", "sacct answers" if works else "sacct is off, which is fine: the profile asks squeue")


def _submission(hardware: Hardware, site: Site) -> Finding:
    """What sbatch says to a training's resources, without submitting anything."""
    asked: dict[str, Any] = training_job(hardware, site=site)
    words = ["sbatch", "--test-only", f"--nodes={hardware.nodes}", "--ntasks-per-node=1"]
    words += [f"--cpus-per-task={hardware.threads * hardware.processes}"]
    words += [f"--mem={asked['mem_mb'](None, attempt=1)}", f"--time={asked['runtime']}"]
    kind = f"{site.gpu_type}:" if site.gpu_type else ""
    words += [f"--gpus-per-node={kind}{hardware.gpus}"] if hardware.gpus else []
    named = {
        "partition": site.partition_of(hardware),
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
    }
    words += [f"--{name}={value}" for name, value in named.items() if value]
    done = subprocess.run([*words, *site.extra.split(), "--wrap=true"], capture_output=True, text=True, check=False)
    said = " ".join((done.stderr or done.stdout).split())
    if done.returncode != 0:
        remedy = "set the DATAEFF_SLURM_* variables (slurm/config.yaml lists them) or hardware: of the study"
        return problem("a training's job", f"sbatch refuses it: {said[:200]}", remedy)
    if "account" in said.lower() and "invalid" in said.lower():
        return warning("a training's job", said[:200], "set DATAEFF_SLURM_ACCOUNT")
    return ok("a training's job", f"sbatch would take it ({' '.join(words[2:])})")


def _ask(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
