"""The recipes and tasks of config/tasks.yaml against what the papers' protocol is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dataeff.files import read_yaml
from dataeff.study.faults import validate
from dataeff.study.tasks import FinetuneTask, HubData, LocalData, TasksFile
from tests.factory import ROOT

FILE = validate(TasksFile, read_yaml(ROOT / "config" / "tasks.yaml"), "config/tasks.yaml")


def of_table(table: str) -> dict[str, FinetuneTask]:
    return {name: task for name, task in FILE.finetuning.items() if task.table == table}


def test_glue_is_the_papers_nine_columns() -> None:
    tasks = of_table("glue").values()
    columns = {column: task.metric for task in tasks for column in task.evaluation}
    others = dict.fromkeys(["MNLI-m", "MNLI-mm", "QQP", "QNLI", "SST-2", "MRPC", "RTE"], "accuracy")
    assert columns == {**others, "CoLA": "matthews", "STS-B": "spearman"}
    assert [task.decided_by for task in tasks if len(task.evaluation) > 1] == ["together"]
    assert {task.recipe for task in tasks} == {"glue"}
    recipe = FILE.recipes["glue"]
    assert (recipe.epochs, recipe.batch_size, recipe.seeds) == (3, 32, [1234, 1235, 1236, 1237, 1238])
    assert recipe.learning_rates == [2e-5, 3e-5, 4e-5, 5e-5]
    assert (recipe.warmup, recipe.weight_decay, recipe.dropout) == (Fraction(1, 10), 0.1, 0.1)


def test_no_recipe_cuts_shorter_than_the_papers_scripts() -> None:
    """`seq_len` of Megatron-DeepSpeed's finetune_glue and finetune scripts: 512 in all of them, GLUE's too."""
    assert {name: recipe.max_length for name, recipe in FILE.recipes.items()} == dict.fromkeys(FILE.recipes, 512)
    assert {"glue", "megatron_mnli", "megatron_qqp", "megatron_race"} == set(FILE.recipes)


def test_race_is_framed_as_megatron_does() -> None:
    for name in ("race_middle", "race_high"):
        assert (FILE.finetuning[name].inputs, FILE.finetuning[name].choice_in) == (["question", "article"], "question")


def test_the_older_group_has_the_megatron_lm_papers_recipes() -> None:
    found = {
        name: (recipe.epochs, recipe.batch_size, recipe.learning_rates, float(recipe.warmup), recipe.weight_decay)
        for name, recipe in FILE.recipes.items()
    }
    assert found["megatron_mnli"] == (10, 128, [1e-5], 0.065, 0.1)
    assert found["megatron_qqp"] == (12, 128, [5e-5], 0.065, 0.1)
    assert found["megatron_race"] == (3, 32, [2e-5], 0.06, 0.1)
    assert sorted(of_table("megatron")) == ["megatron_mnli", "megatron_qqp", "race_high", "race_middle"]


@pytest.mark.parametrize("name", FILE.finetuning)
def test_every_task_has_its_data_and_recipe(name: str) -> None:
    task = FILE.finetuning[name]
    assert task.recipe in FILE.recipes
    fetch = FILE.datasets[task.data].fetch
    if isinstance(fetch, HubData | LocalData):
        assert {task.train, *task.evaluation.values()} <= set(fetch.splits)
    if task.table == "offline":
        assert not isinstance(fetch, HubData)


def test_no_column_stands_twice_in_a_table() -> None:
    for table in ("glue", "megatron", "offline"):
        columns = [column for task in of_table(table).values() for column in task.evaluation]
        assert len(columns) == len(set(columns))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_names": ["a"]}, "2 different names are needed"),
        ({"evaluation": {"A": "train"}}, "'train' is what the model is trained on"),
        ({"evaluation": {}}, "at least one column"),
        ({"head": "regression"}, "head: regression goes with labels: 1"),
        ({"head": "choice"}, "choices is None"),
        ({"head": "choice", "choices": "c", "choice_in": "b"}, r"choice_in is 'b': one of the inputs \['a'\]"),
        ({"choice_in": "a"}, "choice_in is 'a': one of the inputs .* with head: choice"),
    ],
)
def test_a_task_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    fields = {"about": "x", "data": "d", "table": "t", "recipe": "r", "inputs": ["a"], "evaluation": {"A": "dev"}}
    with pytest.raises(ValueError, match=message):
        FinetuneTask.model_validate({**fields, **changes})
