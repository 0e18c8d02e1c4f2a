"""Small runs for tests, from text files to a finished model, each training in a process of its own.

Processes are forked from a server that has imported torch and DeepSpeed once: a run then starts in a tenth of a
second instead of six, and can be killed like any other process.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from dataeff import plan
from dataeff.analyze import difficulty
from dataeff.corpus.build import build as build_corpus
from dataeff.corpus.fetch import fetch
from dataeff.pretrain.checkpoint import list_checkpoints
from dataeff.samples import build as build_samples
from dataeff.study.load import Study
from dataeff.study.specs import (
    AnalyzeSpec,
    CorpusSpec,
    FetchSpec,
    PlanSpec,
    PretrainSpec,
    SamplesSpec,
    TokensSpec,
    read_spec,
    write_spec,
    write_specs,
)
from dataeff.tokens.encode import encode
from dataeff.tokens.tokenizer import train
from tests.factory import config, load, path_source

STEPS = 16
CHECKPOINT_EVERY = 3
# The project's variants start at a 26th or a 16th of the length and at 1 percent: too little of 64 tokens and 8 rows.
SHORT_PACINGS = {
    "cl_seqtru": {"curriculum": {"seqlen": {"pacing": {"start": "1/4"}}}},
    "cl_seqres": {"curriculum": {"seqlen": {"pacing": {"start": "1/4"}}}},
    "cl_voc": {"curriculum": {"vocab_rarity": {"pacing": {"start": 20}}}},
    "ltd": {"token_drop": {"pacing": {"start": "1/4", "multiple_of": 8}}},
}
BERT_PACINGS = {
    "cl_voc": {"curriculum": {"vocab_rarity": {"pacing": {"start": 20}}}},
    "ltd": {"token_drop": {"pacing": {"multiple_of": 8}}},
}
FAMILIES = ("gpt", "bert")
VARIANTS = {"gpt": ["baseline", "cl_seqres", "ltd", "composed"], "bert": ["baseline", "cl_voc", "composed"]}
TOKENIZERS = {
    "gpt": ("bpe320", {"kind": "bpe", "vocab_size": 320}),
    "bert": ("pieces320", {"kind": "wordpiece", "vocab_size": 320}),
}
_PRELOADED = [
    "dataeff.cli",
    "dataeff.pretrain.loop",
    "dataeff.families.bert_network",
    "deepspeed",
    "pandas",
    "transformers.models.gpt2.modeling_gpt2",
]
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "TOKENIZERS_PARALLELISM": "false"}


def study_of(folder: Path, scale: str, *, dropout: float = 0.1, peak: float = 5e-3, sequence_length: int = 64) -> Study:
    """16 nominal steps of 8 x 64 of a GPT-2 and a BERT of 4 layers x 32 on made-up text; the scale's name is free."""
    model = {"layers": 4, "hidden": 32, "heads": 2, "sequence_length": sequence_length, "dropout": dropout}
    rate = {"peak": peak, "minimum": 5e-5, "warmup_tokens": 1024}
    family = {
        "model": model,
        "train_tokens": STEPS * 8 * 64,
        "batch_size": 8,
        "learning_rate": rate,
        "max_epochs": 8,
    }
    evaluation = {"tasks": [], "shots": [0], "items": 1, "heldout_bytes_per_domain": 1000}
    raw = config(
        scale=scale,
        results=str(folder / "results"),
        scales={
            scale: {
                "about": "a test's",
                "corpus": "made_up",
                "families": {name: {"tokenizer": TOKENIZERS[name][0], **family} for name in FAMILIES},
                "evaluation": evaluation,
            }
        },
        sources={"made_up": path_source(folder / "text")},
        corpora={"made_up": {"about": "made up", "sources": ["made_up"], "shards": 2}},
        tokenizers=dict(TOKENIZERS.values()),
        variants={"gpt": SHORT_PACINGS, "bert": BERT_PACINGS},
        grids={"core": [{"family": name, "variants": VARIANTS[name]} for name in FAMILIES]},
    )
    return load(raw)


