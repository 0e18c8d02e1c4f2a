"""A short training in a process of its own, and what is shown while it runs."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.progress import EVERY_SECONDS, clock
from dataeff.study.base import FamilyName
from dataeff.tune import worker
from dataeff.tune.evidence import read_metrics

_POLL_SECONDS, _SECONDS_TO_END = 0.05, 10.0
_NETWORKS: dict[FamilyName, str] = {
    "gpt": "transformers.models.gpt2.modeling_gpt2",
    "bert": "transformers.models.megatron_bert.modeling_megatron_bert",
}


def run_training(folder: Path, family: FamilyName, show: Callable[[], None]) -> None:
    """Runs a prepared training to its end, calling `show` meanwhile. An interruption ends it too, and leaves its
    checkpoints; a failure raises a DataeffError with the last line of its log.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once for all trainings. None of these asks for a GPU meanwhile, so that a forked process still may.
    context.set_forkserver_preload(["pandas", "dataeff.pretrain.loop", _NETWORKS[family]])
    process = context.Process(target=worker.start, args=(str(folder),))
    process.start()
    try:
        while process.is_alive():
            process.join(_POLL_SECONDS)
            show()
    finally:
        process.terminate()  # torchrun, where it is one, ends its ranks with it
        process.join(_SECONDS_TO_END)
        process.kill()
        process.join()
    if process.exitcode != 0:
        log = folder / worker.LOG
        raise DataeffError(f"{log}: a short training failed: {_last_line(log)}")


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Progress:
    """A line every few seconds: the step, the held-out loss, the time left of this training and of all at most."""

    def __init__(self, name: str, metrics: Path, steps: int, tokens: int, seconds: float, others: int) -> None:
        """`metrics`: its metrics.jsonl; `steps` and `tokens`: all of them; `seconds`: what a training is expected to
        take; `others`: trainings to come at most.
        """
        self._name, self._metrics, self._steps, self._tokens = name, metrics, steps, tokens
        self._seconds, self._others = seconds, others
        self._begun = self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None

    def show(self) -> None:
        now = time.monotonic()
        if now - self._shown < EVERY_SECONDS:
            return
        self._shown = now
        step, tokens, probes, _ = read_metrics(self._metrics)
        if self._first is not None and not step:
            return  # it is done, and its files are being put away
        if self._first is None and step:
            self._first = now, tokens
        loss = f", held-out loss {probes[-1].loss:.3f}" if probes else ""
        left = self._left_seconds(now, tokens)
        all_others = f", {clock(left + self._others * self._seconds)} with all others" if self._others else ""
        print(f"{self._name}: step {step:,} of {self._steps:,}{loss}, {clock(left)} left{all_others}", flush=True)

    def _left_seconds(self, now: float, tokens: int) -> float:
        """At the pace since the first line that saw a step; before that, what is left of the expected time."""
        if self._first is None or tokens <= self._first[1]:
            return max(0.0, self._seconds - (now - self._begun))
        at, first = self._first
        return (now - at) * (self._tokens - tokens) / (tokens - first)
