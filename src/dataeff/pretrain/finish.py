"""The folder of a finished run: what the library opens, and what is known of the run. Whole or not there at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dataeff.files import MANIFEST, atomic_directory, check_manifest, read_json, write_json, write_manifest
from dataeff.plan import TrainingPlan
from dataeff.pretrain.guards import guard_facts
from dataeff.pretrain.meter import PeakMemory
from dataeff.pretrain.timing import Account, Beside
from dataeff.pretrain.utilisation import Utilisation
from dataeff.provenance import provenance
from dataeff.study.specs import PretrainSpec

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Averaged:
    """The average that is exported in place of the last weights: what it is of, and its held-out measures."""

    facts: Mapping[str, Any]
    heldout: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """What a run has come to. `metrics`: a row per step, which `metrics_file` holds; `account`: of timings.jsonl."""

    spec: PretrainSpec
    plan: TrainingPlan
    identity: Mapping[str, str]
    parameters: int
    metrics: Rows
    metrics_file: Path
    account: Account
    beside: Beside
    """What this start spent since the account's last row is the export's."""
    utilisation: Utilisation
    peak: PeakMemory
    world_size: int
    threads: int
    micro_batch: int
    averaged: Averaged | None = None

    def facts(self) -> dict[str, Any]:
        """run.json"""
        last, tail = self.metrics[-1], self.metrics[-max(1, len(self.metrics) // 20) :]
        return {
            "run": self.spec.run.model_dump(mode="json"),
            "name": self.spec.run.name,
            **self.identity,
            "parameters": self.parameters,
            "steps": len(self.metrics),
            "raw_tokens": last["raw_tokens"],
            "effective_tokens": last["effective_tokens"],
            "epochs": self.plan.facts["epochs"],
            "final_training_loss": _mean([row["loss"] for row in tail if row["loss"] is not None]),
            **guard_facts(self.metrics),
            **self._heldout({name: value for name, value in last.items() if name.startswith("heldout_")}),
            **provenance().model_dump(mode="json"),
        }

    def _heldout(self, of_last_weights: dict[str, float]) -> dict[str, Any]:
        """The held-out measures of the exported weights and, where these are an average, those of the last ones."""
        if self.averaged is None:
            return of_last_weights
        renamed = {f"{name}_of_last_weights": value for name, value in of_last_weights.items()}
        return {
            **self.averaged.heldout,
            "averaging": {**self.averaged.facts, **self.averaged.heldout, **renamed},
        }

    def times(self) -> dict[str, Any]:
        """timings.json; the export's seconds are those until this is asked for."""
        account = deepcopy(self.account)
        account.add_beside(self.beside.take(0.0, rest="export"))
        seconds = account.step_seconds
        return {
            "training_seconds": round(seconds, 3),
            "steps_per_second": round(account.steps / seconds, 4),
            "raw_tokens_per_second": round(self.plan.facts["raw_tokens"] / seconds, 1),
            "effective_tokens_per_second": round(self.plan.facts["effective_tokens"] / seconds, 1),
            **{f"{name}_seconds": round(account.beside[name], 3) for name in ("startup", "heldout", "checkpoint")},
            "peak_memory_bytes": self.peak.host_bytes,
            "peak_cuda_allocated_bytes": self.peak.cuda_allocated_bytes,
            "peak_cuda_reserved_bytes": self.peak.cuda_reserved_bytes,
            "world_size": self.world_size,
            "threads": self.threads,
            "micro_batch": self.micro_batch,
            "heldout_points": [
                {"step": row["step"], "training_seconds": round(account.ends[row["step"] - 1], 3)}
                for row in self.metrics
                if "heldout_loss" in row
            ],
            "utilisation": self.utilisation.facts(seconds),
            **account.facts(),
        }


def _mean(losses: list[float]) -> float | None:
    """None where each of the steps was passed over."""
    return sum(losses) / len(losses) if losses else None


def write(finished: Finished, network: Any, weights: dict[str, Any], tokenizer: Path, out: Path) -> None:
    """Writes model, tokenizer, metrics.jsonl, run.json and timings.json; timings differ from one execution to the
    next and are no part of the manifest.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with atomic_directory(out) as temporary:
        network.config.use_cache = True
        network.save_pretrained(temporary, state_dict=weights)
        _copy((file for file in tokenizer.iterdir() if file.name != MANIFEST), temporary)
        _copy([finished.metrics_file], temporary)
        write_json(temporary / "run.json", finished.facts())
        write_manifest(temporary)
        write_json(temporary / "timings.json", finished.times())


def _copy(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        shutil.copyfile(file, folder / file.name)


def all_weights(network: nn.Module, zero_stage: int) -> dict[str, Any]:
    """The full state, gathered where ZeRO 3 has split the parameters: all ranks call it."""
    if zero_stage < 3:
        return dict(network.state_dict())
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(network.parameters())):
        return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def is_finished(out: Path, identity: Mapping[str, str]) -> bool:
    """Whether the folder is whole and of this spec and plan."""
    if not (out / MANIFEST).is_file() or check_manifest(out) is not None:
        return False
    facts = read_json(out / "run.json")
    return all(facts.get(name) == digest for name, digest in identity.items())
