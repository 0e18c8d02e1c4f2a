"""How long a run takes from the start of its process to its first step done, and what that time goes to.

`python bench/start_up.py [--repeats N]`: `dataeff pretrain`, as the rule `pretrain` starts it, on a GPT-2 of
scale tiny's size with everything compiled that is compiled once; measured from outside, until the first row of
metrics.jsonl. The parts come from further runs whose functions are timed (each without what runs inside another part),
and the packages from Python's own `-X importtime`, which slows imports down a little.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import Row, print_machine, print_table

GOAL_SECONDS = 15
STEPS = 4
# Part of the start: the functions that it is spent in.
PARTS = {
    "process group": [("dataeff.pretrain.loop", "start_ranks")],
    "tokenizer": [("dataeff.pretrain.loop", "load_tokenizer")],
    "plan": [("dataeff.plan", "TrainingPlan.load")],
    "samples": [("dataeff.families.gpt", "Gpt.open_samples")],
    "model": [("dataeff.families.gpt", "Gpt.build_model")],
    "engine": [("dataeff.pretrain.loop", "make_engine")],
    "held-out rows": [("dataeff.families.gpt", "Gpt.probe_batch")],
    "first step": [("dataeff.pretrain.loop", "Trainer.step")],
}
MODULES = ("torch", "deepspeed", "transformers", "pandas", "numba", "numpy", "dataeff")


def main() -> None:
    if sys.argv[1:2] == ["--timed"]:
        timed_run(float(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, default=5, help="runs of each kind (default 5)")
    given = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = make_run(folder)
        until_first_step(folder, command)  # compiles
        wall = [until_first_step(folder, command) for _ in range(given.repeats)]
        parts = [parts_of(folder, command) for _ in range(given.repeats)]
        packages = imports_of(folder, command)
    rows = [shown("whole", [seconds for seconds, _ in wall], f"under {GOAL_SECONDS} s")]
    rows.append(shown("whole, processor time", [seconds for _, seconds in wall], ""))
    for part in parts[0]:
        rows.append(Row(f"of it: {part}", f"{np.median([found[part] for found in parts]):.2f} s", "", None, ""))
    print_table("From the start of `dataeff pretrain` to its first step done", rows)
    rows = [Row(package, f"{seconds:.2f} s", "", None, "") for package, seconds in packages.items()]
    print_table("Imports by package, of each what it does itself", rows)


MAKE_RUN = """
import json, sys
from pathlib import Path
from dataeff.study.types import Model
from run_inputs import RunInputs
folder = Path(sys.argv[1])
model = Model(layers=4, hidden=128, heads=4, sequence_length=256, dropout=0.0)
run = RunInputs(folder / "run", "gpt", model, 4096, 8, int(sys.argv[2])).make()
print(json.dumps(run.command(folder / "state", folder / "out", heldout_points=1)))
"""


def shown(what: str, seconds: list[float], goal: str) -> Row:
    low, middle, high = np.quantile(seconds, (0, 0.5, 1))
    return Row(what, f"{middle:.1f} s ({low:.1f}-{high:.1f})", "", None, goal)


def make_run(folder: Path) -> list[str]:
    """The run's files and its command's arguments; made in a process of their own, since this one only measures."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", MAKE_RUN, str(folder), str(STEPS)]
    made = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if made.returncode:
        sys.exit(made.stderr)
    arguments: list[str] = json.loads(made.stdout)
    return arguments


@contextmanager
def started(folder: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A run from nothing; it must succeed."""
    for name in ("state", "out"):
        subprocess.run(["rm", "-rf", str(folder / name)], check=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        yield process
    if process.wait():
        sys.exit((folder / "log").read_text()[-3000:])


def until_first_step(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds from starting the process to the first row of its metrics: by the clock, and of processor time."""
    metrics = folder / "state/metrics.jsonl"
    start = time.perf_counter()
    with started(folder, [sys.executable, "-m", "dataeff", *arguments]) as process:
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        used = psutil.Process(process.pid).cpu_times() if process.poll() is None else None
    if used is None:
        sys.exit(f"the run ended before its first step was seen; raise STEPS ({STEPS})")
    return seconds, used.user + used.system


def parts_of(folder: Path, arguments: list[str]) -> dict[str, float]:
    found = folder / "parts.json"
    with started(folder, [sys.executable, __file__, "--timed", repr(time.time()), str(found), *arguments]):
        pass
    parts: dict[str, float] = json.loads(found.read_text())
    return parts


def imports_of(folder: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds by top-level package, the largest first."""
    with started(folder, [sys.executable, "-X", "importtime", "-m", "dataeff", *arguments]):
        pass
    seconds: dict[str, float] = defaultdict(float)
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)", (folder / "log").read_text()):
        package = name.split(".")[0]
        seconds[package if package in MODULES else "others"] += int(own) / 1e6
    return dict(sorted(seconds.items(), key=lambda entry: -entry[1]))


class Clock:
    """Seconds by part; while a part runs inside another, only the inner one's time goes on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = ["the rest"]
        self._since = time.perf_counter()

    def _switch(self) -> None:
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return within


def timed_run(started_at: float, out: Path, arguments: list[str]) -> None:
    """In a process of its own: `dataeff` with timed functions; writes the parts when the first step is done."""
    clock = Clock()
    clock.seconds["Python's own start"] = time.time() - started_at
    import builtins

    builtins.__import__ = clock.timed("imports", builtins.__import__)
    importlib.import_module = clock.timed("imports", importlib.import_module)
    from dataeff.cli import main as dataeff

    for part, functions in PARTS.items():
        for module, name in functions:
            *outer, last = name.split(".")
            owner = importlib.import_module(module)
            for attribute in outer:
                owner = getattr(owner, attribute)
            function = getattr(owner, last)
            timed = clock.timed(part, function)
            setattr(owner, last, staticmethod(timed) if isinstance(vars(owner).get(last), classmethod) else timed)
    trainer = importlib.import_module("dataeff.pretrain.loop").Trainer
    step = trainer.step

    def first_step(*args: Any) -> Any:
        row = step(*args)
        trainer.step = step
        out.write_text(json.dumps(clock.seconds))
        return row

    trainer.step = first_step
    dataeff(arguments)


if __name__ == "__main__":
    main()
