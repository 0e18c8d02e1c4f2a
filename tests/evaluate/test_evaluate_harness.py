from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.harness import SEED, ShotResult, find_items, run_shots
from dataeff.evaluate.model import open_model
from dataeff.study.types import Task


@pytest.fixture(scope="module")
def results(model: Path, items: list[Path], tasks: dict[str, Task]) -> list[ShotResult]:
    return list(run_shots(open_model(model, 4), find_items(tasks, items, 3), [0, 3], limit=10))


@pytest.mark.parametrize("position", [0, 1])
def test_items_and_scores_equal_those_of_the_plain_harness(
    position: int,
    results: list[ShotResult],
    model: Path,
    items: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """lm-eval's own way, one task at a time, with the items' YAML as it lies in the folder. Ours takes both tasks
    at once; with lm-eval's logits cache that gave wrong values to each sentence that both tasks hold."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    ours = results[position]
    for folder, name in zip(items, ours.tasks, strict=True):
        monkeypatch.chdir(folder)
        plain: Any = simple_evaluate(
            model="hf",
            model_args=f"pretrained={model},dtype=float32",
            tasks=[name],
            num_fewshot=ours.shots,
            limit=10,
            batch_size=4,
            device="cpu",
            task_manager=TaskManager(include_path=".", include_defaults=False),
            fewshot_random_seed=SEED,
        )
        records = [record for record in ours.items if record["task"] == name]
        samples = sorted(plain["samples"][name], key=lambda sample: sample["doc_id"])
        prompts = [sample["arguments"][0][0] for sample in samples]
        assert [record["prompt"] for record in records] == prompts
        assert [record["acc"] for record in records] == [sample["acc"] for sample in samples]
        for record, sample in zip(records, samples, strict=True):
            theirs = [response[0] for response in sample["filtered_resps"]]
            assert record["loglikelihoods"] == pytest.approx(theirs, abs=1e-4)
        assert ours.tasks[name].value == plain["results"][name]["acc,none"]
        assert ours.tasks[name].standard_error == plain["results"][name]["acc_stderr,none"]


def test_an_item_is_right_where_its_answer_is_likeliest(results: list[ShotResult]) -> None:
    for result in results:
        for record in result.items:
            likeliest = max(range(4), key=lambda choice: record["loglikelihoods"][choice])
            assert record["acc"] == (likeliest == record["answer"])
        for name, score in result.tasks.items():
            accuracies = [record["acc"] for record in result.items if record["task"] == name]
            assert score.value == pytest.approx(sum(accuracies) / 10)
            assert (score.items, score.chance, score.truncated_prompts) == (10, 0.25, 0)


def test_shots_put_solved_examples_before_the_item(results: list[ShotResult]) -> None:
    none, three = ([record["prompt"] for record in result.items if record["task"] == "last_word"] for result in results)
    for bare, shown in zip(none, three, strict=True):
        *examples, last = shown.split("\n")
        assert last == bare
        assert len(examples) == 3
        assert all(example.endswith(".") for example in examples)


def test_prompts_longer_than_the_context_are_counted(
    make_model: Callable[..., Path], items: list[Path], tasks: dict[str, Task]
) -> None:
    short = open_model(make_model("short", positions=40), 4)
    (result,) = run_shots(short, find_items(tasks, items, 3), [3], limit=10)
    for name, score in result.tasks.items():
        longer = sum(record["prompt_tokens"] > 41 for record in result.items if record["task"] == name)
        assert score.truncated_prompts == longer > 0


def test_values_that_are_not_finite_are_an_error(diverged: Path, items: list[Path], tasks: dict[str, Task]) -> None:
    with pytest.raises(DataeffError, match=r"item 0 of 'last_word' has log-likelihoods \[nan"):
        list(run_shots(open_model(diverged, 4), find_items(tasks, items, 0), [0], limit=2))


def test_items_must_be_there_whole_and_for_this_task(items: list[Path], tasks: dict[str, Task], tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"tasks\.word_order: no items in"):
        find_items(tasks, items[:1], 0)
    with pytest.raises(DataeffError, match="no such folder; make the items again"):
        find_items(tasks, [*items, tmp_path / "absent"], 0)
    with pytest.raises(DataeffError, match="few-shot examples for 1000 shots"):
        find_items(tasks, items, 1000)
    with pytest.raises(DataeffError, match="made for another 'last_word'"):
        find_items({"last_word": tasks["last_word"].model_copy(update={"seed": 1})}, items, 0)
    folder = Path(shutil.copytree(items[0], tmp_path / "cut"))
    file = folder / "last_word" / "test.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataeffError, match="its manifest says"):
        find_items({"last_word": tasks["last_word"]}, [folder], 0)
