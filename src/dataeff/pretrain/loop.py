"""The training loop: reads a row of the plan, takes its samples, makes one optimizer step. It decides nothing else.

All randomness is keyed by (seed, step), so a checkpoint holds a step number and the engine's state, and a run that
was killed continues bit for bit on the same ranks, micro-batch, threads and software.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.families import family
from dataeff.files import MANIFEST, atomic_directory, check_manifest, read_json, write_json, write_manifest
from dataeff.plan import TrainingPlan
from dataeff.pretrain import checkpoint
from dataeff.pretrain.engine import Ranks, make_engine, start_ranks
from dataeff.pretrain.meter import Log, Progress, peak_memory_bytes
from dataeff.pretrain.owner import owned
from dataeff.pretrain.probe import probe_loss, probe_rows, probe_steps
from dataeff.provenance import provenance
from dataeff.samples import Samples
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
    if _finished(out, identity):
        print(f"{spec.run.name}: finished already with this spec and plan", flush=True)
        return
    Trainer(spec, inputs, plan, state, hardware, ranks, identity).train(out, started)


def _finished(out: Path, identity: dict[str, str]) -> bool:
    if not (out / MANIFEST).is_file() or check_manifest(out) is not None:
        return False
    facts = read_json(out / "run.json")
    return all(facts.get(name) == digest for name, digest in identity.items())


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
        self.family = family(spec.run.family)
        self.samples = Samples(inputs.samples, inputs.tokens)
        tokenizer = load_tokenizer(inputs.tokenizer)
        torch.manual_seed(keyed.key(spec.run.seed, "initial weights"))
        self.network = self.family.build_model(
            spec.model, vocabulary=tokenizer.padded_vocab_size(), eos_id=tokenizer.eos_id
        )
        self.token_drop = (
            TokenDrop.attach(self.network, layers=spec.dropped_layers, seed=spec.run.seed)
            if spec.dropped_layers
            else None
        )
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.engine = make_engine(self.network, spec, hardware, ranks)
        self.probe = probe_rows(inputs.heldout, inputs.tokenizer, spec.model.sequence_length).to(ranks.device)
        self.seconds = {"heldout": 0.0, "checkpoint": 0.0}

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
        startup_seconds = time.monotonic() - started
        for step, ids in enumerate(self.plan.order.iterate(first), start=first):
            begun = time.monotonic()
            row = self.step(step, ids)
            step_seconds = time.monotonic() - begun
            if step in probes:
                row["heldout_loss"] = self._timed("heldout", self._probe)
            if metrics is not None and timings is not None:
                metrics.write(row)
                timings.write({"step": step + 1, "seconds": round(step_seconds, 6)})
                progress.show(row, total, now=step + 1 == total)
            if (step + 1) % self.hardware.checkpoint_every == 0 and step + 1 < total:
                self._timed("checkpoint", lambda done=step + 1: self._save(done, metrics, timings))
        if metrics is not None and timings is not None:
            metrics.close()
            timings.close()
        self._export(out, metrics, timings, startup_seconds)

    def step(self, step: int, ids: NDArray[np.int64]) -> dict[str, Any]:
        """One optimizer step on the samples `ids`; returns its metrics row."""
        plan_row = self.plan.steps.iloc[step]
        length, kept = int(plan_row["sequence_length"]), int(plan_row["kept_tokens"])
        batch = self.family.cut(self.samples.read(ids), length, self.spec.length_apply)
        tokens = batch.shape[0] * (batch.shape[1] - 1)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = float(plan_row["learning_rate"])
        torch.manual_seed(keyed.key(self.spec.run.seed, "dropout", step, self.ranks.rank))
        loss_sum = 0.0
        for rows, counted in self._micro_batches(len(batch)):
            if self.token_drop is not None:
                self.token_drop.set_step(step, kept=kept, rows_B=torch.from_numpy(rows).to(self.ranks.device))
            part = torch.from_numpy(batch[rows]).to(self.ranks.device)
            loss, _ = self.family.loss_sum(self.engine, part)
            # DeepSpeed averages gradients over ranks; the loss is a mean over the whole step's tokens.
            self.engine.backward(loss * (counted * self.ranks.world_size / tokens))
            loss_sum += float(loss.detach()) * counted
        self.engine.step()
        mean = self.ranks.sum(loss_sum) / tokens
        self._check_finite(mean, step, ids)
        return {
            "step": step + 1,
            "loss": mean,
            "learning_rate": float(plan_row["learning_rate"]),
            "gradient_norm": float(self.engine.get_global_grad_norm()),
            "sequence_length": length,
            "kept_tokens": kept,
            "raw_tokens": int(plan_row["cumulative_raw_tokens"]),
            "effective_tokens": int(plan_row["cumulative_effective_tokens"]),
        }

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

    def _probe(self) -> float:
        return probe_loss(self.engine, self.probe, self.family.loss_sum, self.hardware.micro_batch)

    def _timed(self, what: str, work: Any) -> Any:
        begun = time.monotonic()
        result = work()
        self.seconds[what] += time.monotonic() - begun
        return result

    def _resume(self) -> int:
        """Loads the newest sound checkpoint; the number of steps done."""
        found = checkpoint.newest_sound(self.state, self.identity)
        if found is None:
            return 0
        step, folder = found
        checkpoint.load(self.engine, folder)
        if self.ranks.rank == 0:
            print(f"{self.spec.run.name}: continues after step {step} from {folder}", flush=True)
        return step

    def _save(self, done: int, metrics: Log | None, timings: Log | None) -> None:
        if metrics is not None and timings is not None:
            metrics.sync()
            timings.sync()
        checkpoint.save(self.engine, self.state, done, self.identity, rank=self.ranks.rank, barrier=self.ranks.barrier)

    def _export(self, out: Path, metrics: Log | None, timings: Log | None, startup_seconds: float) -> None:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        weights = self._weights()
        if metrics is not None and timings is not None:
            with atomic_directory(out) as temporary:
                self.network.config.use_cache = True
                self.network.save_pretrained(temporary, state_dict=weights)
                for file in self.inputs.tokenizer.iterdir():
                    if file.name != MANIFEST:
                        shutil.copyfile(file, temporary / file.name)
                shutil.copyfile(self.state / "metrics.jsonl", temporary / "metrics.jsonl")
                write_json(temporary / "run.json", self._facts(metrics))
                write_manifest(temporary)
                write_json(temporary / "timings.json", self._timings(timings, startup_seconds))
            shutil.rmtree(self.state)
        self.ranks.barrier()

    def _weights(self) -> dict[str, Any]:
        """The full state on every rank, gathered where ZeRO 3 has split the parameters."""
        if self.hardware.zero_stage < 3:
            return dict(self.network.state_dict())
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.network.parameters())):
            return {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def _facts(self, metrics: Log) -> dict[str, Any]:
        tail = metrics.rows[-max(1, len(metrics.rows) // 20) :]
        return {
            "run": self.spec.run.model_dump(mode="json"),
            "name": self.spec.run.name,
            **self.identity,
            "parameters": self.parameters,
            "steps": len(metrics.rows),
            "raw_tokens": metrics.rows[-1]["raw_tokens"],
            "effective_tokens": metrics.rows[-1]["effective_tokens"],
            "epochs": self.plan.facts["epochs"],
            "final_training_loss": sum(row["loss"] for row in tail) / len(tail),
            "heldout_loss": metrics.rows[-1]["heldout_loss"],
            **provenance().model_dump(mode="json"),
        }

    def _timings(self, timings: Log, startup_seconds: float) -> dict[str, Any]:
        seconds = sum(row["seconds"] for row in timings.rows)
        return {
            "training_seconds": round(seconds, 3),
            "steps_per_second": round(len(timings.rows) / seconds, 4),
            "raw_tokens_per_second": round(self.plan.facts["raw_tokens"] / seconds, 1),
            "effective_tokens_per_second": round(self.plan.facts["effective_tokens"] / seconds, 1),
            "startup_seconds": round(startup_seconds, 3),
            "heldout_seconds": round(self.seconds["heldout"], 3),
            "checkpoint_seconds": round(self.seconds["checkpoint"], 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "world_size": self.ranks.world_size,
            "threads": self.hardware.threads,
        }
