"""A task's definition: the YAML file of the harness (or of evaluate/tasks/) and what it must say before a job runs.

Read as text, without importing the harness, which takes seconds: functions stay names, `include` is followed. The
harness would index 14,683 tasks to find one; here the folders that usually hold a task of that name are read first.
What a definition lacks is an error when the study is loaded, not after hours of training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from dataeff.errors import DataeffError, unknown_name
from dataeff.evaluate.rescore import AGGREGATIONS, DEFAULTS
from dataeff.study.specs import EvaluateSpec
from dataeff.study.tasks import Dataset, HarnessTask, HubData, LocalData, Task

OWN_TASKS = Path(__file__).parent / "tasks"
TASK_LINE = r"(?m)^task:[ \t]*['\"]?{}['\"]?[ \t]*(?:#.*)?$"
DEFAULT_METRICS = {
    "multiple_choice": ["acc", "acc_norm"],
    "loglikelihood": ["perplexity", "acc"],
    "loglikelihood_rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
    "generate_until": ["exact_match"],
}
"""What the harness measures where a task lists no metric."""


@dataclass(frozen=True)
class Definition:
    """A task's YAML with its includes, functions as their names."""

    path: Path
    content: dict[str, Any]

    @property
    def version(self) -> float | None:
        facts = self.content.get("metadata")
        version = facts.get("version") if isinstance(facts, dict) else None
        return float(version) if isinstance(version, int | float) else None

    @property
    def output_type(self) -> str:
        return str(self.content.get("output_type", "generate_until"))

    @property
    def aggregations(self) -> dict[str, str | None]:
        """Metric -> the name of how its items' values make the task's; None where the metric has a rule of its own."""
        listed = self.content.get("metric_list")
        entries = [{"metric": name} for name in DEFAULT_METRICS[self.output_type]] if listed is None else listed
        named = {str(entry["metric"]): entry for entry in entries}
        return {name: entry.get("aggregation") or DEFAULTS.get(name) for name, entry in named.items()}

    @property
    def evaluated_split(self) -> str | None:
        """The split whose items are scored."""
        return self.content.get("test_split") or self.content.get("validation_split")

    @property
    def example_split(self) -> str | None:
        """The split that few-shot examples are taken from; None where the definition lists the examples itself."""
        config = self.content.get("fewshot_config") or {}
        named = config.get("split") or self.content.get("fewshot_split")
        if named or config.get("samples"):
            return named
        kinds = ("training_split", "validation_split", "test_split")
        return next((self.content[kind] for kind in kinds if self.content.get(kind)), None)


def check(spec: EvaluateSpec) -> None:
    """Everything that can be known of a group's tasks without data, model or harness; the first fault is raised."""
    tasks = {name: task for name, task in spec.tasks.items() if isinstance(task, HarnessTask)}
    if tasks:
        check_harness(spec.harness)
    for name, task in tasks.items():
        definition = check_task(name, task, spec.shots)
        splits = splits_of(spec.datasets[task.data])
        if splits is not None:
            check_splits(name, task, definition, splits, shots_of(task, spec.shots))


def check_harness(wanted: str) -> None:
    """The installed harness must be the one that the tasks were defined for."""
    try:
        found = metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        raise DataeffError("lm-eval is not installed; run `make setup`, or `pip install 'lm-eval[hf]'`") from None
    if found != wanted:
        raise DataeffError(
            f"harness: the tasks are defined for lm-eval {wanted}, {found} is installed; scores move with it: install "
            f"{wanted}, or set `harness` in config/tasks.yaml and check the versions of its tasks"
        )


def check_task(name: str, task: HarnessTask, shots: Sequence[int]) -> Definition:
    """The definition of a task; DataeffError unless version, metric and shots go with it."""
    definition = read_definition(task.task, f"tasks.{name}.task")
    where = f"tasks.{name}"
    if "class" in definition.content:
        raise DataeffError(f"{where}.task: '{task.task}' is a Python class of the harness, which brings its own data")
    if definition.version != task.version:
        raise DataeffError(
            f"{where}.version: {task.version} is configured, {definition.path} has version {definition.version}; "
            f"scores of different versions do not compare: set the version that is meant"
        )
    aggregations = definition.aggregations
    if task.metric not in aggregations:
        raise unknown_name("metric", task.metric, aggregations, f"{where}.metric ({definition.path})")
    aggregation = aggregations[task.metric]
    if aggregation not in AGGREGATIONS:
        raise DataeffError(
            f"{where}.metric: {task.metric} of '{task.task}' is aggregated by {aggregation or 'its own rule'}, which "
            f"cannot be computed again from the items; those that can: {', '.join(AGGREGATIONS)}"
        )
    most = max(shots_of(task, shots), default=0)
    takes_none = definition.output_type == "loglikelihood_rolling" or definition.content.get("num_fewshot") == 0
    if most and takes_none:
        raise DataeffError(f"{where}.shots: '{task.task}' takes no examples, {most} are asked for; set shots: [0]")
    return definition


