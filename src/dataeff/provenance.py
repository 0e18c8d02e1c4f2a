"""What a result was made with: package versions, machine and commit, recorded in every results file.

Versions come from the installed packages' metadata and the graphics card from its driver's own tool, so that
nothing heavy is imported to write them down.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from dataeff.study.base import Frozen

PACKAGES = ("torch", "transformers", "tokenizers", "lm_eval", "deepspeed", "numpy")


class Machine(Frozen):
    """The hardware that a result was made on."""

    cpu: str
    cores: int
    gpu: str | None

    def in_words(self) -> str:
        """For people: `NVIDIA H200, Intel Xeon, 16 cores`."""
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        return ", ".join([*([self.gpu] if self.gpu else []), f"{self.cpu}, {cores}"])


class Provenance(Frozen):
    """Software versions (those that are installed), the machine, and the project's commit."""

    software: dict[str, str]
    hardware: Machine
    commit: str | None


def provenance() -> Provenance:
    """What this process runs with; `.model_dump()` is what a results file holds."""
    return Provenance(
        software={"python": platform.python_version(), **_versions()},
        hardware=Machine(cpu=_cpu(), cores=os.cpu_count() or 1, gpu=_gpu()),
        commit=_commit(Path(__file__).resolve().parents[2]),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    return _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])


def _commit(project: Path) -> str | None:
    """The checked-out commit, with `-dirty` where tracked files differ from it; None outside a checkout."""
    if not (project / ".git").exists() or shutil.which("git") is None:
        return None
    return _output(["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])


def _output(command: list[str]) -> str | None:
    """The first line of what a command prints; None where it fails (no driver, no commit yet)."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.split("\n")[0].strip() or None) if done.returncode == 0 else None
