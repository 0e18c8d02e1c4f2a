"""The training loop: reads a row of the plan, takes its samples, makes one optimizer step. It decides nothing else.

All randomness is keyed by (seed, step), so a checkpoint holds a step number and the engine's state, and a run that
was killed continues bit for bit on the same ranks, micro-batch, threads and software.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.families import find_family
from dataeff.families.batch import Cut
from dataeff.plan import TrainingPlan
from dataeff.pretrain import checkpoint, finish
from dataeff.pretrain.average import WeightAverage, average_files
from dataeff.pretrain.engine import Ranks, make_engine, start_ranks
from dataeff.pretrain.meter import Log, Progress
from dataeff.pretrain.owner import owned
from dataeff.pretrain.probe import probe_measures, probe_steps
from dataeff.study.specs import PretrainSpec
from dataeff.study.types import Hardware
from dataeff.token_drop import TokenDrop
from dataeff.tokens.tokenizer import load as load_tokenizer


@dataclass(frozen=True)
class Inputs:
    """The files that a run reads."""

    plan: Path
    samples: Path
    tokens: list[Path]
    tokenizer: Path
    heldout: Path


def run(spec: PretrainSpec, inputs: Inputs, state: Path, out: Path, hardware: Hardware) -> None:
    """Trains the run to its end, from its newest sound checkpoint if there is one, and writes the folder `out`."""
    started = time.monotonic()
    ranks = start_ranks(hardware)
    try:
        if ranks.rank == 0:
            with owned(state.with_name(f"{state.name}.owner")):
                _run(spec, inputs, state, out, hardware, ranks, started)
        else:
            _run(spec, inputs, state, out, hardware, ranks, started)
    finally:
        torch.distributed.destroy_process_group()


def _run(
    spec: PretrainSpec,
    inputs: Inputs,
    state: Path,
    out: Path,
    hardware: Hardware,
    ranks: Ranks,
    started: float,
) -> None:
    plan = TrainingPlan.load(inputs.plan)
    identity = {"spec_digest": spec.digest, "plan_digest": plan.digest}
    ranks.barrier()  # rank 0 may have waited for another owner, which may have finished the run meanwhile
    if finish.is_finished(out, identity):
        print(f"{spec.run.name}: finished already with this spec and plan", flush=True)
        return
    Trainer(spec, inputs, plan, state, hardware, ranks, identity).train(out, started)


class Trainer:
    """One run's model, engine, data and logs."""

    def __init__(
        self,
        spec: PretrainSpec,
        inputs: Inputs,
        plan: TrainingPlan,
        state: Path,
        hardware: Hardware,
        ranks: Ranks,
        identity: dict[str, str],
    ) -> None:
        self.spec, self.inputs, self.plan, self.state = spec, inputs, plan, state
        self.hardware, self.ranks, self.identity = hardware, ranks, identity
        self.family = find_family(spec.run.family)(load_tokenizer(inputs.tokenizer))
        self.samples = self.family.open_samples(inputs.samples, inputs.tokens)
        self._check_samples()
        torch.manual_seed(keyed.key(spec.run.seed, "initial weights"))
        self.network = self.family.build_model(spec.model)
        self.token_drop = (
            TokenDrop.attach(self.network, layers=spec.dropped_layers, seed=spec.run.seed, route=spec.route)
            if spec.dropped_layers
            else None
        )
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.engine = make_engine(self.network, spec, hardware, ranks)
        self.average = WeightAverage.of_run(spec, plan, self.network, hardware, ranks)
        self.probe = self.family.probe_batch(inputs.heldout, spec.model.sequence_length)
        self.seconds = {"startup": 0.0, "heldout": 0.0, "checkpoint": 0.0}

    def _check_samples(self) -> None:
        if self.samples.sequence_length > self.spec.model.sequence_length:
            raise DataeffError(
                f"{self.inputs.samples}: its samples have {self.samples.sequence_length} tokens, the model of "
                f"{self.spec.run.name} takes {self.spec.model.sequence_length}; make samples of that sequence_length"
            )

    def train(self, out: Path, started: float) -> None:
        first = self._resume()
        total = len(self.plan.steps)
        consumed = self.plan.steps["cumulative_effective_tokens"].to_numpy()
        metrics = timings = None
        if self.ranks.rank == 0:
            self.state.mkdir(parents=True, exist_ok=True)
            metrics = Log(self.state / "metrics.jsonl", first)
            timings = Log(self.state / "timings.jsonl", first)
        done_tokens = int(consumed[first - 1]) if first else 0
        progress = Progress(self.spec.run.name, int(consumed[-1]), done_tokens)
        probes = probe_steps(consumed, self.hardware.heldout_points)
        self.seconds["startup"] = time.monotonic() - started
        for step, ids in enumerate(self.plan.order.iterate(first), start=first):
            begun = time.monotonic()
            row = self.step(step, ids)
            step_seconds = time.monotonic() - begun
            if step in probes:
                row |= self._timed("heldout", self._probe)
            if metrics is not None and timings is not None:
                metrics.write(row)
                timings.write({"step": step + 1, "seconds": round(step_seconds, 6)})
                progress.show(row, total, now=step + 1 == total)
            if (step + 1) % self.hardware.checkpoint_every == 0 and step + 1 < total:
                self._timed("checkpoint", lambda done=step + 1: self._save(done, metrics, timings))
        if metrics is not None and timings is not None:
            metrics.close()
            timings.close()
        self._finish(out, metrics, timings)

    def step(self, step: int, ids: NDArray[np.int64]) -> dict[str, Any]:
        """One optimizer step on the samples `ids`; returns its metrics row."""
        plan_row = self.plan.steps.iloc[step]
        length, kept = int(plan_row["sequence_length"]), int(plan_row["kept_tokens"])
        batch = self.family.step_batch(self.samples, ids, self._cut(step, length))
        for group in self.engine.optimizer.param_groups:
            group["lr"] = float(plan_row["learning_rate"])
        torch.manual_seed(keyed.key(self.spec.run.seed, "dropout", step, self.ranks.rank))
        totals = dict.fromkeys(batch.counts, 0.0)
        for rows, counted in self._micro_batches(batch.rows):
            if self.token_drop is not None:
                rows_B = torch.from_numpy(rows).to(self.ranks.device)
                self.token_drop.set_step(step, kept=kept, rows_B=rows_B, rows=batch.rows)
            sums = self.family.loss_sums(self.engine, batch.part(rows, self.ranks.device))
            # DeepSpeed averages gradients over ranks; each part of the loss is a mean over the whole step.
            scaled = [loss * (counted * self.ranks.world_size / batch.counts[name]) for name, loss in sums.items()]
            self.engine.backward(reduce(add, scaled))
            totals = {name: totals[name] + float(loss.detach()) * counted for name, loss in sums.items()}
        self.engine.step()
        means = {name: self.ranks.sum(total) / batch.counts[name] for name, total in totals.items()}
        loss = sum(means.values())
        self._check_finite(loss, step, ids)
        if self.average is not None:
            self.average.observe(step + 1)
        return {
            "step": step + 1,
            "loss": loss,
            **(means if len(means) > 1 else {}),
            "learning_rate": float(plan_row["learning_rate"]),
            "gradient_norm": float(self.engine.get_global_grad_norm()),
            "sequence_length": length,
            "kept_tokens": kept,
            "raw_tokens": int(plan_row["cumulative_raw_tokens"]),
            "effective_tokens": int(plan_row["cumulative_effective_tokens"]),
            **batch.facts,
        }

    def _cut(self, step: int, length: int) -> Cut:
        # An order of admission exists where a curriculum selects samples by their difficulty.
        selects = self.plan.order.admission is not None
        windows = self.plan.steps.get("window")
        window = None if windows is None else int(windows.iloc[step])
        return Cut(length, self.spec.length_apply, selects, self.spec.run.seed, step, window)

    def _micro_batches(self, rows: int) -> list[tuple[NDArray[np.int64], int]]:
        """This rank's micro-batches of a step: (row numbers, 1 or 0); 0 marks a repeated row that does not count.

        Every rank runs the same number of them, since some ZeRO stages communicate in each.
        """
        share = np.array_split(np.arange(rows, dtype=np.int64), self.ranks.world_size)
        passes = -(-len(share[0]) // self.hardware.micro_batch)
        own = share[self.ranks.rank]
        parts = np.array_split(own, passes) if len(own) else []
        counted = [(part, 1) for part in parts if len(part)]
        return counted + [(np.zeros(1, dtype=np.int64), 0)] * (passes - len(counted))

    def _check_finite(self, loss: float, step: int, ids: NDArray[np.int64]) -> None:
        norm = float(self.engine.get_global_grad_norm())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DataeffError(
                f"{self.spec.run.name}: loss {loss} and gradient norm {norm} at step {step + 1} "
                f"(samples {ids[:8].tolist()}...); lower learning_rate.peak or lengthen warmup_tokens. "
                f"The log and the checkpoints so far are kept in {self.state}"
            )

    def _probe(self) -> dict[str, float]:
        device = self.ranks.device
        measures = probe_measures(self.engine, self.family, self.probe, self.hardware.micro_batch, device)
        return {f"heldout_{name}": value for name, value in measures.items()}

    def _timed(self, what: str, work: Any) -> Any:
        begun = time.monotonic()
        result = work()
        self.seconds[what] += time.monotonic() - begun
        return result

    def _resume(self) -> int:
        """Loads the newest sound checkpoint; the number of steps done."""
        needed = average_files(self.hardware.zero_stage, self.ranks.world_size) if self.spec.averaging else []
        found = checkpoint.newest_sound(self.state, self.identity, needed)
        if found is None:
            return 0
        step, folder = found
        checkpoint.load(self.engine, folder, self.average)
        if self.ranks.rank == 0:
            print(f"{self.spec.run.name}: continues after step {step} from {folder}", flush=True)
        return step

    def _save(self, done: int, metrics: Log | None, timings: Log | None) -> None:
        if metrics is not None and timings is not None:
            metrics.sync()
            timings.sync()
        checkpoint.save(
            self.engine,
            self.state,
            done,
            self.identity,
            rank=self.ranks.rank,
            barrier=self.ranks.barrier,
            average=self.average,
        )

    def _exported_average(self) -> finish.Averaged | None:
        """Puts the average, if the run has one, in the place of the last weights; None on ranks without a part."""
        if self.average is None:
            return None
        self.average.replace_weights()
        return finish.Averaged(self.average.facts(), self._timed("heldout", self._probe))

    def _finish(self, out: Path, metrics: Log | None, timings: Log | None) -> None:
        averaged = self._exported_average()
        weights = finish.all_weights(self.network, self.hardware.zero_stage)
        if metrics is not None and timings is not None:
            finished = finish.Finished(
                self.spec,
                self.plan,
                self.identity,
                self.parameters,
                metrics.rows,
                self.state / "metrics.jsonl",
                timings.rows,
                self.seconds,
                self.ranks.world_size,
                self.hardware.threads,
                averaged,
            )
            finish.write(finished, self.network, weights, self.inputs.tokenizer, out)
            shutil.rmtree(self.state)
        self.ranks.barrier()
