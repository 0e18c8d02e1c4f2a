"""`dataeff status`: what of a study is finished, running, pending and failed, read from its files alone.

No lock is taken and nothing is written, so that it can be asked from any machine that sees the results folder, while
Snakemake works, and after it died.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dataeff.monitor.found_study import FoundStudy, find_study
from dataeff.monitor.items import STAGES, Item, items_of
from dataeff.monitor.markers import Markers
from dataeff.monitor.states import STATES, Judged, judge
from dataeff.monitor.training import Training, Trainings

WATCH_SECONDS = 5.0
_FOLLOWS = {"pretrain": "plan", "evaluate": "pretrain", "finetune": "pretrain"}
_OF_ALL = ("tables", "figures", "report")
_CLEAR = "\x1b[H\x1b[J"


@dataclass(frozen=True)
class Snapshot:
    """The study at one moment. `evaluations`: of each run, how many of its evaluations and finetunings are done."""

    found: FoundStudy
    items: list[Judged]
    trainings: list[Training]
    evaluations: dict[str, tuple[int, int]]
    locked: bool

    def counts(self, stage: str) -> Counter[str]:
        return Counter(judged.state for judged in self.items if judged.item.stage == stage)

    @property
    def is_done(self) -> bool:
        return all(judged.state == "finished" for judged in self.items)

    @property
    def troubles(self) -> list[Judged]:
        """What failed or was cut off."""
        return [judged for judged in self.items if judged.state in ("failed", "stopped")]


class Status:
    """Takes snapshots of one study; what was finished is not looked at again."""

    def __init__(self, found: FoundStudy) -> None:
        self.found, self._items, self._trainings = found, items_of(found), Trainings(found)
        self._finished: dict[Item, tuple[Judged, Training | None]] = {}

    def snapshot(self, now: float | None = None) -> Snapshot:
        now = time.time() if now is None else now
        markers = Markers.read(self.found.root, self.found.snakemake)
        judged, trainings = [], []
        for item in self._items:
            one, training = self._judge(item, markers, now)
            if one.state == "finished":
                self._finished[item] = one, training
            judged.append(one)
            trainings += [training] if training is not None else []
        judged = list(_cascaded(judged))
        states = {one.item.name: one.state for one in judged if one.item.stage == "pretrain"}
        trainings = [replace(training, state=states[training.run.name]) for training in trainings]
        return Snapshot(self.found, judged, trainings, _evaluations(judged), markers.locked)

    def _judge(self, item: Item, markers: Markers, now: float) -> tuple[Judged, Training | None]:
        if item in self._finished and markers.of(item.outputs) is None:
            return self._finished[item]
        if item.stage == "pretrain":
            return self._trainings.judge(item, markers, now)
        return judge(item, markers, self._trainings.wanted(item), now), None


def _cascaded(items: list[Judged]) -> Iterator[Judged]:
    """What was made from something that is to be made again is pending, too."""
    unfinished: set[tuple[str, str]] = set()
    for judged in items:
        item, open_before = judged.item, False
        if item.run is not None:
            open_before = (_FOLLOWS.get(item.stage, ""), item.run.name) in unfinished
        elif item.stage in _OF_ALL:
            open_before = bool(unfinished)
        if open_before and judged.state == "finished":
            judged = replace(judged, state="pending")
        if judged.state != "finished" and item.run is not None:
            unfinished.add((item.stage, item.run.name))
        yield judged


def _evaluations(items: list[Judged]) -> dict[str, tuple[int, int]]:
    done: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for judged in items:
        if judged.item.run is not None and judged.item.stage in ("evaluate", "finetune"):
            asked[judged.item.run.name] += 1
            done[judged.item.run.name] += judged.state == "finished"
    return {name: (done[name], count) for name, count in asked.items()}


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "scale": snapshot.found.study.scale_name,
        "grid": snapshot.found.grid,
        "results": str(snapshot.found.results),
        "snakemake_lock": snapshot.locked,
        "done": snapshot.is_done,
        "stages": {
            stage: {state: counts[state] for state in STATES if counts[state]}
            for stage in STAGES
            if (counts := snapshot.counts(stage))
        },
        "runs": [_run_as_json(training, snapshot) for training in snapshot.trainings],
        "items": [
            {
                "stage": judged.item.stage,
                "name": judged.item.name,
                "state": judged.state,
                "silent_seconds": judged.seconds,
                "log": str(judged.item.log),
                "log_end": list(judged.lines),
            }
            for judged in snapshot.items
            if judged.state not in ("finished", "pending")
        ],
    }


def _run_as_json(training: Training, snapshot: Snapshot) -> dict[str, Any]:
    done, asked = snapshot.evaluations.get(training.run.name, (0, 0))
    facts = {name: value for name, value in asdict(training).items() if name not in ("run", "owner")}
    owner = None if training.owner is None else asdict(training.owner)
    return {"name": training.run.name, **facts, "owner": owner, "evaluations_done": done, "evaluations": asked}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, metavar="DIR", help="results folder (default: of the last snakemake)")
    parser.add_argument("--scale", help="default: that of the last snakemake")
    parser.add_argument("--grid", help="default: the study's default grid")
    parser.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="where snakemake was started (default: this folder)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help=f"look again every few seconds (default {WATCH_SECONDS:g}) until all is done",
    )
    how.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    from dataeff.monitor.status_view import shown

    status = Status(find_study(args.root, args.results, args.scale, args.grid))
    snapshot = status.snapshot()
    if args.json:
        print(json.dumps(as_json(snapshot), indent=1))
        return
    clear = _CLEAR if args.watch is not None and sys.stdout.isatty() else ""
    while True:
        print(clear + "\n".join(shown(snapshot, shutil.get_terminal_size().columns)), flush=True)
        if args.watch is None or snapshot.is_done:
            return
        time.sleep(max(0.1, args.watch))
        snapshot = status.snapshot()
        if not clear:
            print()
