"""The tasks of evaluate/tasks/ run in the harness, and config/tasks.yaml says of a task what its definition says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff.evaluate.dataset_readers import READERS
from dataeff.evaluate.tasks import papers
from dataeff.files import read_yaml
from dataeff.study.tasks import HarnessTask, HubData, TasksFile
from tests.evaluate import package_files

lm_eval = pytest.importorskip("lm_eval")

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "src" / "dataeff" / "evaluate" / "tasks"
CONFIG = TasksFile.model_validate(read_yaml(ROOT / "config" / "tasks.yaml"))
HARNESS = {name: task for name, task in CONFIG.tasks.items() if isinstance(task, HarnessTask)}


# --- definitions against config/tasks.yaml ------------------------------------------------------------------


def definitions() -> dict[str, Path]:
    """The YAML of each task that config/tasks.yaml names, out of the harness's and our own."""
    names = {task.task for task in HARNESS.values()}
    found: dict[str, Path] = {}
    for path in sorted((Path(lm_eval.__file__).parent / "tasks").rglob("*.yaml")):
        with path.open(encoding="utf-8") as stream:
            head = [line for line in (next(stream, "") for _ in range(8)) if line.startswith("task:")]
        if head and head[0].split(":")[1].strip() in names:
            found[head[0].split(":")[1].strip()] = path
    return found | {path.stem: path for path in OWN.glob("*.yaml")}


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict[str, Any]]:
    from lm_eval.tasks._yaml_loader import load_yaml

    return {name: load_yaml(path, resolve_func=False) for name, path in definitions().items()}


def test_every_task_of_our_own_is_in_the_configuration() -> None:
    assert {path.stem for path in OWN.glob("*.yaml")} <= {task.task for task in HARNESS.values()}


@pytest.mark.parametrize("name", sorted(HARNESS))
def test_the_configuration_says_what_the_definition_says(name: str, loaded: dict[str, dict[str, Any]]) -> None:
    task, found = HARNESS[name], loaded[HARNESS[name].task]
    assert task.version == found["metadata"]["version"]
    metrics = {entry["metric"]: entry.get("higher_is_better", True) for entry in found["metric_list"]}
    assert task.metric in metrics
    if name == "wikitext":
        assert not task.higher_is_better
    else:
        assert task.higher_is_better == metrics[task.metric]
    how = CONFIG.datasets[task.data].fetch
    splits = {found[key] for key in ("training_split", "validation_split", "test_split") if found.get(key)}
    if isinstance(how, HubData):
        assert (how.repository, how.config) == (found["dataset_path"], found.get("dataset_name"))
        assert splits <= set(how.splits)
    else:
        assert found["dataset_path"] == "json"
        assert splits == {"train", "validation"}


def test_each_of_the_papers_19_tasks_is_published_once() -> None:
    rows = (ROOT / "config" / "papers" / "gpt3_19_tasks_reference.csv").read_text(encoding="utf-8").splitlines()[1:]
    names = [row.split(",")[1] for row in rows]
    metrics = {row.split(",")[1]: row.split(",")[2] for row in rows}
    published = {task.published_as: task for task in HARNESS.values() if task.published_as}
    assert sorted(published) == sorted(names)
    assert len([task for task in HARNESS.values() if task.published_as]) == len(names)
    assert {name: task.metric for name, task in published.items()} == metrics
    papers_own = {name for name, task in HARNESS.items() if task.scoring == "papers"}
    assert papers_own == {"triviaqa_papers", "webqs_papers", "multirc_papers"}


# --- running --------------------------------------------------------------------------------------------------


TRIVIA = [
    {
        "question": f"Who wrote book {n}?",
        "question_id": str(n),
        "answer": {"aliases": ["Ann", "Anna Gray", "Bo"], "value": "Anna Gray", "normalized_value": "anna gray"},
    }
    for n in range(6)
]
WEBQS = [{"url": "u", "question": f"where is town {n}?", "answers": ["Kerman", "In Kerman"]} for n in range(6)]
MULTIRC = [
    {
        "paragraph": f"The river {n} is long.",
        "question": "What is it like?",
        "answer": answer,
        "idx": {"paragraph": n, "question": n, "answer": position},
        "label": int(answer in ("long", "right")),
    }
    for n in range(6)
    for position, answer in enumerate(("long", "short", "right" if n % 2 else "wet"))
]
ROWS = {"triviaqa_papers": TRIVIA, "webqs_papers": WEBQS, "multirc_papers": MULTIRC}
"""With the hub's columns, and those of its types that matter."""


def data_files(name: str, folder: Path) -> tuple[str, dict[str, str]]:
    """A few items as the stage of data would leave them: parquet of the hub, JSON lines of packages."""
    how = CONFIG.datasets[HARNESS[name].data].fetch
    if isinstance(how, HubData):
        from datasets import Dataset

        splits = {split: str(folder / f"{name}-{split}.parquet") for split in how.splits}
        for path in splits.values():
            Dataset.from_list(ROWS[name]).to_parquet(path)
        return "parquet", splits
    assert how.kind == "package"
    rows = READERS[how.reader](package_files.FILES[how.reader]())
    splits = {split: str(folder / f"{name}-{split}.jsonl") for split in rows}
    for split, path in splits.items():
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows[split]), encoding="utf-8")
    return "json", splits


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Our own tasks, each on its small data."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("own")
    (folder / "tasks").mkdir()
    for path in OWN.glob("*.yaml"):
        kind, files = data_files(path.stem, folder)
        kwargs = {"data_files": files, "cache_dir": str(folder / "cache")}
        placed = {"include": str(path), "dataset_path": kind, "dataset_name": None, "dataset_kwargs": kwargs}
        (folder / "tasks" / path.name).write_text(yaml.safe_dump({"task": path.stem, **placed}), encoding="utf-8")
    return TaskManager(include_path=str(folder / "tasks"), include_defaults=False)


