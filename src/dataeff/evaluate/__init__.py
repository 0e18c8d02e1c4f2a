"""The `evaluate` stage: a finished run's held-out loss, and its scores on the tasks of a group at all their shots.

`heldout` writes the loss by domain, of every family. `run` puts a group's tasks to one model in one process, so that
the model is loaded once: {k}shot/scores.json and the record of every item. A killed `run` continues with what is not
done; all of its results appear together or not at all. `check` says what is wrong with tasks before any job starts.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataeff.files import atomic_directory
from dataeff.progress import Pace

if TYPE_CHECKING:
    from dataeff.evaluate.model import AskedModel
    from dataeff.evaluate.prepare import Prepared
    from dataeff.evaluate.resume import Finished, TaskResult
    from dataeff.study.specs import EvaluateSpec, HeldoutSpec

# The parts are imported where they are used: `check` runs while a study is loaded, and must not wait for them.

Results = dict[tuple[str, int], "TaskResult"]
"""By task and shots."""


def check(spec: EvaluateSpec) -> None:
    """DataeffError if a task of the group does not exist, or its version, metric, shots or splits cannot be.

    Needs neither data nor model, and does not import lm-eval.
    """
    from dataeff.evaluate.definitions import check as check_definitions

    check_definitions(spec)


def heldout(spec: HeldoutSpec, model: Path, heldout: Path, out: Path, *, threads: int = 1) -> None:
    """Writes the file `out` (heldout.json): the losses of a finished run on the held-out text.

    `threads` of the CPU are used; it is no part of the spec, as it changes only the last digits of a loss.
    """
    from dataeff.evaluate.losses import heldout_scores, in_words
    from dataeff.evaluate.model import open_network
    from dataeff.evaluate.scores import write_scores
    from dataeff.provenance import provenance

    started = time.monotonic()
    opened = open_network(model, threads)
    identity = {"run": opened.run, "name": opened.name, "spec_digest": spec.digest, "model_digest": opened.digest}
    scores = heldout_scores(
        opened, heldout, spec.heldout_bytes_per_domain, spec.batch_size, {**identity, **dict(provenance())}
    )
    write_scores(out, scores)
    print(
        f"evaluate: {opened.name}: held-out {in_words(scores.overall)}, {len(scores.domains)} domains, "
        f"after {time.monotonic() - started:.0f} s",
        flush=True,
    )


def run(
    spec: EvaluateSpec,
    model: Path,
    items: Sequence[Path],
    datasets: Sequence[Path],
    state: Path,
    out: Path,
    *,
    threads: int = 1,
) -> None:
    """Writes out/{k}shot/{scores.json,items.jsonl.zst} for every number of shots of the group's tasks.

    `model`: a run's folder, the folder of any other causal model, or a name that is in the hub's cache. `items`:
    folders of items from held-out text; `datasets`: manifests of fetched ones. What is finished is kept in `state`
    until the results stand.
    """
    from dataeff.evaluate.model import ask_model
    from dataeff.evaluate.prepare import prepare
    from dataeff.evaluate.resume import Finished

    started = time.monotonic()
    tasks = prepare(spec, items, datasets)
    opened = ask_model(model, spec.batch_size, threads)
    print(
        f"evaluate: {opened.name} opened on {opened.lm.device} after {time.monotonic() - started:.0f} s; "
        f"{len(tasks)} tasks of group '{spec.group}'",
        flush=True,
    )
    results = _score(spec, opened, tasks, Finished(Path(state), spec.digest, opened.digest))
    _write(spec, opened, tasks, results, Path(out))
    shutil.rmtree(state, ignore_errors=True)
    print(f"evaluate: {opened.name} done in {time.monotonic() - started:.0f} s", flush=True)


def _score(spec: EvaluateSpec, model: AskedModel, tasks: Mapping[str, Prepared], finished: Finished) -> Results:
    """Every task at all its shots: what an earlier process has done, and then the rest."""
    from dataeff.evaluate.harness import open_harness

    wanted = [(name, shots) for name, prepared in tasks.items() for shots in prepared.shots]
    found = {
        (name, shots): done
        for name, shots in wanted
        if (done := finished.load(name, shots, tasks[name].data_sha256)) is not None
    }
    if found:
        print(f"evaluate: {len(found)} of {len(wanted)} were done before and are kept", flush=True)
    pace = Pace(len(wanted), len(found))
    missing = {name: tasks[name] for name, shots in wanted if (name, shots) not in found}
    if not missing:
        return found
    with open_harness(model, missing, spec.harness, spec.items) as harness:
        for name, shots in (pair for pair in wanted if pair not in found):
            found[name, shots] = harness.score(name, tasks[name], shots)
            finished.save(name, shots, found[name, shots])
            _tell(name, shots, found[name, shots], len(found), len(wanted), pace)
    return found


def _tell(name: str, shots: int, result: TaskResult, done: int, total: int, pace: Pace) -> None:
    score, reading = result.score, pace.reading(done, now=True)
    error = "" if score.standard_error is None else f" +- {score.standard_error:.4f}"
    cut = f"; {score.truncated_prompts} prompts lost their beginning to the context's length"
    apart = f"; examples of the scored split, never the item itself, before {score.own_split_items:,} items"
    left = "" if reading is None or done == total else f", {reading.left}"
    print(
        f"evaluate: {name} {shots}-shot: {score.metric} {score.value:.4f}{error} over {score.items:,} items"
        f"{cut if score.truncated_prompts else ''}{apart if score.own_split_items else ''} ({done} of {total}{left})",
        flush=True,
    )


def _write(spec: EvaluateSpec, model: AskedModel, tasks: Mapping[str, Prepared], results: Results, out: Path) -> None:
    """A folder for each number of shots of the scale, and for those that a task has of its own."""
    from dataeff.evaluate.records import ITEMS, write_records
    from dataeff.evaluate.scores import Scores, write_scores
    from dataeff.provenance import provenance

    identity: dict[str, Any] = {
        "run": model.run,
        "name": model.name,
        "spec_digest": spec.digest,
        "model_digest": model.digest,
        **dict(provenance()),
    }
    with atomic_directory(out) as folder:
        for shots in sorted({*spec.shots, *(shots for _, shots in results)}):
            of_shots = {name: results[name, shots] for name in tasks if (name, shots) in results}
            place = folder / f"{shots}shot"
            place.mkdir()
            scores = {name: result.score for name, result in of_shots.items()}
            write_scores(place / "scores.json", Scores(**identity, group=spec.group, shots=shots, tasks=scores))
            write_records(place / ITEMS, (record for result in of_shots.values() for record in result.records))


__all__ = ["check", "heldout", "run"]
