"""TensorBoard's events of a run: metrics.jsonl and timings.jsonl as curves, over steps and over effective tokens.

One file a run. The two logs stay the truth: every start of a run writes the file anew from their rows, which a resumed
run has cut to the steps that count, and goes on from there; so there is no step twice and no file more for each start.
The file begins with the mark by which a TensorBoard that is watching forgets what it read before. A long run is thinned
to about MOST_POINTS steps, more than TensorBoard draws; held-out losses are all kept.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.pretrain.utilisation import Utilisation

MOST_POINTS = 10_000
FLUSH_SECONDS = 30
PREFIX = "events.out.tfevents."
OVER_TOKENS = "_over_effective_tokens"
"""Ends the group of a tag whose x axis is effective tokens: loss/train and loss_over_effective_tokens/train."""

TAGS = {
    "loss": "loss/train",
    "learning_rate": "plan/learning_rate",
    "sequence_length": "plan/sequence_length",
    "kept_tokens": "plan/kept_tokens",
    "gradient_norm": "loss/gradient_norm",
}
HELDOUT = "heldout_"


@dataclass(frozen=True)
class Before:
    """The tokens that were consumed before a step."""

    raw_tokens: int = 0
    effective_tokens: int = 0

    @classmethod
    def of(cls, row: dict[str, Any]) -> Before:
        return cls(row["raw_tokens"], row["effective_tokens"])


def check_installed(run: str) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise DataeffError(
            f"{run}: hardware.tensorboard is true, and the package tensorboard is not installed here; run `make setup` "
            f"again, or set it to false (metrics.jsonl holds the same numbers)"
        )


def folder_of(state: Path, run: str) -> Path:
    """`results/{scale}/tensorboard/{run}` of a state in `results/{scale}/state/{run}`."""
    return state.absolute().parent.parent / "tensorboard" / run


def scalars(row: dict[str, Any], seconds: float, before: Before, utilisation: Utilisation) -> dict[str, float]:
    """The values of a step by their tags, from its rows of the two logs; what was no number is left out."""
    speed = utilisation.speed(row["step"] - 1, 1, seconds)
    found = {tag: row[name] for name, tag in TAGS.items()}
    found |= {f"loss/{name}": value for name, value in row.items() if name.endswith("_loss") and _of_training(name)}
    found |= {f"heldout/{name.removeprefix(HELDOUT)}": row[name] for name in row if not _of_training(name)}
    found |= {
        "speed/step_seconds": seconds,
        "speed/raw_tokens_per_second": (row["raw_tokens"] - before.raw_tokens) / seconds,
        "speed/effective_tokens_per_second": (row["effective_tokens"] - before.effective_tokens) / seconds,
        "speed/model_teraflops_per_second": speed.model_teraflops,
        "speed/mfu": speed.mfu,
    }
    return {tag: float(value) for tag, value in found.items() if value is not None}


def _of_training(name: str) -> bool:
    return not name.startswith(HELDOUT)


class Events:
    """The events of a run of `steps` steps, in `folder`."""

    def __init__(self, folder: Path, steps: int, utilisation: Utilisation, metrics: Path, timings: Path) -> None:
        """`metrics`, `timings`: the logs, which hold the same steps."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from torch.utils.tensorboard import FileWriter

        self._steps, self._every = steps, -(-steps // MOST_POINTS)
        self._utilisation, self._before = utilisation, Before()
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{PREFIX}*"):
            old.unlink()
        self._writer = FileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step=0)
        self._write_rows(metrics, timings)

    def _write_rows(self, metrics: Path, timings: Path) -> None:
        """The steps before this start; times of day as if the run had never paused."""
        ago = sum(_whole_seconds(row) for row in _rows(timings))
        now = time.time()
        for row, taken in zip(_rows(metrics), _rows(timings), strict=True):
            ago -= _whole_seconds(taken)
            self.write(row, taken["seconds"], now - ago)
        self._writer.flush()

    def write(self, row: dict[str, Any], seconds: float, at: float | None = None) -> None:
        """A step's row of metrics.jsonl and its duration; `at`: the time of day, now if not given."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = row["step"]
        if step % self._every == 0 or step in (1, self._steps) or any(not _of_training(name) for name in row):
            values = scalars(row, seconds, self._before, self._utilisation)
            over_tokens = {tag.replace("/", f"{OVER_TOKENS}/"): value for tag, value in values.items()}
            for found, place in ((values, step), (over_tokens, row["effective_tokens"])):
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in found.items()])
                self._writer.add_summary(summary, place, walltime=at)
        self._before = Before.of(row)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _rows(log: Path) -> Iterator[dict[str, Any]]:
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _whole_seconds(row: dict[str, Any]) -> float:
    """A step and what came between it and the one before."""
    return float(row["seconds"]) + float(sum(row.get("beside", {}).values()))
