"""All offline tasks of one run in one process against a process per task, as whole commands.

`python bench/evaluate.py [--repeats N] [--tasks N] [--items N]`: `dataeff evaluate run`, as the rule `evaluate` starts
it, on an untrained GPT-2 of scale tiny's size and tasks whose items are made from Python's own documentation, at 0 and
10 shots. Both sides score the same items and write the same scores, which is checked; what a process per task adds is
Python's and lm-eval's start and the opening of the model, once a task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import zstandard
from common import Row, print_machine, print_table, run_process

from dataeff.evaluate.items import build
from dataeff.evaluate.scores import read_scores
from dataeff.study.specs import EvaluateSpec, ItemsSpec, write_spec
from dataeff.study.tasks import HeldoutTask

END = "<|endoftext|>"
WORDS = [(5, 9), (4, 10), (5, 12), (6, 13), (4, 14), (5, 16)]
SHOTS = [0, 10]
DATAEFF = str(Path(sys.executable).with_name("dataeff"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--repeats", type=int, default=2, help="turns of both (default 2)")
    options.add_argument("--tasks", type=int, default=10, help="tasks of the run, at most 12 (default 10)")
    options.add_argument("--items", type=int, default=60, help="items of each task (default 60)")
    given = options.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tasks = make_model(folder / "model"), make_tasks(folder, given.tasks)
        found = [turn(folder, model, tasks, given.items) for _ in range(given.repeats)]
    together, apart = (statistics.median(side) for side in zip(*found, strict=True))
    ratios = sorted(each / one for one, each in found)
    what = f"{len(tasks)} tasks, {given.items} items each, at {' and '.join(map(str, SHOTS))} shots"
    row = Row(
        what, f"{together:.1f} s", f"{apart:.1f} s", statistics.median(ratios), "above 1x", (ratios[0], ratios[-1])
    )
    print_table("Evaluation of one run: one process for all tasks (ours) against one for each (peer)", [row])


def turn(folder: Path, model: Path, tasks: dict[str, HeldoutTask], items: int) -> tuple[float, float]:
    """(seconds of one process for all, seconds of a process for each, one after the other)."""
    together = score(folder, "together", model, tasks, items)
    start = time.perf_counter()
    for name, task in tasks.items():
        score(folder, f"apart/{name}", model, {name: task}, items)
    apart = time.perf_counter() - start
    check_equal(folder, tasks)
    return together, apart


def score(folder: Path, name: str, model: Path, tasks: dict[str, HeldoutTask], items: int) -> float:
    spec = EvaluateSpec(
        group="probes",
        harness=version("lm_eval"),
        tasks=dict(tasks),
        datasets={},
        shots=SHOTS,
        items=items,
        batch_size=8,
    )
    write_spec(folder / "specs" / f"{name}.yaml", spec)
    places = {"--spec": folder / "specs" / f"{name}.yaml", "--model": model, "--state": folder / "state" / name}
    command = [DATAEFF, "evaluate", "run", *(str(part) for pair in places.items() for part in pair)]
    command += ["--out", str(folder / name), "--items", *(str(folder / "items" / task) for task in tasks)]
    return run_process(command).seconds


def check_equal(folder: Path, tasks: dict[str, HeldoutTask]) -> None:
    for shots in SHOTS:
        whole = read_scores(folder / "together" / f"{shots}shot" / "scores.json").tasks
        for name in tasks:
            alone = read_scores(folder / "apart" / name / f"{shots}shot" / "scores.json").tasks[name]
            if whole[name] != alone:
                sys.exit(f"{name} at {shots} shots: {whole[name]} in one process for all, {alone} in its own")


def make_tasks(folder: Path, count: int) -> dict[str, HeldoutTask]:
    """Tasks of both kinds over sentences of different lengths, with their items in folder/items."""
    heldout = folder / "heldout"
    heldout.mkdir()
    lines = [json.dumps({"text": text, "meta": {"pile_set_name": "Python"}}) for _, text in sorted(topics.items())]
    (heldout / "python.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    tasks = {
        f"{kind}_{low}_{high}": HeldoutTask(kind=kind, about="a benchmark's", words=(low, high))
        for low, high in WORDS
        for kind in ("last_word", "word_order")
    }
    chosen = dict(list(tasks.items())[:count])
    for name, task in chosen.items():
        build(ItemsSpec(tasks={name: task}), heldout, folder / "items" / name)
    return chosen


def make_model(folder: Path) -> Path:
    """An untrained GPT-2 of 4 layers x 128 with a BPE of 4,096, as a finished run's folder holds them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([text for _, text in sorted(topics.items())], trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END).save_pretrained(folder)
    set_seed(1)
    sizes = {"n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}
    GPT2LMHeadModel(GPT2Config(vocab_size=4096, **sizes, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    run = {"family": "gpt", "variant": "baseline", "data": "1", "seed": 1}
    (folder / "run.json").write_text(json.dumps({"run": run, "name": "gpt-baseline-100-s1"}))
    return folder


if __name__ == "__main__":
    main()
