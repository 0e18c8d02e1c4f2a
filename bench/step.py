"""What the loop costs: our whole step against a bare loop, and against DeepSpeed's engine alone.

`python bench/step.py [--repeats N] [--threads T] [--sizes 1.35M,30M] [--dropout P]`: the same GPT-2 with the same
weights on the same rows, three times in one process, in turns:

- whole: a step as a run makes it (row of the plan, samples, micro-batch, engine, optimizer, row of metrics);
- engine: DeepSpeed's forward, backward and step, on rows read beforehand;
- bare: torch's AdamW with the same groups and gradient clipping on rows read beforehand, nothing else.

All three give the same losses step by step, or the script stops. Logs, checkpoints and held-out loss are timed apart,
in a short run of its own, as shares of a run of scale tiny. All three profit from what the start of our loop tells the
C library about memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, in_turns, print_machine, print_table, quiet
from run_inputs import RunInputs
from torch import Tensor, nn
from torch.nn import functional

from dataeff import keyed
from dataeff.families.batch import Cut
from dataeff.plan import TrainingPlan
from dataeff.pretrain.engine import Ranks, start_ranks
from dataeff.pretrain.loop import Trainer
from dataeff.study.types import Hardware, Model

LENGTH, BATCH = 256, 8
LOSS_TOLERANCE = 1e-6
"""Relative. The three sum the same numbers in the same order: seen are differences of the last bits at most."""
TINY_STEPS, TINY_CHECKPOINTS, TINY_POINTS = 220, 4, 10
"""Of scale tiny: its runs save every 50 steps and take the held-out loss at ten points."""
SHORT_STEPS, SHORT_CHECKPOINTS, SHORT_POINTS = 12, 2, 2


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int
    vocabulary: int
    goal: str


SIZES = {"1.35M": Size(4, 128, 4096, "at most 1.08x"), "30M": Size(8, 512, 8192, "at most 1.02x")}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, help="turns (default 40 at 1.35M, 6 at 30M)")
    options.add_argument("--threads", type=int, default=1, help="default 1")
    options.add_argument("--sizes", default=",".join(SIZES), help="default: all")
    options.add_argument("--dropout", type=float, default=0.0, help="default 0, as at scale tiny")
    given = options.parse_args()
    print_machine()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        hardware = Hardware(threads=given.threads, micro_batch=BATCH)
        ranks = start_ranks(hardware)
        for size in given.sizes.split(","):
            repeats = given.repeats or (40 if size == "1.35M" else 6)
            rows += measured(Path(name) / size, size, repeats, given.dropout, hardware, ranks)
    print_table(f"A step of {BATCH} x {LENGTH}, {given.threads} thread(s)", rows, "seconds, ours / peer (quartiles)")
    torch.distributed.destroy_process_group()


def measured(folder: Path, size: str, repeats: int, dropout: float, hardware: Hardware, ranks: Ranks) -> list[Row]:
    shape, warm_up = SIZES[size], 2
    model = Model(layers=shape.layers, hidden=shape.hidden, heads=4, sequence_length=LENGTH, dropout=dropout)
    inputs = RunInputs(folder, "gpt", model, shape.vocabulary, BATCH, warm_up + repeats).make()
    plan = TrainingPlan.load(folder / "plan")
    with quiet():
        trainers = [
            Trainer(inputs.spec, inputs.inputs(), plan, folder / name, hardware, ranks, {}) for name in ("whole", "two")
        ]
    whole, engine, bare = Whole(trainers[0]), Engine.of(trainers[1]), Bare.of(trainers[1])
    turns = in_turns(repeats, {"whole": whole, "engine": engine, "bare": bare}, warm_up)
    check_losses({"engine": engine.losses, "bare": bare.losses}, whole.losses)
    step = turns.median("whole")
    what = f"{trainers[0].parameters / 1e6:.3g}M parameters"
    pairs = [
        ("whole step against a bare loop", "whole", "bare", shape.goal),
        ("DeepSpeed's engine alone against a bare loop", "engine", "bare", ""),
        ("whole step against the engine alone", "whole", "engine", ""),
    ]
    rows = []
    for name, one, other, goal in pairs:
        ratio, texts = turns.ratio(one, other), (f"{turns.median(arm):.4f} s" for arm in (one, other))
        rows.append(Row(f"{what}: {name}", *texts, ratio.median, goal, ratio.quartiles))
        ratio = turns.processor_ratio(one, other)
        rows.append(Row(f"{what}: the same, processor time", "", "", ratio.median, "", ratio.quartiles))
    read = data_seconds(trainers[0], repeats)
    rows.append(share(f"{what}: plan, order and samples", read, step, "at most 1%"))
    if size == "1.35M":
        rows += shares_of_a_run(folder, model, shape, hardware, ranks, step)
    return rows


def share(what: str, part: float, step: float, goal: str) -> Row:
    return Row(what, f"{1e3 * part:.2f} ms: {part / step:.2%}", f"step {1e3 * step:.1f} ms", None, goal)


class Whole:
    """Our loop's step: it reads its row of the plan and its samples, and returns its row of metrics."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._steps = trainer, enumerate(trainer.plan.order.iterate())
        self.losses: list[float] = []

    def __call__(self) -> None:
        step, ids = next(self._steps)
        self.losses.append(self._trainer.step(step, ids)["loss"])


