"""How far a training is: steps, tokens per second, time left and the held-out loss, from the logs of its state.

`state/{run}/metrics.jsonl` has a row a step, `timings.jsonl` its seconds, `state/{run}.owner` who writes them.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataeff.monitor.found_study import FoundStudy
from dataeff.monitor.items import Item
from dataeff.monitor.markers import Markers
from dataeff.monitor.reading import last_lines, last_row_with, last_rows, look
from dataeff.monitor.states import SHOWN_LINES, Judged, Owner, State, judge, owner_of
from dataeff.study.specs import plan_spec, pretrain_spec
from dataeff.study.types import Run

HELDOUT = "heldout_loss"


@dataclass(frozen=True)
class Training:
    """One run's training. Steps and tokens are None until its plan is there, and what is measured until it is."""

    run: Run
    state: State
    steps_done: int = 0
    steps: int | None = None
    tokens_per_second: float | None = None
    left_seconds: float | None = None
    heldout_loss: float | None = None
    heldout_step: int | None = None
    loss: float | None = None
    owner: Owner | None = None
    silent_seconds: float | None = None
    remark: str = ""


class Trainings:
    """Judges trainings again and again, and remembers what it had to look for in long files."""

    def __init__(self, found: FoundStudy) -> None:
        self._found = found
        self._heldout: dict[Path, dict[str, Any]] = {}
        study = found.study
        self._plans = {run.name: plan_spec(study, run).digest for run in found.runs}
        self._specs = {run.name: pretrain_spec(study, run).digest for run in found.runs}

    def wanted(self, item: Item) -> dict[str, Any]:
        """What the item's own record must say to be the present study's: the digests of what it was made from."""
        if item.run is None or item.identity is None:
            return {}
        if item.stage == "plan":
            return {"spec_digest": self._plans[item.run.name]}
        plan = _read(self._found.scale / f"plan/{item.run.name}/plan.json")
        return {"spec_digest": self._specs[item.run.name], **({"plan_digest": plan["digest"]} if plan else {})}

    def judge(self, item: Item, markers: Markers, now: float | None = None) -> tuple[Judged, Training]:
        """The item of stage pretrain, and what is known of its run."""
        assert item.run is not None
        now = time.time() if now is None else now
        run, judged = item.run, judge(item, markers, self.wanted(item), now)
        state = self._found.scale / f"state/{run.name}"
        owner = owner_of(state.with_name(f"{run.name}.owner"))
        if judged.state == "finished" and owner is None:
            return judged, self._finished(run)
        training = self._under_way(run, state, owner, judged, now)
        if owner is None and judged.state == "pending" and training.steps_done:
            lines = tuple(last_lines(item.log, SHOWN_LINES))
            judged = Judged(item, "stopped", lines[-1] if lines else "", judged.seconds, lines)
        elif owner is not None:
            judged = Judged(item, "running", judged.detail, training.silent_seconds)
        return judged, replace(training, state=judged.state)

    def _finished(self, run: Run) -> Training:
        folder = self._found.scale / f"pretrain/{run.name}"
        facts, times = _read(folder / "run.json"), _read(folder / "timings.json")
        steps = int(facts.get("steps", 0))
        return Training(
            run,
            "finished",
            steps,
            steps,
            times.get("effective_tokens_per_second"),
            heldout_loss=facts.get(HELDOUT),
            heldout_step=steps,
            loss=facts.get("final_training_loss"),
        )

    def _under_way(self, run: Run, state: Path, owner: Owner | None, judged: Judged, now: float) -> Training:
        plan = _read(self._found.scale / f"plan/{run.name}/plan.json")
        rows, timings = last_rows(state / "metrics.jsonl"), last_rows(state / "timings.jsonl", 8192)
        total = int(plan["effective_tokens"]) if plan else None
        pace = tokens_per_second(rows, timings)
        done = int(rows[-1]["effective_tokens"]) if rows else 0
        left = (total - done) / pace if total is not None and pace else None
        probe = self._last_probe(state / "metrics.jsonl", rows)
        silent = _silent(now, state / "timings.jsonl", state.with_name(f"{run.name}.owner"))
        if judged.seconds is not None:
            silent = judged.seconds if silent is None else min(silent, judged.seconds)
        limit = max(float(self._found.study.hardware.timeout_seconds), 20 * _typical_seconds(timings))
        late = owner is not None and owner.alive is None and silent is not None and silent > limit
        return Training(
            run,
            judged.state,
            int(rows[-1]["step"]) if rows else 0,
            int(plan["steps"]) if plan else None,
            pace,
            left if owner is not None else None,
            probe.get(HELDOUT),
            probe.get("step"),
            rows[-1].get("loss") if rows else None,
            owner,
            silent,
            "silent" if late else "",
        )

    def _last_probe(self, path: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The last row with a held-out measure: rarely near the end of the file, so looked for once and then kept."""
        near = next((row for row in reversed(rows) if HELDOUT in row), None)
        known = self._heldout.get(path)
        if near is None and known is not None and rows and known["step"] <= rows[-1]["step"]:
            return known
        found = near or (last_row_with(path, HELDOUT) if rows else None) or {}
        if found:
            self._heldout[path] = found
        return found


def tokens_per_second(rows: list[dict[str, Any]], timings: list[dict[str, Any]]) -> float | None:
    """The pace of the last steps that both logs have at their ends, of which the first is where counting begins."""
    seconds = {int(row["step"]): float(row["seconds"]) for row in timings}
    tokens = {int(row["step"]): int(row["effective_tokens"]) for row in rows}
    steps = sorted(seconds.keys() & tokens.keys())
    if len(steps) < 2:
        return None
    spent = sum(seconds[step] for step in steps[1:])
    return (tokens[steps[-1]] - tokens[steps[0]]) / spent if spent > 0 else None


def _typical_seconds(timings: list[dict[str, Any]]) -> float:
    seconds = sorted(float(row["seconds"]) for row in timings)
    return seconds[len(seconds) // 2] if seconds else 0.0


def _silent(now: float, *paths: Path) -> float | None:
    """Seconds since any of these was written."""
    times = [seen.changed for path in paths if (seen := look(path)) is not None]
    return max(0.0, now - max(times)) if times else None


def _read(path: Path) -> dict[str, Any]:
    """A JSON file that is there whole or not at all."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
