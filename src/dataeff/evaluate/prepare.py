"""The tasks of a group with the data that they will read, all checked before a model is opened.

A task keeps its definition but for the place of its data: items made from held-out text lie in their folder, fetched
datasets in the cache. Only the splits that are read are named, so that a training split of a hundred thousand rows is
not parsed for a task without examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import REMEDY, FetchedDataset, read_dataset
from dataeff.evaluate.definitions import Definition, check_harness, check_splits, check_task, shots_of
from dataeff.files import MANIFEST, canonical_digest, check_manifest, read_json, read_yaml
from dataeff.study.specs import EvaluateSpec
from dataeff.study.tasks import HarnessTask, HeldoutTask, Task

SPLIT_KEYS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Prepared:
    """One task, checked; `files` are those of the splits that it reads and `include` the definition it starts from."""

    task: Task
    shots: list[int]
    definition: Definition
    files: dict[str, Path]
    dataset: str | None
    data_sha256: str

    @property
    def metric(self) -> str:
        return self.task.metric

    @property
    def examples_are_scored(self) -> bool:
        """Whether few-shot examples come from the split whose items are scored."""
        return max(self.shots, default=0) > 0 and self.definition.example_split == self.definition.evaluated_split

    @property
    def facts(self) -> dict[str, Any]:
        """What a TaskScore holds of it before it is put to a model."""
        task, of_harness = self.task, self.task if isinstance(self.task, HarnessTask) else None
        return {
            "group": task.group,
            "task": of_harness.task if of_harness else task.kind,
            "task_version": self.definition.version,
            "metric": task.metric,
            "higher_is_better": of_harness.higher_is_better if of_harness else True,
            "chance": 1 / task.choices if isinstance(task, HeldoutTask) else task.chance,
            "averaged": task.averaged,
            "published_as": of_harness.published_as if of_harness else None,
            "scoring": of_harness.scoring if of_harness else "today",
            "dataset": self.dataset,
            "data_sha256": self.data_sha256,
            "about": task.about,
        }

    def document(self, name: str, scratch: Path) -> dict[str, Any]:
        """The task's YAML for lm-eval: the definition by `include`, and where the data lie.

        Paths are absolute (relative ones start at the working directory); parsed data go to `scratch`.
        """
        content = self.definition.content
        kept = {key: value for key in SPLIT_KEYS if (value := content.get(key)) is None or value in self.files}
        dropped = {key: None for key in SPLIT_KEYS if key not in kept}
        config = content.get("fewshot_config") or {}
        if config.get("split") is not None and config["split"] not in self.files:
            dropped["fewshot_config"] = None
        suffix = next(iter(self.files.values())).suffix
        return {
            "include": str(self.definition.path),
            "task": name,
            "tag": None,
            "dataset_path": "parquet" if suffix == ".parquet" else "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {split: str(file) for split, file in self.files.items()},
                "cache_dir": str(scratch),
            },
            **dropped,
            **self._apart(),
        }

    def _apart(self) -> dict[str, Any]:
        """Where items and examples are of one split, lm-eval leaves an item out of its own examples if both are named
        alike: as the test split and as the few-shot split.
        """
        split = self.definition.evaluated_split
        return {"test_split": split, "fewshot_split": split} if self.examples_are_scored else {}


def prepare(spec: EvaluateSpec, items: Sequence[Path], manifests: Sequence[Path]) -> dict[str, Prepared]:
    """Every task of the group with its data; DataeffError where something is missing, damaged or another."""
    check_harness(spec.harness)
    heldout = {name: task for name, task in spec.tasks.items() if isinstance(task, HeldoutTask)}
    found = find_items(heldout, items, spec.shots)
    datasets = {dataset.name: dataset for dataset in map(read_dataset, manifests)}
    for name, task in spec.tasks.items():
        if isinstance(task, HarnessTask):
            found[name] = _with_dataset(name, task, spec, datasets)
    return {name: found[name] for name in spec.tasks}


# --- fetched datasets ----------------------------------------------------------------------------------------


def _with_dataset(name: str, task: HarnessTask, spec: EvaluateSpec, datasets: dict[str, FetchedDataset]) -> Prepared:
    shots = shots_of(task, spec.shots)
    definition = check_task(name, task, spec.shots)
    if task.data not in datasets:
        raise DataeffError(f"tasks.{name}: its dataset '{task.data}' is not at hand; {REMEDY}")
    dataset = datasets[task.data]
    check_splits(name, task, definition, list(dataset.splits), shots)
    splits = [definition.evaluated_split, definition.example_split if max(shots, default=0) else None]
    files = {split: dataset.splits[split] for split in dict.fromkeys(splits) if split is not None}
    examples = splits[1]
    # Where examples are of the scored split, the item itself is not one of its own.
    needed = max(shots, default=0) + (examples == splits[0])
    if examples is not None and files[examples].items < needed:
        raise DataeffError(
            f"tasks.{name}: split '{examples}' of dataset '{task.data}' has {files[examples].items} items, too few for "
            f"{max(shots)} shots; lower evaluation.shots or set tasks.{name}.shots"
        )
    return Prepared(
        task,
        shots,
        definition,
        {split: Path(file.path) for split, file in files.items()},
        task.data,
        dataset.data_sha256,
    )


# --- items made from held-out text ---------------------------------------------------------------------------


def find_items(tasks: dict[str, HeldoutTask], folders: Sequence[Path], shots: Sequence[int]) -> dict[str, Prepared]:
    """Each task's items in the folders; errors where they are missing, damaged or made for another task."""
    found: dict[str, Prepared] = {}
    for folder in folders:
        fault = check_manifest(folder) if folder.is_dir() else f"{folder}: no such folder"
        if fault:
            raise DataeffError(f"{fault}; make the items again")
        for name, made_for in read_json(folder / MANIFEST)["tasks"].items():
            if name in tasks:
                if made_for != tasks[name].model_dump(mode="json"):
                    raise DataeffError(f"{folder}: its items were made for another '{name}'; make the items again")
                found[name] = _with_items(name, tasks[name], folder, shots)
    for name in tasks:
        if name not in found:
            raise DataeffError(
                f"tasks.{name}: no items in {', '.join(map(str, folders)) or 'any folder'}; make them first"
            )
    return found


def _with_items(name: str, task: HeldoutTask, folder: Path, shots: Sequence[int]) -> Prepared:
    files = {split: folder / name / f"{split}.jsonl" for split in ("test", "fewshot")}
    examples = len(files["fewshot"].read_text(encoding="utf-8").splitlines())
    if examples < max(shots, default=0):
        raise DataeffError(
            f"{folder}: only {examples} few-shot examples for {max(shots)} shots; hold out more text, or lower "
            f"evaluation.shots"
        )
    facts = read_json(folder / MANIFEST)["files"]
    path = (folder / f"{name}.yaml").resolve()
    return Prepared(
        task,
        shots_of(task, shots),
        Definition(path, read_yaml(path)),
        {split: file.resolve() for split, file in files.items()},
        None,
        canonical_digest({split: facts[f"{name}/{split}.jsonl"]["sha256"] for split in files}),
    )
