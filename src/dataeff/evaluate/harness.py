"""Scores of the items by lm-eval's own evaluator: each number of shots in turn, with one loaded model.

Nothing of lm-eval is replaced, so its command line gives the same numbers from the same items folder. Only
what it leaves silent is added: prompts longer than the context, which it cuts on the left, are counted, and
values that are not finite are errors.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataeff.errors import DataeffError
from dataeff.evaluate.model import OpenModel
from dataeff.evaluate.scores import TaskScore
from dataeff.files import MANIFEST, canonical_digest, check_manifest, read_json, read_yaml
from dataeff.study.types import Task

SEED = 1234
"""lm-eval's own default seed, given to each of its generators; it decides an item's few-shot examples."""


@dataclass(frozen=True)
class TaskItems:
    """One task's checked items: the folder that holds {name}.yaml and {name}/, and the digest of its data."""

    name: str
    task: Task
    folder: Path
    version: int
    data_sha256: str


@dataclass(frozen=True)
class ShotResult:
    """Scores at one number of shots, and one record per item."""

    shots: int
    tasks: dict[str, TaskScore]
    items: list[dict[str, Any]]


def find_items(tasks: dict[str, Task], folders: list[Path], shots: int) -> dict[str, TaskItems]:
    """Each task's items in the folders; errors where they are missing, damaged or made for another task."""
    found: dict[str, TaskItems] = {}
    for folder in folders:
        fault = check_manifest(folder) if folder.is_dir() else f"{folder}: no such folder"
        if fault:
            raise DataeffError(f"{fault}; make the items again")
        for name, made_for in read_json(folder / MANIFEST)["tasks"].items():
            if name in tasks:
                if made_for != tasks[name].model_dump(mode="json"):
                    raise DataeffError(f"{folder}: its items were made for another '{name}'; make the items again")
                found[name] = _task_items(name, tasks[name], folder)
    for name in tasks:
        if name not in found:
            raise DataeffError(
                f"tasks.{name}: no items in {', '.join(map(str, folders)) or 'any folder'}; make them first"
            )
        lines = (found[name].folder / name / "fewshot.jsonl").read_text(encoding="utf-8").splitlines()
        if len(lines) < shots:
            raise DataeffError(
                f"{found[name].folder}: only {len(lines)} few-shot examples for {shots} shots; "
                f"hold out more text, or lower evaluation.shots"
            )
    return {name: found[name] for name in tasks}


def _task_items(name: str, task: Task, folder: Path) -> TaskItems:
    files = read_json(folder / MANIFEST)["files"]
    digest = canonical_digest({split: files[f"{name}/{split}.jsonl"]["sha256"] for split in ("test", "fewshot")})
    return TaskItems(name, task, folder, read_yaml(folder / f"{name}.yaml")["metadata"]["version"], digest)


def run_shots(model: OpenModel, items: dict[str, TaskItems], shots: Iterable[int], limit: int) -> Iterator[ShotResult]:
    """The result at each number of shots, over the first `limit` items of every task."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    # Jobs that run at once parse the items into folders of their own; the home folder is left alone.
    with tempfile.TemporaryDirectory(prefix="dataeff-evaluate-") as scratch:
        for entry in items.values():
            _write_located(entry, Path(scratch))
        manager = TaskManager(include_path=str(Path(scratch) / "tasks"), include_defaults=False)
        for count in shots:
            yield _run(model, items, manager, count, limit)


def _write_located(entry: TaskItems, scratch: Path) -> None:
    """A copy of the task's YAML with absolute data paths: relative ones start at the working directory."""
    document = read_yaml(entry.folder / f"{entry.name}.yaml")
    files = document["dataset_kwargs"]["data_files"]
    located = {split: str((entry.folder / file).resolve()) for split, file in files.items()}
    document["dataset_kwargs"] = {"data_files": located, "cache_dir": str(scratch / "datasets")}
    (scratch / "tasks").mkdir(exist_ok=True)
    (scratch / "tasks" / f"{entry.name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def _run(model: OpenModel, items: dict[str, TaskItems], manager: Any, shots: int, limit: int) -> ShotResult:
    from lm_eval import simple_evaluate

    results = simple_evaluate(
        model=model.lm,
        tasks=list(items),
        num_fewshot=shots,
        limit=limit,
        task_manager=manager,
        log_samples=True,
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
    )
    scores: dict[str, TaskScore] = {}
    records: list[dict[str, Any]] = []
    for name, entry in items.items():
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        made = [_record(model, name, sample) for sample in samples]
        records += made
        scores[name] = _score(entry, results["results"][name], made)
    return ShotResult(shots, scores, records)


def _record(model: OpenModel, name: str, sample: dict[str, Any]) -> dict[str, Any]:
    """One item as scored: prompt, length, the choices' log-likelihoods and what lm-eval made of them."""
    loglikelihoods = [float(response[0]) for response in sample["filtered_resps"]]
    if not all(map(math.isfinite, loglikelihoods)):
        raise DataeffError(
            f"{model.folder}: item {sample['doc_id']} of '{name}' has log-likelihoods {loglikelihoods}; "
            f"the weights are damaged or training diverged, see the run's metrics.jsonl"
        )
    tokens = prompt_tokens(model.lm.tokenizer, sample["arguments"])
    document = sample["doc"]
    return {
        "task": name,
        "id": document["id"],
        "domain": document["domain"],
        "document": document["document"],
        "choices": document["choices"],
        "answer": document["answer"],
        "loglikelihoods": loglikelihoods,
        "acc": sample["acc"],
        "acc_norm": sample["acc_norm"],
        "prompt": sample["arguments"][0][0],
        "prompt_tokens": tokens,
        "truncated": tokens > model.lm.max_length + 1,
    }


def prompt_tokens(tokenizer: Any, arguments: list[tuple[str, str]]) -> int:
    """Tokens of an item's longest context with its choice; the very last is only predicted, never read."""
    texts = [context + continuation for context, continuation in arguments]
    return max(len(tokens) for tokens in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])


def _score(entry: TaskItems, result: dict[str, Any], records: list[dict[str, Any]]) -> TaskScore:
    metric = entry.task.metric
    return TaskScore(
        metric=metric,
        value=result[f"{metric},none"],
        standard_error=result[f"{metric}_stderr,none"],
        items=len(records),
        chance=1 / entry.task.choices,
        task_version=entry.version,
        data_sha256=entry.data_sha256,
        truncated_prompts=sum(record["truncated"] for record in records),
        about=entry.task.about,
    )
