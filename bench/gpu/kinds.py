"""The kinds of loops that throughput.py times, each in a process of its own."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plain
import torch
from run_inputs import Case, RunInputs
from torch import nn

from dataeff.families import Family, find_family
from dataeff.families.batch import Cut
from dataeff.inquiry.flops import training_flops
from dataeff.study.base import FamilyName
from dataeff.study.types import Hardware, Model
from dataeff.token_drop import TokenDrop
from dataeff.tokens.vocabulary import load

SEED = 1234
BATCHES = 4
"""Different ones that the loops without our data take in turns."""


@dataclass(frozen=True)
class Setting:
    """A model at a size; `rows` of a step, which is one pass."""

    name: str
    family: FamilyName
    model: Model
    vocabulary: int
    rows: int

    @property
    def padded(self) -> int:
        return -(-self.vocabulary // 128) * 128

    @property
    def dropped_layers(self) -> list[int]:
        return list(range(1, self.model.layers - 1))

    def inputs(self, folder: Path, steps: int, *, dropping: bool = False) -> RunInputs:
        return RunInputs(
            folder,
            self.family,
            self.model,
            self.vocabulary,
            self.rows,
            steps,
            dropped_layers=self.dropped_layers if dropping else [],
            length_apply="reshape" if self.family == "gpt" else "truncate",
            precision="bf16",
        )


@dataclass(frozen=True)
class Timing:
    """`blocks` of `steps` are timed, each as a whole, after `warm_up` steps of the same case."""

    warm_up: int
    blocks: int
    steps: int

    @property
    def steps_of_a_case(self) -> int:
        return self.warm_up + self.blocks * self.steps


@dataclass(frozen=True)
class Task:
    """What a process has to measure. `backend`: torch.compile's, of the plain loop."""

    kind: str
    setting: Setting
    folder: Path
    timing: Timing
    backend: str


