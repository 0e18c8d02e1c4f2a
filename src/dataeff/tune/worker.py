"""The process of one short training: the real loop over a cut plan, which tells divergence from other failures.

Run in a process of its own, so that a training leaves nothing behind in memory and may be killed like any other, and
started once per rank by torchrun where the hardware has several: `python -m dataeff.tune.worker FOLDER`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.study.load import validate
from dataeff.study.specs import PretrainSpec, read_spec
from dataeff.study.types import Hardware

JOB, SPEC, LOG, DIVERGED = "job.json", "pretrain.yaml", "log", "diverged.json"
PLAN, STATE, TRAINED = "plan", "state", "trained"


class _Diverged(Exception):
    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step = step


def start(folder: str) -> None:
    """What a process of the search runs: output goes to the folder's log; ends the process with 0 or 1."""
    with (Path(folder) / LOG).open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    hardware = _hardware(Path(folder))
    if hardware.processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={hardware.processes}"]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "dataeff.tune.worker", folder])
    main([folder])


def main(arguments: list[str]) -> None:
    try:
        _train(Path(arguments[0]))
    except DataeffError as error:
        sys.exit(f"dataeff: error: {error}")


def _hardware(folder: Path) -> Hardware:
    return validate(Hardware, read_json(folder / JOB)["hardware"], str(folder / JOB))


def _train(folder: Path) -> None:
    import torch

    from dataeff.pretrain.engine import start_ranks
    from dataeff.pretrain.owner import owned

    started = time.monotonic()
    ranks = start_ranks(_hardware(folder))
    try:
        if ranks.rank == 0:
            # A training that outlived its search would write the same files.
            with owned(folder / f"{STATE}.owner"):
                _loop(folder, ranks, started)
        else:
            _loop(folder, ranks, started)
    finally:
        torch.distributed.destroy_process_group()


def _loop(folder: Path, ranks: Any, started: float) -> None:
    from dataeff.analyze.compiled import keep_compiled
    from dataeff.plan import TrainingPlan
    from dataeff.pretrain.finish import is_finished
    from dataeff.pretrain.loop import Inputs, Trainer

    keep_compiled()

    class Watched(Trainer):
        """The loop as it is; a loss that is not finite ends it with its step."""

        def _check_finite(self, loss: float, step: int, ids: Any) -> None:
            try:
                super()._check_finite(loss, step, ids)
            except DataeffError as error:
                raise _Diverged(step + 1, str(error)) from None

    job = read_json(folder / JOB)
    spec, plan = read_spec(folder / SPEC, PretrainSpec), TrainingPlan.load(folder / PLAN)
    tokens = [Path(prefix) for prefix in job["tokens"]]
    places = (Path(job[name]) for name in ("tokenizer", "heldout"))
    inputs = Inputs(folder / PLAN, Path(job["samples"]), tokens, *places)
    identity = {"spec_digest": spec.digest, "plan_digest": plan.digest}
    ranks.barrier()
    if is_finished(folder / TRAINED, identity):
        return
    try:
        Watched(spec, inputs, plan, folder / STATE, _hardware(folder), ranks, identity).train(folder / TRAINED, started)
    except _Diverged as error:
        if ranks.rank == 0:
            write_json(folder / DIVERGED, {"step": error.step, "message": str(error)})


if __name__ == "__main__":
    main(sys.argv[1:])