def evaluate(model: Any, tasks: list[str], shots: int, manager: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    result: dict[str, Any] = simple_evaluate(
        model=model, tasks=tasks, num_fewshot=shots, limit=6, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    return result


def test_the_tasks_are_found_without_the_harness_own(manager: Any) -> None:
    assert set(manager.all_tasks) == {path.stem for path in OWN.glob("*.yaml")}


@pytest.mark.parametrize("shots", [0, 2])
def test_every_task_of_our_own_runs(manager: Any, shots: int) -> None:
    names = sorted(manager.all_tasks)
    result = evaluate(judge("a"), names, shots, manager)
    for name in names:
        metric = HARNESS[name].metric
        samples = result["samples"][name]
        assert 4 <= len(samples) <= 6
        assert result["results"][name][f"{metric},none"] == sum(sample[metric] for sample in samples) / len(samples)
        for context, continuation in (arguments for sample in samples for arguments in sample["arguments"]):
            assert continuation.strip()
            assert context.count("\n\n") >= shots


def judge(right: str) -> Any:
    """A model that finds a continuation likely, and greedy, where `right` stands in it before a 'yes' (or alone)."""
    from lm_eval.api.model import LM

    class Judge(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            texts = [request.arguments[1] for request in requests]
            wanted = [(right in text) == (not text.endswith(" no")) for text in texts]
            return [(0.0 if good else -1.0, good and right in text) for good, text in zip(wanted, texts, strict=True)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise AssertionError("no task here asks for this")

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            raise AssertionError("no task here asks for this")

    return Judge()


def test_multirc_counts_questions_with_all_answers_judged_rightly(manager: Any) -> None:
    """Only 'long' is found right: so are the questions of even number, whose third answer is wrong."""
    result = evaluate(judge("long"), ["multirc_papers", "package_multirc"], 2, manager)
    assert result["results"]["multirc_papers"]["acc,none"] == 0.5
    samples = result["samples"]["multirc_papers"]
    assert [sample["acc"] for sample in sorted(samples, key=lambda s: s["doc_id"])] == [1, 0, 1, 0, 1, 0]
    assert [len(sample["arguments"]) for sample in samples] == [6] * 6
    assert result["results"]["package_multirc"]["acc,none"] == pytest.approx(4 / 6)


def test_an_open_question_counts_when_any_alias_is_greedy(manager: Any) -> None:
    tasks = ["triviaqa_papers", "webqs_papers", "package_squad"]
    assert evaluate(judge("Bo"), tasks, 0, manager)["results"]["triviaqa_papers"]["acc,none"] == 1
    results = evaluate(judge("In Kerman"), tasks, 0, manager)["results"]
    assert [results[name]["acc,none"] for name in tasks] == [0, 1, 0]


def test_examples_show_the_answers_that_the_papers_harness_showed(manager: Any) -> None:
    samples = evaluate(judge("a"), ["triviaqa_papers", "webqs_papers", "multirc_papers"], 2, manager)["samples"]
    context = samples["triviaqa_papers"][0]["arguments"][0][0]
    assert context.count("\nAnswer: Anna Gray\n\n") == 2
    assert context.endswith("?\nAnswer:")
    assert samples["webqs_papers"][0]["arguments"][0][0].count("\nAnswer: Kerman\n\n") == 2
    context = samples["multirc_papers"][0]["arguments"][0][0]
    assert context.count("\nIs the answer correct? ") == 2
    assert context.endswith("is long.\nQuestion: What is it like?\nAnswer:")


# --- scoring by hand ------------------------------------------------------------------------------------------


def test_an_answer_that_another_one_begins_is_not_asked_for() -> None:
    assert papers.shortest_answers(["Anna Gray", "Bo", "Ann", "Ann", "Bob"]) == ["Ann", "Bo"]
    assert papers.shortest_answers([]) == []


def test_any_greedy() -> None:
    assert papers.any_greedy({}, [(-1.0, False), (-9.0, True)]) == {"acc": 1.0}
    assert papers.any_greedy({}, [(-1.0, False), (-2.0, False)]) == {"acc": 0.0}


@pytest.mark.parametrize(
    ("likelihoods", "right"),
    [
        ([-2.0, -1.0, -1.0, -2.0], 1.0),
        ([-2.0, -1.0, -2.0, -1.0], 0.0),
        ([-1.0, -2.0, -1.0, -2.0], 0.0),
        ([-2.0, -1.0, -2.0, -2.0], 1.0),
        ([-1.0, -1.0, -1.0, -2.0], 0.0),
    ],
)
def test_all_answers_must_be_judged_rightly_and_a_tie_is_a_no(likelihoods: list[float], right: float) -> None:
    """(no, yes) of a right answer, then of a wrong one."""
    doc = {"labels": [1, 0]}
    assert papers.all_right(doc, [(value, False) for value in likelihoods]) == {"acc": right}
