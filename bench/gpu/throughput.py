"""Tokens a second and model FLOPs utilisation on this machine's GPU: our loop against a plain compiled one.

`python bench/gpu/throughput.py [--out FILE.json] [--models gpt2-124m,gpt3-1.3b,bert-large] [--rows B]`: GPT-2 124M at
length 1,024, GPT-3 1.3B at 2,048 and BERT-large at 512, in bf16, one pass a step, without dropout:

- plain: plain.py beside this file, compiled, at full length;
- ours without engine: our models and token dropping in a plain torch loop, not compiled;
- our loop: the step of `dataeff pretrain`, at full length, at shorter ones (a curriculum's; GPT's rows are cut and
  become more) and with fewer tokens kept. It trains through DeepSpeed's engine: where DeepSpeed is not installed, the
  result says so, and the other kinds are measured all the same.

Utilisation is by the PaLM paper's formula (arXiv 2204.02311, appendix B) with what dropping layers leave out left out
(dataeff/inquiry/flops.py), of the card's peak (dataeff/inquiry/gpus.py; --peak-tflops for a card that it does not
know). Each kind runs in a process of its own, and the file is written after each: what a time limit cuts off leaves
the rest. Where a kind runs out of memory, all kinds of that model are measured anew with half the rows, so that they
compare. `--toy`: the same at toy size on any machine, in seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kinds
from common import Row, print_machine, print_table
from kinds import Setting, Task, Timing

from dataeff.analyze.compiled import keep_compiled
from dataeff.files import write_json
from dataeff.inquiry.gpus import Gpu, find_gpu, gpu_of_driver
from dataeff.inquiry.parameters import parameter_counts
from dataeff.pretrain.remedies import is_out_of_memory
from dataeff.provenance import provenance
from dataeff.study.types import Model

GPT_TOKENS, BERT_TOKENS = 50_257, 30_522
SETTINGS = (
    Setting(
        "gpt2-124m", "gpt", Model(layers=12, hidden=768, heads=12, sequence_length=1024, dropout=0.0), GPT_TOKENS, 32
    ),
    Setting(
        "gpt3-1.3b", "gpt", Model(layers=24, hidden=2048, heads=16, sequence_length=2048, dropout=0.0), GPT_TOKENS, 8
    ),
    Setting(
        "bert-large", "bert", Model(layers=24, hidden=1024, heads=16, sequence_length=512, dropout=0.0), BERT_TOKENS, 64
    ),
)
TOY_MODEL = Model(layers=3, hidden=32, heads=2, sequence_length=64, dropout=0.0)
TIMING, TOY_TIMING = Timing(warm_up=8, blocks=5, steps=5), Timing(warm_up=1, blocks=2, steps=1)
GOALS = {"gpt2-124m": "1x the plain loop", "gpt3-1.3b": "45% utilisation"}
RESULTS = Path("results/measured/bench")
NO_DEEPSPEED = "DeepSpeed is not installed, and our loop trains through its engine: pip install deepspeed==0.19.8"


class Keep(Protocol):
    """Is given a model's results so far, and whether they are all."""

    def __call__(self, model: dict[str, Any], *, complete: bool) -> None: ...


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    options.add_argument("--out", type=Path, help=f"the result file (JSON), default: {RESULTS}/DATE-CARD.json")
    options.add_argument("--models", default=",".join(setting.name for setting in SETTINGS), help="default: all")
    options.add_argument(
        "--kinds", default=";".join(kinds.KINDS), help=f"separated by ;, default: {'; '.join(kinds.KINDS)}"
    )
    options.add_argument("--rows", type=int, help="rows of a step; fewer for a card with less memory")
    options.add_argument("--peak-tflops", type=float, help="the card's dense bf16 peak, if it is not known")
    options.add_argument("--toy", action="store_true", help="toy size, on any machine: to see that this script works")
    given = options.parse_args()
    known = {setting.name: setting for setting in SETTINGS}
    chosen, wanted = given.models.split(","), given.kinds.split(";")
    for option, names, all_names in (("--models", chosen, known), ("--kinds", wanted, kinds.KINDS)):
        if unknown := [name for name in names if name not in all_names]:
            sys.exit(f"{option}: unknown {', '.join(unknown)}; known: {', '.join(all_names)}")
    if not given.toy and not torch.cuda.is_available():
        sys.exit("no GPU here; --toy runs the same at toy size on a CPU")
    print_machine()
    keep_compiled()
    settings = [toy(known[name]) if given.toy else sized(known[name], given.rows) for name in chosen]
    gpu = this_gpu(given.peak_tflops)
    out = given.out or RESULTS / f"{datetime.date.today()}-{card_name()}.json"
    facts, models = about(gpu, given.toy), []

    def keep(model: dict[str, Any], *, complete: bool) -> None:
        add_utilisation(model, gpu)
        write_json(
            out, {**facts, "complete": complete and len(models) + 1 == len(settings), "models": [*models, model]}
        )

    with tempfile.TemporaryDirectory() as name:
        for setting in settings:
            models.append(measured(setting, Path(name), wanted, given.toy, keep))
    for model in models:
        show(model)
    print(f"\nwritten to {out}")
    if any(fault["fault"] != NO_DEEPSPEED for model in models for fault in model["not_measured"]):
        sys.exit("some could not be measured: see above")


def toy(setting: Setting) -> Setting:
    return dataclasses.replace(setting, model=TOY_MODEL, vocabulary=500, rows=4)


def sized(setting: Setting, rows: int | None) -> Setting:
    return setting if rows is None else dataclasses.replace(setting, rows=rows)


