"""`micro_batch: auto`: the most rows that a pass can take, found by passes before training.

Passes of 1, 2, 4, ... of the longest rows, forward and backward, through the engine itself, so that its stage of ZeRO,
its precision and activation checkpointing count as they will. Each ends as a step that makes no update: its gradient is
no number, which every mode of the engine refuses. What a pass takes grows with its rows, so the passes so far predict
the next, which is made only if it will fit with a margin: memory does not run out on the way, which on a CPU would
be the end of the process. All ranks take the smallest answer.

The choice is kept beside the checkpoints: a run that continues on as many ranks adds in the order that it began with.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dataeff.files import read_json, write_json
from dataeff.pretrain.engine import update
from dataeff.pretrain.remedies import out_of_memory

if TYPE_CHECKING:
    from dataeff.pretrain.engine import Ranks
    from dataeff.pretrain.step import Steps

GPU_MARGIN, CPU_MARGIN = 0.08, 0.2
"""Shares of the memory that are left: for what lies in pieces on a card, and for all other programs on a CPU."""
KEPT = "micro_batch.json"


def micro_batch_of(steps: Steps) -> int:
    """The rows of a pass of this run, here and on as many ranks: as an earlier start chose, else found now."""
    ranks, state, name = steps.ranks, steps.state, steps.spec.run.name
    kept = ranks.of_first(kept_choice(state, ranks.world_size) if ranks.rank == 0 else 0)
    if kept:
        return kept
    longest = LongestPass(steps)
    memory = Memory(ranks, states_to_come(steps.engine.basic_optimizer))

    def peak_of(rows: int) -> int:
        return memory.peak_bytes(lambda: longest.run(rows))

    with scale_kept(steps.engine.optimizer):
        found, peak = largest(name, longest.share, memory.limit_bytes(), peak_of, ranks.smallest)
    found = ranks.smallest(found)
    if ranks.rank == 0:
        keep_choice(state, ranks.world_size, found)
        print(
            f"{name}: micro_batch auto: {found} of a rank's {longest.share} rows a pass "
            f"({peak / 2**20:,.0f} of {memory.limit_bytes() / 2**20:,.0f} MiB)",
            flush=True,
        )
    return found


class LongestPass:
    """Passes over the step of the plan that takes the most memory a row."""

    def __init__(self, steps: Steps) -> None:
        table = steps.plan.steps
        self._steps = steps
        self._step = int(np.lexsort((table["rows"], table["kept_tokens"], table["sequence_length"]))[-1])
        row = table.iloc[self._step]
        self._kept = int(row["kept_tokens"])
        ids = next(steps.plan.order.iterate(self._step))
        self._batch = steps.family.step_batch(steps.samples, ids, steps.cut(self._step, int(row["sequence_length"])))
        self.share = -(-int(table["rows"].max()) // steps.ranks.world_size)

    def run(self, rows: int) -> None:
        """Forward and backward over `rows` rows, and a step without an update: times a factor that is no number."""
        chosen = np.arange(rows, dtype=np.int64) % self._batch.rows
        self._steps.forward_backward(self._batch, chosen, math.nan, self._step, self._kept)
        update(self._steps.engine, math.nan)


def candidates(share: int) -> list[int]:
    """Powers of two up to a rank's share of the batch, and the share."""
    powers = [2**power for power in range(share.bit_length()) if 2**power < share]
    return [*powers, share]


def predicted(peaks: dict[int, int], rows: int) -> int:
    """Peak bytes of a pass of `rows`, on the line through the two largest passes so far."""
    sizes = sorted(peaks)[-2:]
    if len(sizes) < 2:
        return peaks[sizes[0]] if sizes else 0
    first, second = sizes
    return peaks[second] + (peaks[second] - peaks[first]) * (rows - second) // (second - first)


def largest(
    name: str, share: int, limit_bytes: int, peak_of: Callable[[int], int], smallest: Callable[[int], int]
) -> tuple[int, int]:
    """The most rows of a pass within `limit_bytes`, and its peak. `peak_of` makes a pass; `smallest`: of all ranks."""
    peaks: dict[int, int] = {}
    best = 0
    for rows in candidates(share):
        if not smallest(int(predicted(peaks, rows) <= limit_bytes)):
            break
        peaks[rows] = peak_of(rows)
        if not smallest(int(peaks[rows] <= limit_bytes)):
            break
        best = rows
    if not best:
        raise out_of_memory(name, 1)
    return best, peaks[best]


def kept_choice(state: Path, world_size: int) -> int:
    """What an earlier start of this run chose on as many ranks; 0: nothing."""
    file = state / KEPT
    facts = read_json(file) if file.is_file() else {}
    return int(facts["micro_batch"]) if facts.get("world_size") == world_size else 0


def keep_choice(state: Path, world_size: int, micro_batch: int) -> None:
    write_json(state / KEPT, {"micro_batch": micro_batch, "world_size": world_size})


class Memory:
    """The memory of this rank's device."""

    def __init__(self, ranks: Ranks, to_come_bytes: int) -> None:
        """`to_come_bytes`: what training will hold beside what a pass does."""
        self._device, self._to_come = ranks.device, to_come_bytes
        self._ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))

    def limit_bytes(self) -> int:
        """What a pass may take, all that is held already included."""
        if self._device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self._device)
            ours = torch.cuda.memory_reserved(self._device)
            return int((free + ours) * (1 - GPU_MARGIN)) - self._to_come
        free_here = available_bytes() // self._ranks_here
        return int((free_here + _status_bytes("VmRSS")) * (1 - CPU_MARGIN)) - self._to_come

    def peak_bytes(self, work: Callable[[], None]) -> int:
        """Runs `work`; the most that was held meanwhile."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            work()
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_allocated(self._device))
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is held now
        work()
        return _status_bytes("VmHWM")


def available_bytes() -> int:
    """Memory that can be had without swapping, within the limits of this process's control groups."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min([free, *_group_rests()])


def _group_rests() -> Iterator[int]:
    """What is left in each group (version 2) from this process's up, where a limit is set."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        hierarchy, _, place = line.split(":", 2)
        if hierarchy != "0":
            continue
        folder = Path("/sys/fs/cgroup") / place.lstrip("/")
        for group in (folder, *folder.parents):
            limit, used = group / "memory.max", group / "memory.current"
            if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
                yield max(0, int(text) - int(used.read_text()))


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def states_to_come(optimizer: Any) -> int:
    """Bytes of Adam's two moments of each weight that has none yet: some modes make them at the first step."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return sum(2 * weight.numel() * weight.element_size() for weight in weights if not optimizer.state.get(weight))


@contextmanager
def scale_kept(optimizer: Any) -> Iterator[None]:
    """fp16's loss scale falls with every gradient that is no number; afterwards it is as it was."""
    scaler = getattr(optimizer, "loss_scaler", None) or getattr(optimizer, "loss_scale_config", None)
    before = dict(vars(scaler)) if scaler is not None else {}
    try:
        yield
    finally:
        if scaler is not None:
            vars(scaler).update(before)
