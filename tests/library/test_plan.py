from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dataeff.errors import DataeffError
from dataeff.library import Plan
from dataeff.plan import build_plan
from dataeff.study.specs import write_spec
from tests.factory import SEQTRU, small_plan_spec
from tests.library.planning import DROP, LAYERS, RESHAPE, TRUNCATE, small_gpt2, small_plan


def test_look_ups_are_the_rows_of_the_table() -> None:
    plan = small_plan(curriculum=RESHAPE, token_drop=DROP)
    for step, row in enumerate(plan.steps.to_dict("records")):
        assert plan.lr(step) == row["learning_rate"]
        assert plan.sequence_length(step) == row["sequence_length"]
        assert plan.kept_tokens(step) == row["kept_tokens"]
        assert plan.rows(step) == row["rows"]
        assert len(plan.samples(step)) == plan.batch_size
    assert len(plan) == len(plan.steps) > 12  # dropped tokens do not count
    assert plan.window(0) is None


def test_a_window_is_looked_up() -> None:
    plan = small_plan(curriculum={"seqlen": {**TRUNCATE["seqlen"], "apply": "window"}})
    assert [plan.window(step) for step in range(len(plan))] == plan.steps["window"].tolist()
    assert plan.window(0) == 10
    assert plan.sequence_length(0) == 32


@pytest.mark.parametrize("step", [-1, 12])
def test_a_step_outside_the_plan_is_refused(step: int) -> None:
    plan = small_plan()
    for look_up in (plan.lr, plan.sequence_length, plan.samples):
        with pytest.raises(IndexError, match=f"step {step} of a plan of 12 steps"):
            look_up(step)


def test_the_scheduler_has_the_plans_rates() -> None:
    plan = small_plan()
    weights = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": plan.peak_lr / 10}]
    optimizer = torch.optim.SGD(groups, lr=plan.peak_lr)
    scheduler = plan.scheduler(optimizer)
    for step in range(len(plan)):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([plan.lr(step), plan.lr(step) / 10], rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(plan.lr(len(plan) - 1))


def test_a_resumed_scheduler_goes_on() -> None:
    plan = small_plan()

    def scheduler_of_new_optimizer() -> torch.optim.lr_scheduler.LambdaLR:
        return plan.scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=plan.peak_lr))

    first = scheduler_of_new_optimizer()
    for _ in range(5):
        first.optimizer.step()
        first.step()
    again = scheduler_of_new_optimizer()
    again.load_state_dict(first.state_dict())
    again.step()
    assert again.get_last_lr()[0] == pytest.approx(plan.lr(6), rel=1e-12)


def test_an_optimizer_of_another_rate_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    with pytest.raises(DataeffError, match=r"rate is 0.5, the plan's peak 0.001; make the optimizer with lr=plan.pe"):
        small_plan().scheduler(optimizer)


@pytest.mark.parametrize("rate", [None, {"peak": 1e-3, "minimum": 1e-4}])
def test_saved_and_loaded_a_plan_is_the_same(tmp_path: Path, rate: dict[str, float] | None) -> None:
    hardness = np.random.default_rng(0).random(400)
    select = {"hardness": {"apply": "select", "pacing": {"start": 20, "end": 100, "over": 1}}}
    plan = small_plan(
        curriculum={**RESHAPE, **select}, token_drop=DROP, learning_rate=rate, difficulty={"hardness": hardness}
    )
    plan.save(tmp_path / "plan")
    again = Plan.load(tmp_path / "plan")
    assert again.digest == plan.digest
    assert again.steps.equals(plan.steps)
    assert again.reshapes
    assert again.has_lr == (rate is not None)
    assert all((again.samples(step) == plan.samples(step)).all() for step in range(len(plan)))


def test_a_plan_of_the_study_is_loaded_with_its_spec(tmp_path: Path) -> None:
    spec = small_plan_spec({"curriculum": SEQTRU})
    study = build_plan(spec, 1000, {})
    study.save(tmp_path / "plan")
    write_spec(tmp_path / "run.yaml", spec)
    plan = Plan.load(tmp_path / "plan", tmp_path / "run.yaml")
    assert plan.digest == study.digest
    assert plan.sequence_length(0) == study.steps["sequence_length"].iloc[0] < 64
    with pytest.raises(DataeffError, match=r"spec.yaml: no such file; of a study's plan, pass spec="):
        Plan.load(tmp_path / "plan")
    write_spec(tmp_path / "other.yaml", small_plan_spec({}))
    with pytest.raises(DataeffError, match=r"other.yaml: not the spec that .*plan was made of"):
        Plan.load(tmp_path / "plan", tmp_path / "other.yaml")


def test_attached_layers_are_the_plans() -> None:
    plan = small_plan(token_drop={**DROP, "keep_first": 2})
    for whole in (False, True):
        model = small_gpt2()
        drop = plan.attach(model.transformer.h if whole else model)
        replaced = [index for index, layer in enumerate(model.transformer.h) if "forward" in vars(layer)]
        assert replaced == [2]
        drop.detach()
        assert not any("forward" in vars(layer) for layer in model.transformer.h)


def test_a_baseline_attaches_to_no_layer() -> None:
    model = small_gpt2()
    small_plan().attach(model)
    assert not any("forward" in vars(layer) for layer in model.transformer.h)


def test_a_model_of_other_layers_is_refused() -> None:
    with pytest.raises(DataeffError, match=f"{LAYERS} transformer layers, the plan was made for 6; make it with lay"):
        small_plan(layers=6).attach(small_gpt2())