def measured(setting: Setting, scratch: Path, wanted: Sequence[str], toy_size: bool, keep: Keep) -> dict[str, Any]:
    """All kinds of one model, with as many rows as all of them have memory for; `keep` is given what there is."""
    folder = scratch / setting.name
    setting.inputs(folder, 1).make()
    timing, backend = (TOY_TIMING, "aot_eager") if toy_size else (TIMING, "inductor")

    def measure(setting: Setting, kind: str) -> dict[str, Any]:
        if kind in kinds.NEED_DEEPSPEED and find_spec("deepspeed") is None:
            return {"fault": NO_DEEPSPEED}
        return in_a_process(Task(kind, setting, folder, timing, backend), folder / "found.json")

    return fitting(setting, wanted, measure, {"compiled": {"plain": backend}}, keep)


def fitting(
    setting: Setting,
    wanted: Sequence[str],
    measure: Callable[[Setting, str], dict[str, Any]],
    about_all: dict[str, Any],
    keep: Keep,
) -> dict[str, Any]:
    """A kind that runs out of memory has all kinds begin anew with half the rows; one that fails leaves the others."""
    too_many: list[int] = []
    while True:
        model = {**facts_of(setting, too_many), **about_all}
        for number, kind in enumerate(wanted, start=1):
            print(f"{setting.name}, {setting.rows} rows a step: {kind} ({number} of {len(wanted)})", flush=True)
            start = time.monotonic()
            found = measure(setting, kind)
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
            if found.get("out_of_memory") and setting.rows > 1:
                break
            model["measured"] += found.get("lines", [])
            model["not_measured"] += [{"kind": kind, "fault": found["fault"]}] if "fault" in found else []
            keep(model, complete=number == len(wanted))
        else:
            return model
        too_many.append(setting.rows)
        setting = sized(setting, setting.rows // 2)
        print(f"  out of memory: all kinds anew with {setting.rows} rows", flush=True)


def facts_of(setting: Setting, too_many: Sequence[int]) -> dict[str, Any]:
    parameters = parameter_counts(setting.family, setting.model, setting.padded).total
    facts = {**dataclasses.asdict(setting), "model": setting.model.model_dump(), "parameters": parameters}
    return {**facts, "rows_out_of_memory": list(too_many), "measured": [], "not_measured": []}


def in_a_process(task: Task, out: Path) -> dict[str, Any]:
    """{"lines"} or {"fault"}. A GPU allows no fork of a process that has seen it; without one, forks start faster."""
    out.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
    if not torch.cuda.is_available():
        context.set_forkserver_preload(["torch._dynamo", "transformers.models.gpt2.modeling_gpt2", "kinds"])
    process = context.Process(target=child, args=(task, out))
    process.start()
    process.join()
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"fault": f"ended with {process.exitcode}"}
    return found


def child(task: Task, out: Path) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # at toy size threads only wait for each other
    try:
        out.write_text(json.dumps({"lines": kinds.measure(task)}))
    except Exception as error:
        traceback.print_exc()
        fault = f"{type(error).__name__}: {error}"
        out.write_text(json.dumps({"fault": fault, "out_of_memory": is_out_of_memory(error)}))


def this_gpu(peak_teraflops: float | None) -> Gpu | None:
    """The card by the name that its driver gives; None without a card, or with one of unknown peak."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    if peak_teraflops is not None:
        return find_gpu(name, peak_teraflops)
    return gpu_of_driver(name)


def card_name() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def add_utilisation(model: dict[str, Any], gpu: Gpu | None) -> None:
    """To every line: its share of the card's peak, and its speed in effective tokens against the plain loop's."""
    plain = [line for line in model["measured"] if line["kind"] == "plain"]
    for line in model["measured"]:
        line["utilisation"] = line["flops_per_second"] / (gpu.peak_teraflops * 1e12) if gpu else None
        line["of_plain"] = (
            line["effective_tokens_per_second"] / plain[0]["effective_tokens_per_second"] if plain else None
        )


def about(gpu: Gpu | None, toy_size: bool) -> dict[str, Any]:
    """When, where and with what."""
    card = None
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        peak = dataclasses.asdict(gpu) if gpu else None
        card = {"name": torch.cuda.get_device_name(), "memory_bytes": memory, "peak": peak}
    return {
        "what": "bench/gpu/throughput.py",
        "toy": toy_size,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "card": card,
        "cuda": torch.version.cuda,
        **provenance().model_dump(mode="json"),
    }


def show(model: dict[str, Any]) -> None:
    rows = []
    for line in model["measured"]:
        speed = f"{line['tokens_per_second']:,.0f} tokens/s, {line['sequences_per_second']:,.1f} rows/s"
        share = "" if line["utilisation"] is None else f", {line['utilisation']:.1%} utilisation"
        peak = "" if line["peak_memory_bytes"] is None else f"{line['peak_memory_bytes'] / 1e9:.1f} GB"
        full = line["case"] == "baseline" and line["kind"] == "our loop"
        goal = GOALS.get(model["name"], "") if full else ""
        rows.append(Row(f"{line['kind']}: {line['case']}", speed + share, peak, line["of_plain"], goal))
    rows += [Row(f"{fault['kind']}: not measured", fault["fault"], "", None, "") for fault in model["not_measured"]]
    title = f"{model['name']}: {model['parameters'] / 1e6:,.4g}M parameters, {model['rows']} rows a step"
    print_table(title, rows, "effective tokens/s, of the plain loop's")


if __name__ == "__main__":
    main()
