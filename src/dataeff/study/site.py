"""What SLURM is asked for: a job's resources from the scale's hardware, and the site's own names from the environment.

The profile slurm/config.yaml lists the variables. They are no configuration of the study: a study is the same on every
cluster, and no job runs again because a partition has another name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from dataeff.errors import DataeffError, unknown_name
from dataeff.study.types import Hardware

PREFIX = "DATAEFF_SLURM_"
LEAST_MEMORY_MB = 500
"""What a job needs beside its work: Snakemake runs twice in it."""
WARNING_SECONDS = 600
"""How long before the time limit SLURM warns a training, at most; a quarter of short limits."""

Resource = int | str | Callable[..., int]


@dataclass(frozen=True)
class Site:
    """A cluster as its user describes it; what is None is left to SLURM's defaults."""

    partition: str | None = None
    cpu_partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    extra: str = ""
    minutes: int | None = None
    memory_mb: int | None = None
    retries: int = 2
    jobs: int = 200
    check_seconds: int = 40

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """From the variables DATAEFF_SLURM_*; one that is empty counts as absent."""
        typed: dict[str, Any] = {}
        given = {name.removeprefix(PREFIX): text for name, text in environment.items() if name.startswith(PREFIX)}
        known = {field.name.upper(): field.name for field in fields(cls)}
        for name, text in given.items():
            if name not in known:
                raise unknown_name("variable", PREFIX + name, [PREFIX + other for other in known], "environment")
            if text:
                typed[known[name]] = _typed(known[name], text)
        return cls(**typed)

    def default_resources(self) -> dict[str, str | int]:
        """What every job asks for, as the profile gives it: Snakemake evaluates texts, so they are quoted."""
        named = {
            "slurm_partition": self.cpu_partition or self.partition,
            "slurm_account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "slurm_extra": self.extra or None,
        }
        return {"nodes": 1} | {name: repr(text) for name, text in named.items() if text}

    def partition_of(self, hardware: Hardware) -> str | None:
        """Where trainings go: those without GPUs with all else that has none."""
        return (self.partition if hardware.gpus else None) or self.cpu_partition or self.partition

    def minutes_of(self, wanted: int) -> int:
        """A time limit that the partition allows; trainings continue in another job, all else is short."""
        return min(wanted, self.minutes) if self.minutes else wanted


_NUMBERS = ("minutes", "memory_mb", "retries", "jobs", "check_seconds")


def _typed(name: str, text: str) -> str | int:
    if name not in _NUMBERS:
        return text
    if not text.isdecimal() or (int(text) == 0 and name != "retries"):
        raise DataeffError(f"environment variable {PREFIX}{name.upper()} is '{text}'; a whole number is needed")
    return int(text)


def here() -> Site:
    """The site that this process' environment describes."""
    return Site.of(os.environ)


def job(hardware: Hardware, memory_mb: int, *, site: Site | None = None) -> dict[str, Resource]:
    """A job on CPUs. `memory_mb`: what its first attempt gets at small scales; where ranks are given more, so is it."""
    site = site or here()
    return {
        "mem_mb": _growing(max(memory_mb, hardware.memory_mb // 4), site),
        "runtime": site.minutes_of(hardware.minutes),
    }


def model_job(hardware: Hardware, memory_mb: int, *, site: Site | None = None) -> dict[str, Resource]:
    """A job that runs a model in one process: on a GPU where the scale's trainings have them."""
    site = site or here()
    resources = job(hardware, max(memory_mb, hardware.memory_mb), site=site)
    return resources | _on_gpus(1, site) if hardware.gpus else resources


def training_job(hardware: Hardware, *, site: Site | None = None) -> dict[str, Resource]:
    """A pretraining: all of its nodes in one job, whose own step starts the ranks (pretrain/slurm.py).

    The resource `mpi`, even empty, keeps Snakemake's executor from starting a step of one node, and SLURM's warning
    from ending Snakemake itself: it goes to steps alone. GPUs are counted twice since SLURM, told their sum alone, may
    share them out unevenly.
    """
    site = site or here()
    resources = job(hardware, hardware.memory_mb * hardware.processes, site=site)
    resources |= {"nodes": hardware.nodes, "tasks": hardware.nodes, "mpi": ""}
    runtime = site.minutes_of(hardware.minutes)
    extra = [site.extra, f"--signal=USR1@{min(WARNING_SECONDS, runtime * 60 // 4)}"]
    if hardware.gpus:
        resources |= _on_gpus(hardware.nodes * hardware.gpus, site) | {"tasks_per_gpu": 0}
        kind = f"{site.gpu_type}:" if site.gpu_type else ""
        extra.append(f"--gpus-per-node={kind}{hardware.gpus}")
    return resources | {"slurm_extra": " ".join(filter(None, extra))}


def _on_gpus(count: int, site: Site) -> dict[str, Resource]:
    named: dict[str, Resource] = {"gpu": count}
    if site.gpu_type:
        named["gpu_model"] = site.gpu_type
    if site.partition:
        named["slurm_partition"] = site.partition
    return named


def _growing(memory_mb: int, site: Site) -> Callable[..., int]:
    """Half as much again with every attempt, up to what a node of the site has."""

    def of(wildcards: Any, attempt: int) -> int:
        wanted = (LEAST_MEMORY_MB + memory_mb) * (attempt + 1) // 2
        return min(wanted, site.memory_mb) if site.memory_mb else wanted

    return of


def training_step(hardware: Hardware) -> str:
    """What stands before `dataeff pretrain` in the rule: in a SLURM job, the step that starts it on all nodes."""
    cpus = hardware.threads * hardware.processes
    return f"python -m dataeff.pretrain.slurm --nodes {hardware.nodes} --processes {hardware.processes} --cpus {cpus}"