def write_text(folder: Path) -> None:
    """60 documents of about 900 characters in 6 to 14 sentences over 600 made-up words, common ones far more often."""
    random = np.random.default_rng(0)
    syllables = ["ba", "ke", "ti", "lo", "mu", "ran", "sel", "dor", "vin", "ast"]
    words = ["".join(random.choice(syllables, size=random.integers(1, 4))) for _ in range(600)]
    shares = 1 / np.arange(1, 601)
    folder.mkdir()
    for number in range(60):
        ends = np.cumsum(random.integers(6, 30, size=14))
        sentences = np.split(random.choice(words, size=170, p=shares / shares.sum()), ends[ends < 170])
        (folder / f"{number:02d}.txt").write_text(" ".join(f"{' '.join(part).capitalize()}." for part in sentences))


@dataclass(frozen=True)
class Material:
    """Everything that training reads, of all runs of one scale."""

    folder: Path
    study: Study

    @property
    def data(self) -> Path:
        return self.folder / "results/data/made_up"

    def tokenized(self, family: str) -> Path:
        return self.data / TOKENIZERS[family][0]

    def item(self, family: str) -> Path:
        return self.tokenized(family) / f"{family}-64"

    def token_files(self, family: str) -> list[Path]:
        return [self.tokenized(family) / "tokens" / shard for shard in ("00", "01")]

    @property
    def scale(self) -> Path:
        return self.folder / "results" / self.study.scale_name

    def make_data(self) -> None:
        specs = self.folder / "results/data"
        write_specs(self.study, self.folder / "results")
        manifest = specs / "sources/made_up.json"
        fetch(read_spec(specs / "sources/specs/made_up.yaml", FetchSpec), self.folder / "cache", manifest)
        build_corpus(read_spec(self.data / "specs/corpus.yaml", CorpusSpec), [manifest], self.data)
        for family in FAMILIES:
            self._make_samples(family)

    def _make_samples(self, family: str) -> None:
        name, tokenizer, tokens = TOKENIZERS[family][0], self.tokenized(family) / "tokenizer", self.token_files(family)
        shards = [self.data / f"shards/{path.name}.jsonl.zst" for path in tokens]
        train(read_spec(self.data / f"specs/tokens-{name}.yaml", TokensSpec), shards, tokenizer)
        for shard, prefix in zip(shards, tokens, strict=True):
            encode(shard, tokenizer, prefix)
        item = self.item(family)
        specs = self.data / "specs" / name / item.name
        samples = item / "samples"
        build_samples(read_spec(specs / "samples.yaml", SamplesSpec), tokens, samples)
        frequency = item / "analyze/frequency.npy"
        difficulty.frequency(samples, tokens, tokenizer, frequency)
        spec = read_spec(specs / "analyze-vocab_rarity.yaml", AnalyzeSpec)
        difficulty.analyze(spec, samples, tokens, frequency, item / "analyze/vocab_rarity", tokenizer=tokenizer)

    def make_plans(self) -> None:
        write_specs(self.study, self.folder / "results")
        for run in self.study.runs:
            spec = read_spec(self.scale / f"specs/plan/{run.name}.yaml", PlanSpec)
            item = self.item(run.family)
            indexes = {metric: item / "analyze" / metric for metric in self.study.variant(run).selections}
            plan.run(spec, item / "samples", indexes, self.scale / "plan" / run.name)

    def training(self, variant: str, place: Path, family: str = "gpt", **hardware: int | str | bool) -> Training:
        return Training(self, family, f"{family}-{variant}-100-s1234", place, hardware)


