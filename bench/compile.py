"""What compiling the layers brings: a whole step with `compile: true` against one without, and what it costs.

`python bench/compile.py [--repeats N] [--threads T] [--models gpt-128,gpt-30M,bert-128]`: steps as runs make them, of
rows that are whole and of rows of which dropping layers keep 1/4, all four kinds in turns in one process. A first start
compiles with an empty cache; "again" is a second one, which finds the code in the cache. The losses of both ways are
compared step by step, or the script stops.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import Row, in_turns, print_machine, print_table, quiet
from run_inputs import Case, RunInputs

from dataeff.plan import TrainingPlan
from dataeff.pretrain import compiled
from dataeff.pretrain.engine import Ranks, start_ranks
from dataeff.pretrain.loop import Trainer
from dataeff.study.base import FamilyName
from dataeff.study.types import Hardware, Model

BATCH, WARM_UP = 8, 2
LOSS_TOLERANCE = 1e-4
"""Relative, after some updates: sums are rounded in another order."""


@dataclass(frozen=True)
class Size:
    family: FamilyName
    layers: int
    hidden: int
    length: int
    vocabulary: int
    repeats: int


SIZES = {
    "gpt-128": Size("gpt", 4, 128, 256, 4096, 20),
    "gpt-30M": Size("gpt", 8, 512, 256, 8192, 5),
    "bert-128": Size("bert", 4, 128, 128, 4096, 20),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, help="turns (default 20 of small models, 5 of the other)")
    options.add_argument("--threads", type=int, default=1, help="default 1")
    options.add_argument("--models", default=",".join(SIZES), help="default: all")
    given = options.parse_args()
    print_machine()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{name}/cache"
        hardware = Hardware(threads=given.threads, micro_batch=BATCH)
        ranks = start_ranks(hardware)
        for model in given.models.split(","):
            rows += measured(Path(name) / model, model, given.repeats, hardware, ranks)
    print_table(f"Steps of {BATCH} rows, {given.threads} thread(s)", rows, "seconds, compiled / not (quartiles)")
    torch.distributed.destroy_process_group()


def measured(folder: Path, name: str, repeats: int | None, hardware: Hardware, ranks: Ranks) -> list[Row]:
    size = SIZES[name]
    repeats = repeats or size.repeats
    model = Model(
        layers=size.layers, hidden=size.hidden, heads=size.hidden // 32, sequence_length=size.length, dropout=0.0
    )
    dropping = tuple(range(1, size.layers - 1))
    steps = 2 * (WARM_UP + repeats)
    inputs = RunInputs(folder, size.family, model, size.vocabulary, BATCH, steps, dropped_layers=dropping).make()
    plan = inputs.plan([Case(size.length, size.length // (1 + 3 * (step % 2))) for step in range(steps)])
    rows, seconds, kinds = [], [], []
    arms: dict[str, Arm] = {}
    for kind, first in (("whole rows", 0), ("1/4 kept", 1)):
        for how in ("compiled", "not"):
            hardware = hardware.model_copy(update={"compile": how == "compiled"})
            if hardware.compile:
                torch._dynamo.reset()
            before, begun = compiled.compilations(), time.monotonic()
            with quiet():
                trainer = Trainer(inputs.spec, inputs.inputs(), plan, folder / f"{kind} {how}", hardware, ranks, {})
            seconds.append(time.monotonic() - begun)
            kinds.append(compiled.compilations() - before)
            arms[f"{kind}, {how}"] = Arm(trainer, plan, first)
    turns = in_turns(repeats, arms, WARM_UP)
    for kind in ("whole rows", "1/4 kept"):
        ours, peer = f"{kind}, compiled", f"{kind}, not"
        check_losses(arms[ours].losses, arms[peer].losses, f"{name}, {kind}")
        ratio, processor = turns.ratio(ours, peer), turns.processor_ratio(ours, peer)
        texts = [f"{turns.median(arm):.4f} s" for arm in (ours, peer)]
        what = f"{name}: {kind} (processor time {processor.median:.3f}x)"
        rows.append(Row(what, *texts, ratio.median, "below 1x", ratio.quartiles))
    start, again, plain = seconds[0], seconds[2], seconds[1]
    what = f"{name}: start with an empty cache, and again; {kinds[0]} compilations"
    return [*rows, Row(what, f"{start:.1f} s, {again:.1f} s", f"{plain:.1f} s", None, "")]


class Arm:
    """Every second step of a run, from `first` on."""

    def __init__(self, trainer: Trainer, plan: TrainingPlan, first: int) -> None:
        self._trainer = trainer
        self._steps = iter(list(enumerate(plan.order.iterate()))[first::2])
        self.losses: list[float] = []

    def __call__(self) -> None:
        self.losses.append(self._trainer.step(*next(self._steps))["loss"])


def check_losses(found: list[float], expected: list[float], what: str) -> None:
    worst = max(abs(one - other) / other for one, other in zip(found, expected, strict=True))
    if worst > LOSS_TOLERANCE:
        sys.exit(f"{what}: losses differ by {worst:.1e} of themselves, more than {LOSS_TOLERANCE}")


if __name__ == "__main__":
    main()
