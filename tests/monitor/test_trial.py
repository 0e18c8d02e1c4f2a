"""What a canary cuts down, and what it leaves as the study has it."""

from __future__ import annotations

from typing import Any

from dataeff.monitor.measured import Kill, _warm_steps, told
from dataeff.monitor.trial import STEPS, Trial, canary_runs
from dataeff.plan import steps_table
from dataeff.study.load import Study, load_study
from dataeff.study.specs import plan_spec, pretrain_spec
from tests.factory import ROOT, config


def study(**changes: Any) -> Study:
    return load_study(config(**{"scale": "smoke", **changes}), ROOT)


def test_a_canary_is_the_run_with_most_methods_of_each_family() -> None:
    assert [run.name for run in canary_runs(study())] == ["gpt-composed-100-s1234", "bert-composed-100-s1234"]


def test_only_the_length_of_the_run_is_cut() -> None:
    for scale in ("smoke", "paper"):
        whole = study(scale=scale)
        for run in canary_runs(whole):
            trial = Trial.of(whole, run)
            assert trial.pretrain == pretrain_spec(whole, run)
            changed = {
                name
                for name, value in plan_spec(whole, run).model_dump().items()
                if trial.plan.model_dump()[name] != value
            }
            assert changed <= {"train_tokens", "learning_rate", "published_steps"}


def test_the_plan_of_a_canary_reaches_full_length() -> None:
    """Also at the papers' scale, whose pacings take hundreds of thousands of steps."""
    whole = study(scale="paper")
    for run in canary_runs(whole):
        table = steps_table(Trial.of(whole, run).plan)
        assert STEPS <= len(table) < 3 * STEPS
        assert table["sequence_length"].iloc[-1] == whole.family(run).model.sequence_length
        assert (table["rows"] == whole.family(run).batch_size).all()


def test_one_task_with_few_items_is_asked() -> None:
    trial = Trial.of(study(), canary_runs(study())[0])
    assert trial.evaluate is not None
    assert (list(trial.evaluate.tasks), trial.evaluate.shots) == (["last_word"], [0])
    assert (trial.heldout_tasks, trial.datasets, trial.finetune) == (["last_word"], [], None)


def test_encoders_are_finetuned_once() -> None:
    task = {"about": "own", "table": "own", "recipe": "thrice", "inputs": ["text"], "evaluation": {"acc": "validation"}}
    own = study(
        scale="mine",
        scales={
            "mine": {
                "extends": "smoke",
                "about": "own",
                "finetuning": {"tasks": ["rte"], "learning_rates": None, "seeds": None},
            }
        },
        recipes={"thrice": {"about": "own", "learning_rates": [1e-4, 2e-4], "seeds": [1, 2, 3]}},
        finetuning={"rte": {**task, "data": "glue_rte"}},
    )
    gpt, bert = (Trial.of(own, run) for run in canary_runs(own))
    assert gpt.finetune is None
    assert bert.evaluate is None
    assert bert.finetune is not None
    recipe = bert.finetune.recipe
    assert (recipe.epochs, recipe.seeds, recipe.learning_rates) == (1, [1], [1e-4])
    assert bert.datasets == ["glue_rte"]
    assert gpt.digest != bert.digest


def test_first_steps_of_each_start_are_not_measured() -> None:
    assert _warm_steps([1, 2, 3, 4, 5, 6], Kill(5, 4)) == [2, 3, 4, 6]
    assert _warm_steps([1, 2, 3], Kill(None, None)) == [2, 3]


def test_what_is_told() -> None:
    facts = {
        "run": "gpt-ltd-100-s1234",
        "settings": {"nodes": 2, "processes": 8, "minutes": 60},
        "steps": 15,
        "after_step": 6,
        "resumed_after_step": 4,
        "stage_seconds": {"plan": 2.0, "pretrain": 61.0},
        "step_seconds": {"median": 0.5, "longest": 0.9},
        "effective_tokens_per_second": 2e6,
        "operations_per_second": 3.2e15,
        "peak_memory_bytes": 4_000_000_000,
        "peak_cuda_reserved_bytes": 61_000_000_000,
        "micro_batch": 8,
        "projected_hours": {"a": 30.0, "b": 12.0},
    }
    assert told(facts) == [
        "canary gpt-ltd-100-s1234: all stages passed on 2 x 8 ranks, micro_batch 8",
        "  stages    plan 0:02, pretrain 1:01",
        "  training  15 steps; killed after step 6, continued after step 4",
        "  step      0.5 s (longest 0.9 s), 2.0M tokens/s, 3.20e15 FLOP/s",
        "  memory    4.00 GB of host memory, 61.00 GB of a GPU's at most, of rank 0",
        "  whole     42.0 h for 2 runs in turn; a alone 30.0 h; more than the 1 h of a job, it continues in others",
    ]
