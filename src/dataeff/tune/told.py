"""What a search tells: what it will do at most, what each training showed, and the table at its end."""

from __future__ import annotations

from pathlib import Path

from dataeff.inquiry.text import columns, labelled, ruled, short
from dataeff.progress import clock
from dataeff.study.specs import plan_spec
from dataeff.tune.chosen import CRITERION
from dataeff.tune.evidence import Evidence
from dataeff.tune.pacings import Tuned
from dataeff.tune.search import Found
from dataeff.tune.task import Task
from dataeff.tune.trainings import MEASURED_STEPS


def announced(task: Task) -> list[str]:
    """What will be done at most, and how long that takes."""
    trainings, tuned = task.trainings, task.trainings.tuned
    steps, tokens = trainings.watched(None)
    kept = trainings.kept(None)
    if kept is None:
        print(f"tune: measuring {min(MEASURED_STEPS, steps)} steps, for the time it will take", flush=True)
    seconds = trainings.seconds = trainings.measured_seconds() if kept is None else kept.seconds
    source = f"measured over {min(MEASURED_STEPS, steps)} steps" if kept is None else "as that without the pacing took"
    run, full = trainings.run, plan_spec(trainings.study, trainings.run).train_tokens
    bounded = (
        f", of the {task.all_trainings} that it may take (--max-trainings)" if task.bound < task.all_trainings else ""
    )
    pairs = [
        ("criterion", f"held-out perplexity at most {task.limit:g} x the best before ({CRITERION})"),
        (
            "watched",
            f"{trainings.watch.multiples} x the warm-up: {short(tokens)} effective tokens a training "
            f"({steps:,} steps without the pacing), {min(trainings.watch.points, steps)} probes",
        ),
        ("starts", f"{', '.join(f'{start:,}' for start in task.starts)} {tuned.unit}, over {task.durations[0]}"),
        ("durations", f"{', '.join(map(str, task.durations))} of the nominal steps, by bisection"),
        ("end", _end(tuned)),
        (
            "at most",
            f"{trainings.most} trainings{bounded}: {trainings.most * tokens / full:.2g} times the tokens of a full run",
        ),
        ("time", f"at most about {clock(trainings.most * seconds)} ({clock(seconds)} a training, {source})"),
    ]
    head = f"Tuning the pacing of {tuned.metric} of {run.family}-{run.variant} at scale {trainings.study.scale_name}"
    return [head, *labelled(pairs)]


def _end(tuned: Tuned) -> str:
    if tuned.full is None or tuned.end == tuned.full:
        return f"{tuned.words(tuned.end)}{', the full one' if tuned.full else ', as the variant has it'}"
    return f"{tuned.words(tuned.end)}, as the variant has it; the papers' is the full one, {tuned.full:,}"


def told(task: Task, evidence: Evidence) -> str:
    worst = evidence.worst()
    ratio = f"worst ratio {worst[0]:.3f} at step {worst[1]:,}, " if worst else ""
    why = f": {evidence.refused}" if evidence.refused else ""
    name = f"tune: {task.trainings.asked} of at most {task.trainings.most}, {task.trainings.words(evidence.candidate)}"
    return f"{name}: {ratio}{evidence.verdict(task.limit)} ({clock(evidence.seconds)}){why}"


def table(task: Task) -> list[str]:
    lines = [["candidate", "steps", "first loss", "last loss", "worst ratio", "at step", "verdict", "seconds"]]
    for evidence in task.trainings.done:
        worst, probes = evidence.worst(), evidence.probes
        losses = [f"{probes[0].loss:.3f}", f"{probes[-1].loss:.3f}"] if probes else ["-", "-"]
        ratio = [f"{worst[0]:.3f}", f"{worst[1]:,}"] if worst else ["-", "-"]
        name, verdict = task.trainings.words(evidence.candidate), evidence.verdict(task.limit)
        lines.append([name, f"{evidence.steps:,}", *losses, *ratio, verdict, f"{evidence.seconds:.1f}"])
    return ruled(columns(lines, left=(0, 6)))


def notes(task: Task) -> list[str]:
    """What to think of the table."""
    without, *candidates = task.trainings.done
    if not without.is_stable(task.limit):
        return ["without the pacing it fluctuates too: the learning rate or a noisy probe is to blame, not the pacing"]
    if candidates and all(evidence.is_stable(task.limit) for evidence in candidates):
        return [
            "nothing fluctuates here, so the criterion rules nothing out: the largest saving, not the best quality;",
            "compare full runs (the command below) before you take it",
        ]
    return []


def nothing(task: Task, found: Found, evidence: Path) -> str:
    name = f"{task.trainings.run.variant}: no pacing of {task.trainings.tuned.metric} was chosen"
    if not found.complete:
        return f"{name}: none of the {len(task.trainings.done) - 1} starts tried is stable; raise --max-trainings"
    return (
        f"{name}: every start fluctuates (all {len(task.starts)} tried; {evidence}); lower learning_rate.peak, "
        f"lengthen the warm-up, or see with a larger --limit or other --durations what is stable"
    )
