"""`dataeff canary`: minutes on the real hardware before days of it. The job of rule canary_run, one a family of models.

In the allocation that a training would get, with its command and settings: a plan of a few steps over the study's own
tokens, a training that is killed after its first checkpoint and continued, the held-out loss, one task or finetuning.
What is measured goes to a JSON file and, in a few lines for people, to a text beside it; all else is removed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.files import write_json, write_text
from dataeff.monitor.measured import Kill, measure, told
from dataeff.monitor.reading import last_rows
from dataeff.monitor.states import owner_of
from dataeff.monitor.trial import CHECKPOINT_EVERY, Trial
from dataeff.study import site
from dataeff.study import workflow as study_of
from dataeff.study.load import Study
from dataeff.study.specs import Spec, write_spec
from dataeff.tune.data import RunData

_POLL_SECONDS = 0.02
_SHUTDOWN_SECONDS = 20
"""How long the ranks that are left may take to end once one was killed: no more than is useful of a short job."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--study", type=Path, required=True, help="the frozen study (results/.study/*.json)")
    parser.add_argument("--run", required=True, help="the run whose model and method are tried")
    parser.add_argument("--results", type=Path, required=True, help="the study's results folder")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write, and a text beside it")


def run(args: argparse.Namespace) -> None:
    study = Study.thaw(args.study)
    canary = Canary(study, args.run, args.results, args.out.with_suffix(""))
    shutil.rmtree(canary.folder, ignore_errors=True)
    facts = measure(study, canary.trial, canary.folder, canary.through_all_stages(), canary.kill)
    write_json(args.out, facts)
    write_text(args.out.with_suffix(".txt"), "\n".join(told(facts)) + "\n")
    shutil.rmtree(canary.folder)
    print("\n".join(told(facts)), flush=True)


class Canary:
    """One run's canary in a folder of its own."""

    def __init__(self, study: Study, name: str, results: Path, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.run = study.find_run(name)
        self.trial = Trial.of(study, self.run)
        self.data = RunData.of(study, self.run, results)
        self.results = results
        self.model, self.state = folder / "pretrain", folder / "state/run"
        self.kill = Kill(None, None)
        self.seconds: dict[str, float] = {}

    def through_all_stages(self) -> dict[str, float]:
        """The seconds of each stage, in their order."""
        threads = ["--threads", str(self.study.hardware.threads)]
        plan = ["plan", *self._spec("plan", self.trial.plan), "--samples", str(self.data.samples)]
        indexes = ["--index", *map(str, self.data.indexes.values())] if self.data.indexes else []
        self._stage("plan", [*plan, *indexes, "--out", str(self.folder / "plan")])
        self._pretrain()
        model = ["--model", str(self.model)]
        heldout = ["evaluate", "heldout", *self._spec("heldout", self.trial.heldout), *model, *threads]
        self._stage(
            "heldout", [*heldout, "--heldout", str(self.data.heldout), "--out", str(self.folder / "heldout.json")]
        )
        if self.trial.evaluate is not None:
            asked = ["evaluate", "run", *self._spec("evaluate", self.trial.evaluate), *model, *threads]
            items = self.results / "data" / self.study.scale.corpus / "items"
            asked += self._several("--items", [items / task for task in self.trial.heldout_tasks])
            asked += self._several("--datasets", self._datasets())
            self._stage("evaluate", [*asked, *self._state_and_out("evaluate")])
        if self.trial.finetune is not None:
            tuned = ["finetune", *self._spec("finetune", self.trial.finetune), *model, *threads]
            (dataset,) = self._datasets()
            self._stage("finetune", [*tuned, "--dataset", str(dataset), *self._state_and_out("finetune")])
        return self.seconds

    def _spec(self, name: str, spec: Spec) -> list[str]:
        path = self.folder / f"specs/{name}.yaml"
        write_spec(path, spec)
        return ["--spec", str(path)]

    def _several(self, option: str, paths: Sequence[Path]) -> list[str]:
        return [option, *map(str, paths)] if paths else []

    def _datasets(self) -> list[Path]:
        return [self.results / f"data/datasets/{name}.json" for name in self.trial.datasets]

    def _state_and_out(self, stage: str) -> list[str]:
        return ["--state", str(self.folder / "state" / stage), "--out", str(self.folder / stage)]

    def _stage(self, name: str, arguments: Sequence[str]) -> None:
        self._ended(name, [sys.executable, "-m", "dataeff", *arguments])

    def _ended(self, name: str, command: Sequence[str]) -> None:
        begun = time.monotonic()
        code = subprocess.run(command, check=False).returncode
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
        if code != 0:
            raise DataeffError(
                f"canary {self.run.name}: {name} ended with code {code}, and so would a whole run here; what it said "
                f"stands above"
            )

    def _pretrain(self) -> None:
        """Kills the training after its first checkpoint, without a warning, and starts it again."""
        command, begun = self._training(), time.monotonic()
        environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_SHUTDOWN_SECONDS)}
        process = subprocess.Popen(command, env=environment)
        self.kill = self._kill_when_saved(process)
        self.seconds["pretrain"] = time.monotonic() - begun
        if self.kill.after_step is None and process.returncode != 0:
            raise DataeffError(
                f"canary {self.run.name}: pretrain ended with code {process.returncode} before its first checkpoint; "
                f"what it said stands above"
            )
        self._ended("pretrain", command)

    def _training(self) -> list[str]:
        """The command of rule pretrain: the same start on all nodes of the job, the same settings."""
        settings = {"checkpoint_every": CHECKPOINT_EVERY, "keep_every": CHECKPOINT_EVERY, "heldout_points": 1}
        hardware = self.study.hardware.model_copy(update=settings)
        options = study_of.hardware_options(self.study.model_copy(update={"hardware": hardware}))
        paths = {
            "plan": self.folder / "plan",
            "samples": self.data.samples,
            "tokenizer": self.data.tokenizer,
            "heldout": self.data.heldout,
            "state": self.state,
            "out": self.model,
        }
        words = [*shlex.split(site.training_step(hardware)), "--state", str(self.state), "dataeff", "pretrain"]
        words += self._spec("pretrain", self.trial.pretrain)
        words += [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        return [*words, *self._several("--tokens", self.data.tokens), *shlex.split(options)]

    def _kill_when_saved(self, process: subprocess.Popen[bytes]) -> Kill:
        """Kills rank 0, which runs on this node, once a checkpoint is whole; the others end without it."""
        while process.poll() is None:
            saved = any(self.state.glob("step-*"))
            owner = owner_of(self.state.with_name(f"{self.state.name}.owner")) if saved else None
            if owner is not None and owner.host == socket.gethostname():
                os.kill(owner.pid, signal.SIGKILL)
                code = process.wait()
                print(f"canary {self.run.name}: killed rank 0, process {owner.pid}; it ended with {code}", flush=True)
                rows = last_rows(self.state / "metrics.jsonl")
                return Kill(int(rows[-1]["step"]), max(int(path.name[5:]) for path in self.state.glob("step-*")))
            time.sleep(_POLL_SECONDS)
        return Kill(None, None)