def shots_of(task: Task, shots: Sequence[int]) -> list[int]:
    """The numbers of shots at which a task is put: its own, or the scale's."""
    own = task.shots if isinstance(task, HarnessTask) else None
    return list(shots if own is None else own)


def splits_of(dataset: Dataset) -> list[str] | None:
    """The splits that a dataset will have; None where its reader decides."""
    return list(dataset.fetch.splits) if isinstance(dataset.fetch, HubData | LocalData) else None


def check_splits(
    name: str, task: HarnessTask, definition: Definition, splits: Sequence[str], shots: Sequence[int]
) -> None:
    """The dataset must have the split that is scored and, with shots, the one that examples come from."""
    if definition.evaluated_split is None:
        raise DataeffError(f"{definition.path}: neither test_split nor validation_split; nothing can be scored")
    for split in (definition.evaluated_split, definition.example_split if max(shots, default=0) else None):
        if split is not None and split not in splits:
            raise unknown_name(
                "split", split, splits, f"datasets.{task.data} (tasks.{name}, defined in {definition.path})"
            )


# --- the file ------------------------------------------------------------------------------------------------


def read_definition(task: str, where: str) -> Definition:
    """The definition of this name in evaluate/tasks/ or else in the harness, or the file of one's own that `task` is
    the path of; `where` is told in the error.
    """
    if task.endswith(".yaml"):
        return Definition(_own_file(task, where), _read(Path(task)))
    path = _find(task)
    if path is None:
        raise unknown_name("task", task, known_tasks(), where)
    return Definition(path, _read(path))


def _own_file(task: str, where: str) -> Path:
    path = Path(task).resolve()
    if not path.is_file():
        raise DataeffError(f"{where}: no such file {path}; write the task's definition there, or correct the path")
    return path


@lru_cache(maxsize=256)
def _find(task: str) -> Path | None:
    own = OWN_TASKS / f"{task}.yaml"
    if own.is_file():
        return own
    line = re.compile(TASK_LINE.format(re.escape(task)))
    seen: set[Path] = set()
    for path in _likely_first(task):
        if path not in seen and line.search(path.read_text(encoding="utf-8", errors="replace")):
            return path
        seen.add(path)
    return None


def _likely_first(task: str) -> Iterator[Path]:
    """The harness's files: those in folders called like the task or its beginning, then all in its own order."""
    root = _harness_tasks()
    words = task.split("_")
    beginnings = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    for folder in (name for name in beginnings if name):
        yield from sorted(root.glob(f"{folder}/*.yaml"))
        yield from sorted(root.glob(f"*/{folder}/*.yaml"))
    yield from sorted(root.rglob("*.yaml"), key=lambda path: path.as_posix())


def _harness_tasks() -> Path:
    spec = find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise DataeffError("lm-eval is not installed; run `make setup`, or `pip install 'lm-eval[hf]'`")
    return Path(spec.submodule_search_locations[0]) / "tasks"


def known_tasks() -> list[str]:
    """Every task's name; reads all of the harness's files (seconds), for the suggestion in an error."""
    line = re.compile(TASK_LINE.format(r"([^\s'\"#]+)"))
    own = [path.stem for path in OWN_TASKS.glob("*.yaml")]
    files = _harness_tasks().rglob("*.yaml")
    return own + [name for path in files for name in line.findall(path.read_text(encoding="utf-8", errors="replace"))]


class _Tolerant(yaml.SafeLoader):
    """`!function module.name` as the text that follows it."""


_Tolerant.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Tolerant)
    except (yaml.YAMLError, UnicodeDecodeError, FileNotFoundError) as error:
        raise DataeffError(f"{path}: not the definition of a task: {error}") from None
    if not isinstance(content, dict):
        raise DataeffError(f"{path}: not the definition of a task, which is a mapping")
    included = content.pop("include", [])
    merged: dict[str, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        merged |= _read(path.parent / name)
    return merged | content
