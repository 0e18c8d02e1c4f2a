"""The training loop: reads a row of the plan, takes its samples, makes one optimizer step. It decides nothing else.

All randomness is keyed by (seed, step), so a checkpoint holds a step number and the engine's state, and a run that
was killed continues bit for bit on the same ranks, micro-batch, threads and software.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.families import find_family
from dataeff.plan import TrainingPlan
from dataeff.pretrain import checkpoint, compiled, events, finish, guards, memory_search
from dataeff.pretrain.average import WeightAverage
from dataeff.pretrain.engine import Ranks, make_engine, start_ranks
from dataeff.pretrain.input_files import InputFiles
from dataeff.pretrain.meter import Logs, Meter, PeakMemory, Progress
from dataeff.pretrain.owner import owned_by_all
from dataeff.pretrain.probe import probe_measures, probe_steps
from dataeff.pretrain.remedies import explained
from dataeff.pretrain.signals import EXIT_INTERRUPTED, Interrupted, StopRequest
from dataeff.pretrain.step import Steps
from dataeff.pretrain.timing import Beside, step_clock
from dataeff.pretrain.universal import Layout
from dataeff.pretrain.utilisation import Utilisation, device_of
from dataeff.pretrain.watch import Watch
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
    """Trains the run to its end, from its newest sound checkpoint if there is one, and writes the folder `out`.

    Ends the process with signals.EXIT_INTERRUPTED where a signal stops it; the next call continues.
    """
    started = time.monotonic()
    stop = StopRequest(spec.run.name)
    with stop.listening():
        ranks = start_ranks(hardware)
        try:
            with owned_by_all(state.with_name(f"{state.name}.owner"), ranks):
                _run(spec, inputs, state, out, hardware, ranks, started, stop)
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
    stop: StopRequest,
) -> None:
    plan = TrainingPlan.load(inputs.plan)
    identity = {"spec_digest": spec.digest, "plan_digest": plan.digest}
    ranks.barrier()  # rank 0 may have waited for another owner, which may have finished the run meanwhile
    if finish.is_finished(out, identity):
        print(f"{spec.run.name}: finished already with this spec and plan", flush=True)
        return
    Trainer(spec, inputs, plan, state, hardware, ranks, identity, stop).train(out, started)


class Trainer(Steps):
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
        stop: StopRequest | None = None,
    ) -> None:
        self.spec, self.inputs, self.plan, self.state = spec, inputs, plan, state
        self.hardware, self.ranks, self.identity = hardware, ranks, identity
        if hardware.tensorboard:
            events.check_installed(spec.run.name)
        self.stop = stop or StopRequest(spec.run.name)
        self.micro_batch = 1 if hardware.micro_batch == "auto" else hardware.micro_batch
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
        if hardware.compile:
            compiled.compile_layers(self.network, ranks.device)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.engine = make_engine(self.network, spec, hardware, ranks)
        self.clock = step_clock(ranks.device)
        self.average = WeightAverage.of_run(spec, plan, self.network, hardware, ranks)
        self.probe = self.family.probe_batch(inputs.heldout, spec.model.sequence_length)
        self.beside = Beside()
        self.watch = Watch(ranks, hardware.timeout_seconds, spec.run.name)
        self.skips = guards.Skips(hardware.max_skipped)
        self.kept = checkpoint.Kept(hardware.keep_last, hardware.keep_every)
        if hardware.compile:
            compiled.warm_up(self)

    @property
    def layout(self) -> Layout:
        """What this start's checkpoints and roundings depend on; all of it is known when training begins."""
        return Layout(self.ranks.world_size, self.hardware.zero_stage, self.spec.precision, self.micro_batch)

    @property
    def seconds(self) -> dict[str, float]:
        """What this start spends beside its steps, by what it goes to."""
        return self.beside.seconds

    def _check_samples(self) -> None:
        if self.samples.sequence_length > self.spec.model.sequence_length:
            raise DataeffError(
                f"{self.inputs.samples}: its samples have {self.samples.sequence_length} tokens, the model of "
                f"{self.spec.run.name} takes {self.spec.model.sequence_length}; make samples of that sequence_length"
            )

    def train(self, out: Path, started: float) -> None:
        needed = partial(checkpoint.bytes_needed, self.state, self.parameters, self.spec.precision)
        with ExitStack() as guarded:
            guarded.enter_context(explained(self.spec.run.name, self.state, lambda: self.micro_batch, needed))
            guarded.enter_context(self.watch.watching())
            if self.hardware.micro_batch == "auto":
                self.micro_batch = memory_search.micro_batch_of(self)
            files = InputFiles.of([self.inputs.plan, self.inputs.samples], self.inputs.tokens)
            guarded.enter_context(files.named_where_cut())
            self._train(out, started, files)

    def _train(self, out: Path, started: float, files: InputFiles) -> None:
        first = self._resume()
        total = len(self.plan.steps)
        consumed = self.columns["cumulative_effective_tokens"]
        meter = self._meter(first) if self.ranks.rank == 0 else None
        self.skips.in_a_row = self.ranks.of_first(guards.skipped_at_the_end(meter.logs.rows) if meter else 0)
        spikes = guards.SpikeWatch(meter.logs.rows if meter else [])
        probes = probe_steps(consumed, self.hardware.heldout_points, self.plan.facts["target_tokens"])
        self.beside.begin(started)
        self.stop.training_begins()
        for step, ids in enumerate(self.clock.steps(self.plan.order.iterate(first)), start=first):
            self.watch.reach(step + 1, "reading its samples")
            files.check()
            row = self.step(step, ids)
            times = self.clock.stop()
            if step in probes:
                self.watch.reach(step + 1, "measuring held-out text")
                row |= self._timed("heldout", self._probe)
            if meter is not None:
                meter.tell(row, times)
                spikes.tell(self.spec.run.name, row)
            if step + 1 < total:
                self._between_steps(step + 1, meter)
        self.watch.reach(total, "writing the model")
        self._finish(out, meter)

    def _meter(self, first: int) -> Meter:
        """What rank 0 keeps the logs with, from step `first` on."""
        name, total, consumed = self.spec.run.name, len(self.plan.steps), self.columns["cumulative_effective_tokens"]
        logs, config = Logs(self.state, first), cast(Any, self.network.config)
        progress = Progress(name, int(consumed[-1]), int(consumed[first - 1]) if first else 0)
        utilisation = Utilisation.of_run(
            self.spec,
            self.plan.steps,
            config.vocab_size,
            device_of(self.ranks.device, self.spec.precision),
            self.ranks.world_size,
            recompute=self.hardware.activation_checkpointing,
        )
        drawn = None
        if self.hardware.tensorboard:
            folder = events.folder_of(self.state, name)
            drawn = events.Events(folder, total, utilisation, logs.metrics.path, logs.timings.path)
        return Meter(logs, self.beside, progress, utilisation, total, first, drawn)

    def _between_steps(self, done: int, meter: Meter | None) -> None:
        """Saves where that is due, and where this was the last step for now, which all ranks know."""
        due = done % self.hardware.checkpoint_every == 0 or self.kept.for_good(done)
        if due or self.asked_to_stop:
            self.watch.reach(done, "saving a checkpoint")
            self._timed("checkpoint", lambda: self._save(done, meter))
        if self.asked_to_stop:
            if meter is not None:
                asked = self.stop.signal_name or "a signal to another rank"
                print(
                    f"{self.spec.run.name}: {asked}: stopped after step {done}, which is saved in {self.state}; "
                    f"the same command continues (exit code {EXIT_INTERRUPTED})",
                    flush=True,
                )
            raise Interrupted

    def _probe(self) -> dict[str, float]:
        device = self.ranks.device
        measures = probe_measures(self.engine, self.family, self.probe, self.micro_batch, device)
        return {f"heldout_{name}": value for name, value in measures.items()}

    def _timed(self, what: str, work: Any) -> Any:
        with self.beside.timed(what):
            return work()

    def _resume(self) -> int:
        """Loads the newest sound checkpoint, rank 0's choice; the number of steps done."""
        step = 0
        if self.ranks.rank == 0:
            averaged = self.spec.averaging is not None
            found = checkpoint.newest_sound(self.state, self.identity, averaged=averaged)
            step = found[0] if found else 0
        step = self.ranks.of_first(step)
        if step == 0:
            return 0
        folder = checkpoint.folder_of(self.state, step)
        saved = checkpoint.load(
            self.engine,
            folder,
            self.average,
            layout=self.layout,
            rank=self.ranks.rank,
            barrier=self.ranks.barrier,
        )
        if self.ranks.rank == 0:
            change = saved.change(self.layout)
            how = f", {change}: equal to rounding, not bit for bit" if change else ""
            print(f"{self.spec.run.name}: continues after step {step} from {folder}{how}", flush=True)
        return step

    def _save(self, done: int, meter: Meter | None) -> None:
        if meter is not None:
            meter.sync()
        checkpoint.save(
            self.engine,
            self.state,
            done,
            self.identity,
            rank=self.ranks.rank,
            barrier=self.ranks.barrier,
            layout=self.layout,
            average=self.average,
            kept=self.kept,
        )

    def _exported_average(self) -> finish.Averaged | None:
        """Puts the average, if the run has one, in the place of the last weights; None on ranks without a part."""
        if self.average is None:
            return None
        self.average.replace_weights()
        return finish.Averaged(self.average.facts(), self._timed("heldout", self._probe))

    def _finish(self, out: Path, meter: Meter | None) -> None:
        averaged = self._exported_average()
        weights = finish.all_weights(self.network, self.hardware.zero_stage)
        peak = PeakMemory.of_ranks(self.ranks)
        if meter is not None:
            meter.close()
            finished = finish.Finished(
                self.spec,
                self.plan,
                self.identity,
                self.parameters,
                meter.logs.rows,
                meter.logs.metrics.path,
                meter.logs.account,
                self.beside,
                meter.utilisation,
                peak,
                self.ranks.world_size,
                self.hardware.threads,
                self.micro_batch,
                averaged,
            )
            finish.write(finished, self.network, weights, self.inputs.tokenizer, out)
            checkpoint.clear(self.state, self.kept)
        self.ranks.barrier()
