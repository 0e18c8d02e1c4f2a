"""Studies on the virtual cluster: a checkout, Snakemake started in it as a user does, and what its training did."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dataeff.study.site import PREFIX
from dataeff.study.workflow import FROZEN
from tests.factory import ROOT
from tests.slurm.cluster import Cluster

PARTS = ("Snakefile", "workflow", "config", "profiles", "slurm")
CHECK_SECONDS = 3
RUN = "gpt-ltd-100-s1234"
RESULT = f"results/drill/pretrain/{RUN}/run.json"
DRILL: dict[str, Any] = {
    "scale": "drill",
    "grid": "one",
    "grids": {"one": [{"family": "gpt", "variants": ["ltd"]}]},
    # 220 steps without dropout, at a rate that does not amplify how several ranks round.
    "scales": {
        "drill": {
            "extends": "smoke",
            "families": {
                "gpt": {
                    "train_tokens": 204800,
                    "batch_size": 4,
                    "learning_rate": {"peak": 3.0e-4, "minimum": 3.0e-6},
                    "model": {"dropout": 0.0},
                }
            },
        }
    },
    "hardware": {"checkpoint_every": 5, "minutes": 30, "memory_mb": 3000},
}


class Study:
    """A folder with the tracked parts of the repository and a configuration."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, folder / part)
        self.configure(config)

    def configure(self, config: dict[str, Any]) -> None:
        (self.folder / "study.yaml").write_text(yaml.safe_dump(config))

    def snakemake(self, *arguments: str, **environment: str) -> str:
        """Runs `snakemake ARGUMENTS` to its end; what it said."""
        return Started(self, arguments, environment).finish()

    @property
    def state(self) -> Path:
        return self.folder / f"results/drill/state/{RUN}"

    @property
    def log(self) -> str:
        path = self.folder / f"results/drill/logs/pretrain/{RUN}.log"
        return path.read_text() if path.exists() else ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What each step told, of the run that is finished."""
        lines = (self.folder / RESULT).with_name("metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for row in self.rows]

    def is_past(self, steps: int) -> bool:
        """Whether a checkpoint of that many steps or more is there."""
        return max((int(path.name.removeprefix("step-")) for path in self.state.glob("step-*")), default=0) >= steps


class Started:
    """A Snakemake at work. The last words of what it and its jobs said go with a failing test."""

    def __init__(self, study: Study, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.study = study
        self.said = study.folder / "said.txt"
        inherited = {key: value for key, value in os.environ.items() if key != FROZEN and not key.startswith(PREFIX)}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {"PATH": path, "DS_ACCELERATOR": "cpu", f"{PREFIX}CHECK_SECONDS": str(CHECK_SECONDS)}
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", *arguments],
                cwd=study.folder,
                env={**inherited, **own, **environment},
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, seconds: float = 400) -> str:
        status = self.process.wait(timeout=seconds)
        assert status == 0, self.all_said()
        return self.said.read_text()

    def kill(self) -> None:
        """kill -9, and nothing else: its jobs stay."""
        self.process.kill()
        self.process.wait()

    def wait(self, condition: Callable[[], bool], otherwise: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.all_said()
            assert time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s\n{self.all_said()}"
            time.sleep(0.05)

    def wait_for_steps(self, steps: int = 5) -> None:
        self.wait(lambda: self.study.is_past(steps), f"no step {steps}")

    def all_said(self) -> str:
        logs = sorted((self.study.folder / ".snakemake/slurm_logs").rglob("*.log"))
        told = [f"== {path.name}\n{path.read_text()[-3000:]}" for path in logs]
        return "\n".join([self.said.read_text()[-6000:], *told, "== training", self.study.log[-3000:]])


def training_job(cluster: Cluster) -> int:
    """The id of the training's job that is in the queue."""
    said = cluster.command("squeue", "-h", "-t", "PD,R,CG", "-o", "%i %k")
    found = [int(job) for job, comment in (line.split() for line in said.splitlines()) if "rule_pretrain" in comment]
    assert len(found) == 1, said
    return found[0]