@dataclass(frozen=True)
class Training:
    """One run at one place: started, killed, started again."""

    material: Material
    family: str
    name: str
    place: Path
    hardware: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.place / "out"

    @property
    def state(self) -> Path:
        return self.place / "state"

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    @property
    def arguments(self) -> list[str]:
        material = self.material
        files: dict[str, Path] = {
            "spec": material.scale / f"specs/pretrain/{self.name}.yaml",
            "plan": material.scale / "plan" / self.name,
            "samples": material.item(self.family) / "samples",
            "tokenizer": material.tokenized(self.family) / "tokenizer",
            "heldout": material.data / "heldout",
            "state": self.state,
            "out": self.out,
        }
        hardware = {"checkpoint_every": CHECKPOINT_EVERY, "heldout_points": 2, **self.hardware}
        options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
        options += [
            word for name, value in hardware.items() for word in (f"--{name.replace('_', '-')}", str(value).lower())
        ]
        return ["pretrain", *options, "--tokens", *map(str, material.token_files(self.family))]

    def start(self, prepare: Callable[[], None] | None = None) -> BaseProcess:
        """`prepare` (a function of a module) runs in the process before anything else."""
        self.place.mkdir(parents=True, exist_ok=True)
        process = _server().Process(target=_main, args=(self.arguments, self.place / "log", {}, prepare))
        process.start()
        return process

    def start_ranks(self, count: int, prepare: Callable[[], None] | None = None) -> RankProcesses:
        """As torchrun starts them, which takes seconds: each a process of its own, the store in this one."""
        from torch.distributed import TCPStore

        self.place.mkdir(parents=True, exist_ok=True)
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
        sizes = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        processes = []
        for rank in range(count):
            own = {name: str(value) for name, value in {**shared, **sizes, "RANK": rank, "LOCAL_RANK": rank}.items()}
            arguments = (self.arguments, self.place / "log", own, prepare)
            processes.append(_server().Process(target=_main, args=arguments))
            processes[-1].start()
        return RankProcesses(self, processes, store)

    def finish_ranks(self, count: int, prepare: Callable[[], None] | None = None) -> Training:
        """Runs on `count` ranks to the end."""
        assert self.start_ranks(count, prepare).ends() == [0] * count, self.log
        return self

    def finish(self) -> Training:
        """Runs to the end; the test fails with the log where that fails."""
        process = self.start()
        process.join()
        assert process.exitcode == 0, self.log
        return self

    def fail(self) -> str:
        """Runs to its failure; what it said."""
        process = self.start()
        process.join()
        assert process.exitcode == 1, self.log
        return self.log

    def kill_after(self, rows: int) -> None:
        """Starts the run and ends it by SIGKILL as soon as its metrics hold this many rows."""
        process = self.start()
        self.wait_for(process, lambda: self.rows() >= rows)
        process.kill()
        process.join()
        assert process.exitcode == -9, self.log

    def wait_for(self, process: BaseProcess, condition: Callable[[], bool]) -> None:
        while not condition():
            assert process.is_alive(), self.log
            time.sleep(0.002)

    def rows(self) -> int:
        path = self.state / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def finish_with_torchrun(self) -> Training:
        """As a user's command does it where there are several ranks."""
        self.place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dataeff", *self.arguments]
        done = subprocess.run(command, env={**os.environ, **_ON_CPU}, capture_output=True, text=True)
        (self.place / "log").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, self.log
        return self

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> np.ndarray:
        return np.array([row["loss"] for row in self.metrics])

    @property
    def checkpoints(self) -> list[int]:
        return [step for step, _ in list_checkpoints(self.state)]


@dataclass(frozen=True)
class PreciseTraining(Training):
    """A run whose spec differs in its precision alone."""

    precision: str = "fp32"

    @property
    def arguments(self) -> list[str]:
        words = super().arguments
        place = words.index("--spec") + 1
        own = self.place / "spec.yaml"
        spec = read_spec(Path(words[place]), PretrainSpec)
        own.parent.mkdir(parents=True, exist_ok=True)
        write_spec(own, spec.model_copy(update={"precision": self.precision}))
        return [*words[:place], str(own), *words[place + 1 :]]


def in_precision(run: Training, precision: str) -> PreciseTraining:
    return PreciseTraining(run.material, run.family, run.name, run.place, run.hardware, precision)


@dataclass(frozen=True)
class RankProcesses:
    """The ranks of a training that runs. `store`: what they share; it lives as long as this does."""

    training: Training
    processes: list[BaseProcess]
    store: Any

    def wait_for_rows(self, rows: int) -> None:
        self.training.wait_for(self.processes[0], lambda: self.training.rows() >= rows)

    def signal(self, number: int, *ranks: int) -> None:
        for rank in ranks or range(len(self.processes)):
            pid = self.processes[rank].pid
            if pid is not None and self.processes[rank].is_alive():
                os.kill(pid, number)

    def ends(self, seconds: float = 120) -> list[int | None]:
        """Waits for all; their exit codes. None: still running, and killed now."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def kill(self) -> None:
        """All at once: one that outlives another would tidy up after itself."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def start_server() -> None:
    """Starts the server with the environment of a machine without a graphics card."""
    from multiprocessing.forkserver import ensure_running

    before = {name: os.environ.get(name) for name in _ON_CPU}
    os.environ.update(_ON_CPU)
    try:
        _server()
        ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _main(
    arguments: list[str], log: Path, environment: dict[str, str], prepare: Callable[[], None] | None = None
) -> None:
    os.environ.update(environment)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if prepare is not None:
        prepare()
    from dataeff.cli import main

    main(arguments)