class Rows:
    """The rows of all steps, read beforehand, with their rate and seed."""

    def __init__(self, trainer: Trainer) -> None:
        order = trainer.plan.order.iterate()
        batches = [torch.from_numpy(trainer.samples.read(ids)) for ids in order]
        rates = trainer.plan.steps["learning_rate"].tolist()
        seeds = [keyed.key(trainer.spec.run.seed, "dropout", step, 0) for step in range(len(batches))]
        self._steps = zip(batches, rates, seeds, strict=True)

    def next(self, optimizer: torch.optim.Optimizer) -> Tensor:
        tokens, rate, seed = next(self._steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(seed)
        return tokens


def loss_sum(network: Callable[..., Any], tokens: Tensor) -> Tensor:
    logits = network(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


@dataclass
class Engine:
    """DeepSpeed's engine, and nothing of our loop."""

    engine: Any
    rows: Rows
    losses: list[float]

    @classmethod
    def of(cls, trainer: Trainer) -> Engine:
        return cls(trainer.engine, Rows(trainer), [])

    def __call__(self) -> None:
        tokens = self.rows.next(self.engine.optimizer)
        total = loss_sum(self.engine, tokens)
        self.engine.backward(total / (BATCH * LENGTH))
        self.engine.step()
        self.losses.append(float(total.detach()) / (BATCH * LENGTH))


@dataclass
class Bare:
    """A plain torch loop."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    clip: float
    rows: Rows
    losses: list[float]

    @classmethod
    def of(cls, trainer: Trainer) -> Bare:
        """With the weights that the trainer begins with, in the precision of its own, fp32."""
        spec = trainer.spec
        torch.manual_seed(keyed.key(spec.run.seed, "initial weights"))
        network = trainer.family.build_model(spec.model)
        groups = [
            {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": spec.adam.weight_decay},
            {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        betas = spec.adam.beta1, spec.adam.beta2
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=spec.adam.epsilon)
        return cls(network.train(), optimizer, spec.adam.clip, Rows(trainer), [])

    def __call__(self) -> None:
        tokens = self.rows.next(self.optimizer)
        total = loss_sum(self.network, tokens)
        (total / (BATCH * LENGTH)).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(float(total.detach()) / (BATCH * LENGTH))


def check_losses(others: dict[str, list[float]], ours: list[float]) -> None:
    for name, losses in others.items():
        wrong = [
            f"step {step + 1}: {one} and {other}"
            for step, (one, other) in enumerate(zip(ours, losses, strict=True))
            if abs(one - other) > LOSS_TOLERANCE * abs(other)
        ]
        if wrong:
            sys.exit(f"our loss differs from that of {name} at {len(wrong)} of {len(ours)} steps: {wrong[0]}")
    equal = sum(len(set(found)) == 1 for found in zip(ours, *others.values(), strict=True))
    print(
        f"losses of {len(ours)} steps from {ours[0]:.4f} to {ours[-1]:.4f}; {equal} equal to the last bit in all three"
    )


def data_seconds(trainer: Trainer, steps: int) -> float:
    """Of a step: its row of the plan, its ids, its samples, its micro-batch; the median over the run's steps."""
    seconds, order = [], trainer.plan.order.iterate()
    for step in range(steps):
        start = time.perf_counter()
        row = trainer.plan.steps.iloc[step]
        ids = next(order)
        cut = Cut(int(row["sequence_length"]), None, False, trainer.spec.run.seed, step)
        batch = trainer.family.step_batch(trainer.samples, ids, cut)
        batch.part(np.arange(batch.rows), "cpu")
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def shares_of_a_run(
    folder: Path, model: Model, shape: Size, hardware: Hardware, ranks: Ranks, step: float
) -> list[Row]:
    """Logging, checkpoints and held-out loss of a run of scale tiny, from a short run with the same model."""
    inputs = RunInputs(folder / "short", "gpt", model, shape.vocabulary, BATCH, SHORT_STEPS).make()
    every = SHORT_STEPS // (SHORT_CHECKPOINTS + 1)
    often = hardware.model_copy(update={"checkpoint_every": every, "heldout_points": SHORT_POINTS})
    plan = TrainingPlan.load(inputs.folder / "plan")
    order = Followed(plan.order)
    plan = dataclasses.replace(plan, order=order)
    with quiet():
        trainer = Trainer(inputs.spec, inputs.inputs(), plan, folder / "state", often, ranks, {})
        steps = Followed(trainer)
        trainer.step = steps.step
        trainer.train(folder / "out", time.monotonic())
    checkpoint, heldout = trainer.seconds["checkpoint"], trainer.seconds["heldout"]
    logging = (order.until - order.since - order.seconds - steps.seconds - checkpoint - heldout) / SHORT_STEPS
    each = {
        f"logs, progress and watch, {TINY_STEPS} steps": TINY_STEPS * logging,
        f"{TINY_CHECKPOINTS} checkpoints": TINY_CHECKPOINTS * checkpoint / SHORT_CHECKPOINTS,
        f"{TINY_POINTS} held-out losses": TINY_POINTS * heldout / SHORT_POINTS,
    }
    training, beside = TINY_STEPS * step, sum(each.values())
    rows = [
        Row(f"a run of scale tiny: {name}", f"{part:.2f} s: {part / (training + beside):.2%}", "", None, "")
        for name, part in each.items()
    ]
    share = f"{beside:.2f} s: {beside / (training + beside):.2%}"
    return [*rows, Row("a run of scale tiny: all of these", share, f"steps {training:.1f} s", None, "under 3%")]


class Followed:
    """An order of samples, or a trainer, with the time that is spent in it: what is left of a run is its logging."""

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped
        self._step = getattr(wrapped, "step", None)
        self.seconds = self.since = self.until = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def iterate(self, first: int = 0) -> Iterator[Any]:
        self.since = time.perf_counter()
        found = self._wrapped.iterate(first)
        while True:
            start = time.perf_counter()
            ids = next(found, None)
            self.seconds += time.perf_counter() - start
            if ids is None:
                break
            yield ids
        self.until = time.perf_counter()

    def step(self, *args: Any) -> Any:
        assert self._step is not None
        start = time.perf_counter()
        row = self._step(*args)
        self.seconds += time.perf_counter() - start
        return row


if __name__ == "__main__":
    main()