def cases_of(setting: Setting, *, dropping: bool) -> dict[str, Case]:
    whole = setting.model.sequence_length
    if dropping:
        return {f"1/{part} kept": Case(whole, whole // part) for part in (8, 4, 2)}
    lengths = {f"1/{part} of the length": whole // part for part in (8, 4, 2)}
    return {"baseline": Case(whole, whole), **{name: Case(length, length) for name, length in lengths.items()}}


def measure(task: Task) -> list[dict[str, Any]]:
    return KINDS[task.kind](task)


def time_plain(task: Task) -> list[dict[str, Any]]:
    """plain.py, at full length."""
    setting, device = task.setting, _device()
    family, cases = _family(task), {"baseline": cases_of(setting, dropping=False)["baseline"]}
    torch.manual_seed(SEED)
    network = plain.build(setting.family, setting.model, setting.padded)
    loop = plain.PlainLoop(network, setting.inputs(task.folder, 1).spec.adam, device, task.backend)

    def steps(case: Case) -> tuple[int, Callable[[], None]]:
        rows, parts = _parts(task, family, case)
        given = cycle([plain.arguments(setting.family, part) for part in parts])
        return rows, lambda: loop.step(next(given))

    return [_timed(task, name, case, *steps(case)) for name, case in cases.items()]


def time_ours_without_engine(task: Task) -> list[dict[str, Any]]:
    """Our models and token dropping in a plain torch loop: weights in float32, bf16 autocast, fused AdamW."""
    setting, device = task.setting, _device()
    family = _family(task)
    torch.manual_seed(SEED)
    network = family.build_model(setting.model).to(device).train()
    adam = setting.inputs(task.folder, 1).spec.adam
    groups = [
        {"params": [p for p in network.parameters() if p.dim() > 1], "weight_decay": adam.weight_decay},
        {"params": [p for p in network.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(adam.beta1, adam.beta2), fused=True)

    def steps(case: Case, drop: TokenDrop | None) -> tuple[int, Callable[[], None]]:
        rows, parts = _parts(task, family, case)
        given, counted = cycle(parts), count()
        rows_B = torch.arange(rows, device=device)

        def step() -> None:
            if drop is not None:
                drop.set_step(next(counted), kept=case.kept, rows_B=rows_B, rows=rows)
            with torch.autocast(device.type, torch.bfloat16):
                losses = family.loss_sums(network, next(given))
            (sum(losses.values()) / (rows * case.length)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), adam.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return rows, step

    found = [_timed(task, name, case, *steps(case, None)) for name, case in cases_of(setting, dropping=False).items()]
    drop = TokenDrop.attach(network, layers=setting.dropped_layers, seed=SEED)
    return found + [
        _timed(task, name, case, *steps(case, drop)) for name, case in cases_of(setting, dropping=True).items()
    ]


def time_our_loop(task: Task) -> list[dict[str, Any]]:
    """The trainer's step, as a run makes it: once without token dropping, once with it."""
    return _time_trainer(task, dropping=False)


def time_our_loop_dropping(task: Task) -> list[dict[str, Any]]:
    return _time_trainer(task, dropping=True)


def _time_trainer(task: Task, *, dropping: bool) -> list[dict[str, Any]]:
    from dataeff.pretrain.engine import start_ranks
    from dataeff.pretrain.loop import Trainer

    setting, each = task.setting, task.timing.steps_of_a_case
    cases = cases_of(setting, dropping=dropping)
    inputs = setting.inputs(task.folder, each * len(cases), dropping=dropping)
    plan = inputs.plan([case for case in cases.values() for _ in range(each)])
    hardware = Hardware(threads=torch.get_num_threads(), micro_batch=int(plan.steps["rows"].max()))
    ranks = start_ranks(hardware)
    trainer = Trainer(inputs.spec, inputs.inputs(), plan, task.folder / "state", hardware, ranks, {})
    steps: Iterator[tuple[int, Any]] = enumerate(plan.order.iterate())
    rows = plan.steps["rows"].to_numpy()[::each]

    def step() -> None:
        trainer.step(*next(steps))

    found = [
        _timed(task, name, case, int(number), step) for (name, case), number in zip(cases.items(), rows, strict=True)
    ]
    torch.distributed.destroy_process_group()
    return found


KINDS: dict[str, Callable[[Task], list[dict[str, Any]]]] = {
    "plain": time_plain,
    "ours without engine": time_ours_without_engine,
    "our loop": time_our_loop,
    "our loop, dropping": time_our_loop_dropping,
}
NEED_DEEPSPEED = ("our loop", "our loop, dropping")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _family(task: Task) -> Family:
    return find_family(task.setting.family)(load(task.folder / "tokenizer"))


def _parts(task: Task, family: Family, case: Case) -> tuple[int, list[Any]]:
    """Rows of a step of this case, and a few such steps on the device, cut as our loop cuts them."""
    setting = task.setting
    inputs = setting.inputs(task.folder, BATCHES)
    samples = family.open_samples(task.folder / "samples", [task.folder / "tokens"])
    parts = []
    for step, ids in enumerate(inputs.plan().order.iterate()):
        batch = family.step_batch(samples, ids, Cut(case.length, inputs.length_apply, False, SEED, step))
        parts.append(batch.part(np.arange(batch.rows), _device()))
    return batch.rows, parts


def _timed(task: Task, name: str, case: Case, rows: int, step: Callable[[], None]) -> dict[str, Any]:
    """One line of results. Blocks are timed between two moments at which the device is done with everything."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    for _ in range(task.timing.warm_up):
        step()
    seconds: list[float] = []
    for _ in range(task.timing.blocks):
        _wait()
        start = time.perf_counter()
        for _ in range(task.timing.steps):
            step()
        _wait()
        seconds.append((time.perf_counter() - start) / task.timing.steps)
    return _line(task, name, case, rows, seconds)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _line(task: Task, name: str, case: Case, rows: int, seconds: Sequence[float]) -> dict[str, Any]:
    setting, middle = task.setting, statistics.median(seconds)
    layers, dropping = setting.model.layers, len(setting.dropped_layers)
    table = pd.DataFrame({"rows": [rows], "sequence_length": [case.length], "kept_tokens": [case.kept]})
    flops = training_flops(setting.family, setting.model, setting.padded, dropping, table)
    effective = rows * (case.length * (layers - dropping) + case.kept * dropping) / layers
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "kind": task.kind,
        "case": name,
        "rows": rows,
        "sequence_length": case.length,
        "kept_tokens": case.kept,
        "seconds_per_step": middle,
        "seconds_per_step_by_block": list(seconds),
        "tokens_per_second": rows * case.length / middle,
        "effective_tokens_per_second": effective / middle,
        "sequences_per_second": rows / middle,
        "flops_per_step": flops.total,
        "flops_per_second": flops.total / middle,
        "peak_memory_bytes": peak,
    }
