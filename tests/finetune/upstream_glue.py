"""Made-up finetuning results of the eight GLUE tasks, and the logs that Megatron-DeepSpeed's script reads them from.

Run as a program, it puts the logs into a folder and lets a checkout's own script average them, with the folder listed
in order (as it is, of two seeds that are both the median the file system decides which one counts for MNLI). What that
printed stands in test_aggregate.py:

    python -m tests.finetune.upstream_glue MEGATRON_DEEPSPEED/examples_deepspeed/data_efficiency/bert/finetune_glue
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from dataeff import keyed
from dataeff.finetune.aggregate import best_epoch
from dataeff.finetune.scores import EpochValues, Trial

RATES = ["2e-5", "3e-5", "4e-5", "5e-5"]
SEEDS = [1234, 1235, 1236, 1237, 1238]
EPOCHS = 3
TASKS = ["MNLI", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE"]
COLUMNS = {"MNLI": ["MNLI-m", "MNLI-mm"]}
ITEMS = 277
"""Of every split. As small as RTE's, so that seeds and epochs often tie."""


def right(task: str, column: str, rate: str, seed: int, epoch: int) -> int:
    """Items of a column that a model gets right after an epoch."""
    random = keyed.generator(seed, f"{task} {column} {rate}", epoch)
    return int(random.integers(200, 225)) + epoch


def trials_of(task: str) -> list[Trial]:
    trials = []
    for rate in RATES:
        for seed in SEEDS:
            epochs = [_epoch(task, rate, seed, epoch) for epoch in range(EPOCHS)]
            best = best_epoch([epoch.decides for epoch in epochs])
            facts = {"published_epoch": best, "honest_epoch": 1, "steps": 1, "seconds": 1.0}
            trials.append(Trial(learning_rate=float(rate), seed=seed, epochs=epochs, **facts))
    return trials


def _epoch(task: str, rate: str, seed: int, epoch: int) -> EpochValues:
    columns = COLUMNS.get(task, [task])
    found = {column: right(task, column, rate, seed, epoch) for column in columns}
    together = sum(found.values()) / (ITEMS * len(columns))
    values = {column: count / ITEMS for column, count in found.items()}
    return EpochValues(training_loss=0.5, values=values, decides=together, selection=0.0, scored=values)


def write_logs(folder: Path) -> None:
    """A log a task, rate and seed, with the lines that Megatron's finetuning prints after an epoch."""
    for task in TASKS:
        for rate in RATES:
            for seed in SEEDS:
                place = folder / f"{task}-bsz32-lr{rate}-epochs3-seed{seed}"
                place.mkdir(parents=True)
                lines = [line for epoch in range(EPOCHS) for line in _lines(task, rate, seed, epoch)]
                (place / "output.log").write_text("".join(f"{line}\n" for line in lines))


def _lines(task: str, rate: str, seed: int, epoch: int) -> list[str]:
    value = _epoch(task, rate, seed, epoch)
    if task in ("CoLA", "STS-B"):
        name = "mcc" if task == "CoLA" else "spearmanr"
        # The number stands two words after its name.
        return [f"> |epoch: {epoch}| metrics for dev: {name} = {value.decides!r} end"]
    parts = {"overall:": (value.decides, len(value.values))}
    if task == "MNLI":
        names = ("metrics for dev-matched:", "metrics for dev-mismatched:")
        parts |= {name: (found, 1) for name, found in zip(names, value.values.values(), strict=True)}
    return [
        f" >> |epoch: {epoch}| {name} correct / total = {round(found * ITEMS * splits)} / {ITEMS * splits} = "
        f"{found * 100!r} %, elapsed time (sec): 1.0"
        for name, (found, splits) in parts.items()
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_logs(Path(folder))
        for rate in RATES:
            program = (
                "import os, ds_finetune_gather_result as g; found = os.listdir; "
                "os.listdir = lambda path: sorted(found(path)); "
                f"g.gather_finetune_results({folder!r}, lr={rate!r})"
            )
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", program],
                cwd=sys.argv[1],
                capture_output=True,
                text=True,
                check=True,
            )
            print(rate, done.stdout.strip())


if __name__ == "__main__":
    main()
