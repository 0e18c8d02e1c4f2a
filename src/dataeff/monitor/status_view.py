"""A snapshot of a study as plain text: a summary, a line a run, and the ends of the logs of what failed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dataeff.inquiry.text import columns, plural, short
from dataeff.monitor.items import STAGES
from dataeff.monitor.states import STATES, Judged
from dataeff.monitor.status import Snapshot
from dataeff.monitor.training import Training
from dataeff.progress import clock

NARROWEST = 60
_SHOWN_TROUBLES = 8
_NOT_OURS = ("pretrain",)
_HEADINGS = ["run", "state", "step", "tokens/s", "left", "held-out", "tasks"]
_DROPPED = ("tasks", "tokens/s", "left")
"""Columns that a narrow terminal goes without, the first one first."""


def shown(snapshot: Snapshot, width: int) -> list[str]:
    """At most `width` characters a line (60 at least)."""
    found, width = snapshot.found, max(width, NARROWEST)
    at_work = "snakemake holds its lock" if snapshot.locked else "no snakemake at work"
    lines = [
        f"grid {found.grid} at scale {found.study.scale_name}: {plural(len(found.runs), 'run')}, {found.results}",
        f"{time.strftime('%H:%M:%S')}, {at_work}" + (", all is done" if snapshot.is_done else ""),
        "",
        *columns([["stage", "items", *STATES], *_stages(snapshot)]),
        "",
        *_fitting([_HEADINGS, *_runs(snapshot)], width),
        *_others_at_work(snapshot),
        *_troubles(snapshot.troubles),
    ]
    return [line if len(line) <= width else _cut(line, width) for line in lines]


def _cut(line: str, width: int) -> str:
    return line[: width - 3] + "..."


def _fitting(rows: list[list[str]], width: int) -> list[str]:
    """The table of runs with as many of its columns as fit."""
    lines = columns(rows, left=(0, 1))
    for name in _DROPPED:
        if max(map(len, lines)) <= width:
            break
        index = rows[0].index(name)
        rows = [row[:index] + row[index + 1 :] for row in rows]
        lines = columns(rows, left=(0, 1))
    return lines


def _stages(snapshot: Snapshot) -> list[list[str]]:
    rows = []
    for stage in STAGES:
        counts = snapshot.counts(stage)
        if counts:
            rows.append([stage, str(counts.total()), *(str(counts[state] or "-") for state in STATES)])
    return rows


def _runs(snapshot: Snapshot) -> list[list[str]]:
    return [_run(training, *snapshot.evaluations.get(training.run.name, (0, 0))) for training in snapshot.trainings]


def _run(training: Training, done: int, asked: int) -> list[str]:
    steps = "-" if training.steps is None else f"{training.steps_done:,}/{training.steps:,}"
    return [
        training.run.name,
        f"{training.state}{_remark(training)}",
        steps,
        "-" if training.tokens_per_second is None else short(training.tokens_per_second),
        "-" if training.left_seconds is None else clock(training.left_seconds),
        "-" if training.heldout_loss is None else f"{training.heldout_loss:.4f}",
        f"{done}/{asked}",
    ]


def _remark(training: Training) -> str:
    if training.remark and training.silent_seconds is not None:
        return f", {training.remark} for {clock(training.silent_seconds)}"
    return ""


def _others_at_work(snapshot: Snapshot) -> list[str]:
    """Jobs beside trainings: what their logs say last, which of long ones is the share done and the time left."""
    jobs = [job for job in snapshot.items if job.state == "running" and job.item.stage not in _NOT_OURS]
    owned = [training for training in snapshot.trainings if training.owner is not None]
    lines = [f"  {job.item.stage} {job.item.name}: {job.detail or 'nothing said yet'}" for job in jobs]
    lines += [f"  pretrain {training.run.name}: {training.owner.words}" for training in owned if training.owner]
    return ["", "at work:", *lines] if lines else []


def _troubles(troubles: Sequence[Judged]) -> list[str]:
    lines = []
    for job in troubles[:_SHOWN_TROUBLES]:
        ago = "" if job.seconds is None else f", {clock(job.seconds)} ago"
        lines += ["", f"{job.state}: {job.item.stage} {job.item.name}{ago}: {job.item.log}"]
        lines += [f"  {line}" for line in job.lines]
    rest = len(troubles) - _SHOWN_TROUBLES
    return [*lines, "", f"and {rest} more"] if rest > 0 else lines
