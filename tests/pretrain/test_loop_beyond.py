"""Short whole runs of the routes and of the attention window: kills and micro-batches change nothing of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from dataeff import keyed
from dataeff.families.batch import Cut
from dataeff.families.gpt import Gpt, loss_sum
from dataeff.plan import TrainingPlan
from dataeff.study.load import extend, merge
from dataeff.study.types import Run, Variant
from dataeff.token_counts import kept_rows
from dataeff.token_drop import chosen_rows
from dataeff.tokens.vocabulary import load
from tests.factory import ROOT
from tests.pretrain.test_loop import assert_close, assert_identical
from tests.pretrain.training import SHORT_PACINGS, Material, Training, study_of

VARIANTS = ("one_route", "layer_drop", "window")
OTHERS = ("one_route", "window")
"""Of the slow tests: each takes several runs."""


@pytest.fixture(scope="module")
def beyond(material: Material) -> Material:
    """Plans of these variants and of the baseline, without dropout, over the text of all training tests."""
    study = study_of(material.folder, "beyond", dropout=0.0)
    raw = yaml.safe_load((ROOT / "config/variants/gpt.yaml").read_text())
    raw, names = merge(raw, SHORT_PACINGS), (*VARIANTS, "baseline")
    variants = {name: Variant.model_validate(extend(raw, name, "variants")) for name in names}
    runs = [Run(family="gpt", variant=name, data=Fraction(1), seed=1234) for name in names]
    changed = {"grids": {"beyond": runs}, "variants": {"gpt": variants}}
    made = Material(material.folder, study.model_copy(update=changed))
    made.make_plans()
    return made


@pytest.fixture(scope="module")
def one_process(beyond: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """Runs that nothing interrupted, in micro-batches of 8."""
    folder = tmp_path_factory.mktemp("one_process")
    return {name: beyond.training(name, folder / name, micro_batch=8).finish() for name in VARIANTS}


@pytest.mark.parametrize("variant", ["layer_drop", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_killed_between_checkpoints_a_run_ends_identically(
    beyond: Material, one_process: dict[str, Training], tmp_path: Path, variant: str
) -> None:
    run = beyond.training(variant, tmp_path, micro_batch=8)
    run.kill_after(8)
    assert_identical(run.finish(), one_process[variant])
    assert "continues after step" in run.log


@pytest.mark.parametrize("variant", ["layer_drop", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_small_micro_batches_train_the_same(
    beyond: Material, one_process: dict[str, Training], tmp_path: Path, variant: str
) -> None:
    """At 2 rows, where layer_drop has micro-batches of which no row goes through a layer."""
    assert_close(beyond.training(variant, tmp_path, micro_batch=2).finish(), one_process[variant])


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_processes_train_as_one(
    beyond: Material, one_process: dict[str, Training], tmp_path: Path, variant: str, zero_stage: int
) -> None:
    """One row at a time: often a layer drops the row of one rank alone, which every ZeRO stage has to bear."""
    run = beyond.training(variant, tmp_path, processes=2, micro_batch=1, zero_stage=zero_stage)
    assert_close(run.finish_with_torchrun(), one_process[variant])


def steps_of(material: Material, variant: str) -> pd.DataFrame:
    return TrainingPlan.load(material.scale / f"plan/gpt-{variant}-100-s1234").steps


def test_routes_train_otherwise_on_the_same_kept_tokens(one_process: dict[str, Training]) -> None:
    one_route, layer_drop = (one_process[name] for name in ("one_route", "layer_drop"))
    for first, second in zip(one_route.metrics, layer_drop.metrics, strict=True):
        assert first["kept_tokens"] == second["kept_tokens"]
    assert one_route.metrics[0]["kept_tokens"] == 16
    assert abs(one_route.losses[0] - layer_drop.losses[0]) > 1e-6
    for run in (one_route, layer_drop):
        assert run.losses[-1] < run.losses[0] - 1


def test_the_window_of_every_step_is_the_plan_s(beyond: Material, one_process: dict[str, Training]) -> None:
    run, steps, baseline = one_process["window"], steps_of(beyond, "window"), steps_of(beyond, "baseline")
    assert [row["window"] for row in run.metrics] == steps["window"].tolist()
    assert steps["window"].iloc[[0, -1]].tolist() == [8, 64]
    assert [row["raw_tokens"] for row in run.metrics] == baseline["cumulative_raw_tokens"].tolist()
    assert [row["learning_rate"] for row in run.metrics] == baseline["learning_rate"].tolist()
    assert run.losses[-1] < run.losses[0] - 1


def test_training_sees_blocks_and_the_probe_sees_all(beyond: Material, one_process: dict[str, Training]) -> None:
    """On the first step's samples, with weights large enough for the context to show; and the run's first loss."""
    run = one_process["window"]
    plan = TrainingPlan.load(beyond.scale / "plan" / run.name)
    family = Gpt(load(beyond.tokenized("gpt") / "tokenizer"))
    samples = family.open_samples(beyond.item("gpt") / "samples", beyond.token_files("gpt"))
    batch = family.step_batch(samples, plan.order.samples(0), Cut(64, None, False, 1234, 0, 8))
    assert batch.facts == {"window": 8}
    assert set(family.probe_batch(beyond.data / "heldout", 64).arrays) == {"tokens"}
    model = beyond.study.scale.families["gpt"].model
    part = batch.part(slice(None), "cpu")
    torch.manual_seed(keyed.key(1234, "initial weights"))
    with torch.no_grad():
        untrained = float(family.loss_sums(family.build_model(model), part)["loss"])
        large = family.build_model(model.model_copy(update={"init_std": 0.5}))
        blocks, whole = (float(loss_sum(large, part["tokens"], window)[0]) for window in (8, None))
        assert blocks != pytest.approx(whole, rel=0.01)
        assert float(family.loss_sums(large, part)["loss"]) == blocks
        assert family.probe_sums(large, part)["loss"].total == whole
    assert run.losses[0] == pytest.approx(untrained / batch.counts["loss"], abs=1e-6)


def test_micro_batches_without_a_row_do_occur(beyond: Material) -> None:
    """Else the tests above would not test them."""
    steps = steps_of(beyond, "layer_drop")
    kept = kept_rows(steps["rows"].to_numpy(), steps["sequence_length"].to_numpy(), steps["kept_tokens"].to_numpy())
    found = {
        int(part.sum())
        for step, number in enumerate(kept)
        for layer in (1, 2)
        for part in chosen_rows(1234, step, layer, 8, int(number)).split(2)
    }
    assert found == {0, 1, 2}
