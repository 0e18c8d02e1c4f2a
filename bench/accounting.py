"""Where the seconds of a run go, and what it costs to know.

`python bench/accounting.py [--steps N] [--threads T] [--processes P]`: a run of scale tiny's size (GPT-2 of 1.35M
parameters, steps of 8 x 256, a checkpoint every 50 steps, ten held-out losses), made by the command `dataeff pretrain`,
and the account that its timings.json gives. Then, apart: what the clock's laps, the row of the log and TensorBoard's
events take a step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Row, print_machine, print_table
from run_inputs import RunInputs

from dataeff.files import read_json
from dataeff.pretrain.events import Events
from dataeff.pretrain.timing import PARTS, Part, StepClock, StepTimes, row_of, time_collectives
from dataeff.pretrain.utilisation import Utilisation, device_of
from dataeff.study.types import Model

MODEL, VOCABULARY, BATCH = Model(layers=4, hidden=128, heads=4, sequence_length=256, dropout=0.0), 4096, 8
TINY_STEPS = 220
LAPS_OF_A_STEP: tuple[Part, ...] = (
    "data",
    "other",
    "data",
    "forward",
    "backward",
    "other",
    "communication",
    "optimizer",
)
TURNS = 2000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--steps", type=int, default=TINY_STEPS, help=f"default {TINY_STEPS}, as at scale tiny")
    options.add_argument("--threads", type=int, default=1, help="default 1")
    options.add_argument("--processes", type=int, default=1, help="ranks (default 1)")
    given = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = RunInputs(folder, "gpt", MODEL, VOCABULARY, BATCH, given.steps).make()
        facts = measured(inputs, given.threads, given.processes)
        rows = account_rows(facts) + overhead_rows(inputs, facts["training_seconds"] / given.steps)
    title = f"A run of {given.steps} steps of {BATCH} x {MODEL.sequence_length}, {given.processes} process(es)"
    print_table(f"{title}, {given.threads} thread(s)", rows)


def measured(inputs: RunInputs, threads: int, processes: int) -> dict[str, Any]:
    """timings.json of the run, made by the command in a process of its own."""
    folder = inputs.folder
    settings = {"threads": threads, "processes": processes, "checkpoint_every": 50, "heldout_points": 10}
    command = [sys.executable, "-m", "dataeff", *inputs.command(folder / "state", folder / "out", **settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    facts: dict[str, Any] = read_json(folder / "out/timings.json")
    return facts


def account_rows(facts: dict[str, Any]) -> list[Row]:
    steps, run = facts["step_parts"], facts["run_parts"]
    seconds, goals = facts["training_seconds"], {"data": "under 1%"}
    rows = [Row(f"of the steps: {name}", told(steps[name]), "", None, goals.get(name, "")) for name in PARTS]
    rows += [Row(f"of the run: {name}", told(part), "", None, "") for name, part in run.items()]
    beside = sum(run[name]["seconds"] for name in ("logging", "checkpoint", "heldout"))
    share = f"{beside:.2f} s: {beside / (seconds + beside):.2%}"
    rows.append(Row("logging, checkpoints and held-out losses, of these and the steps", share, "", None, "under 3%"))
    left_out = abs(1 - sum(part["seconds"] for part in steps.values()) / seconds)
    rows.append(Row("steps less the sum of their parts", f"{left_out:.4%}", "", None, "0%"))
    speed = facts["utilisation"]["model_teraflops_per_second"]
    rows.append(
        Row("speed", f"{speed:.4f} TFLOP/s, {facts['effective_tokens_per_second']:,.0f} tokens/s", "", None, "")
    )
    return rows


def told(part: dict[str, float]) -> str:
    return f"{part['seconds']:.3f} s: {part['share']:.2%}"


def overhead_rows(inputs: RunInputs, step: float) -> list[Row]:
    """What looking at the clock, writing it down and drawing curves take of a step."""
    clock = StepClock()

    def laps() -> StepTimes:
        clock.start()
        for part in LAPS_OF_A_STEP:
            clock.lap(part)
        return clock.stop()

    times = laps()
    each = {
        "the laps": each_seconds(lambda number: laps()),
        "the parts in the log's row": each_seconds(lambda number: json.dumps(row_of(number, times, {"logging": 0.1})))
        - each_seconds(lambda number: json.dumps({"step": number, "seconds": round(times.seconds, 6)})),
    }
    rows = [Row(f"timing: {name}", share_of(seconds, step), "", None, "") for name, seconds in each.items()]
    rows.append(Row("timing: in all", share_of(sum(each.values()), step), "", None, "under 0.5%"))
    rows.append(Row("timing: each of DeepSpeed's collectives", share_of(collective_seconds(clock), step), "", None, ""))
    return [*rows, *events_rows(inputs, step)]


def collective_seconds(clock: StepClock) -> float:
    """What timing adds to a collective."""

    class Backend:
        def all_reduce(self, *args: Any, **kwargs: Any) -> None: ...

    plain, timed = Backend(), Backend()
    time_collectives(timed, clock)
    return each_seconds(lambda number: timed.all_reduce()) - each_seconds(lambda number: plain.all_reduce())


def events_rows(inputs: RunInputs, step: float) -> list[Row]:
    folder, plan = inputs.folder, inputs.plan()
    begun = time.perf_counter()
    from torch.utils.tensorboard import FileWriter  # noqa: F401

    start = time.perf_counter() - begun
    device = device_of(torch.device("cpu"), "fp32")
    utilisation = Utilisation.of_run(inputs.spec, plan.steps, VOCABULARY, device, 1, recompute=False)
    for name in ("metrics", "timings"):
        (folder / f"{name}.jsonl").write_text("")
    events = Events(folder / "tensorboard", TURNS, utilisation, folder / "metrics.jsonl", folder / "timings.jsonl")
    found = json.loads((folder / "out/metrics.jsonl").read_text().splitlines()[-2])
    seconds = each_seconds(lambda number: events.write({**found, "step": 2 + number % (inputs.steps - 2)}, 0.3))
    events.close()
    (file,) = (folder / "tensorboard").iterdir()
    return [
        Row("TensorBoard's events (off by default)", share_of(seconds, step), "", None, ""),
        Row("the same: importing the package", f"{start:.2f} s", "", None, ""),
        Row("the same: files, bytes a step", f"1, {file.stat().st_size / TURNS:.0f}", "", None, ""),
    ]


def each_seconds(work: Callable[[int], object]) -> float:
    """Of one call, the median of blocks of 50."""
    taken = []
    for block in range(TURNS // 50):
        begun = time.perf_counter()
        for number in range(50):
            work(50 * block + number)
        taken.append((time.perf_counter() - begun) / 50)
    return float(np.median(taken))


def share_of(seconds: float, step: float) -> str:
    return f"{1e6 * seconds:.1f} us: {seconds / step:.3%}"


if __name__ == "__main__":
    main()
