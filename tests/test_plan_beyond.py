"""Plans of the variants that later work points to, as config/variants/gpt.yaml defines them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.plan import build_plan, steps_table
from dataeff.study.load import extend
from dataeff.study.specs import PlanSpec
from dataeff.study.types import LearningRate, Run
from dataeff.token_counts import layer_tokens
from tests.factory import ROOT, paper_plan_spec, small_plan_spec


def variant(name: str, **changes: Any) -> dict[str, Any]:
    raw = yaml.safe_load((ROOT / "config/variants/gpt.yaml").read_text())
    return {**extend(raw, name, "variants"), **changes}


def small(name: str, **changes: Any) -> PlanSpec:
    """Of 40 nominal steps of 4 x 64 on 4 layers; kept tokens begin at 16 of 64, since 1/16 would round down to 0."""
    found = variant(name)
    if "token_drop" in found:
        pacing = {**found["token_drop"]["pacing"], "start": "1/4", "multiple_of": 8}
        found["token_drop"] = {**found["token_drop"], "pacing": pacing}
    return small_plan_spec(found, **changes)


def counted_layer_tokens(spec: PlanSpec, table: pd.DataFrame) -> np.ndarray:
    rows, length, kept = (table[name].to_numpy() for name in ("rows", "sequence_length", "kept_tokens"))
    return layer_tokens(rows, length, kept, spec.layers, spec.layers - 2, spec.variant.token_drop)


def index_of(samples: int, name: str = "compression_ratio") -> DifficultyIndex:
    values = np.random.default_rng(0).permutation(samples).astype(np.int64)
    return DifficultyIndex(name, values, np.argsort(values, kind="stable"))


# --- routes --------------------------------------------------------------------------------------------------


def test_one_route_has_the_steps_of_random_ltd() -> None:
    specs = [paper_plan_spec(variant(name)) for name in ("ltd", "one_route")]
    ltd, one_route = map(steps_table, specs)
    assert ltd.equals(one_route)
    assert specs[0].digest != specs[1].digest


def test_dropped_samples_spend_the_layer_tokens_of_random_ltd() -> None:
    """512 rows times r/2048 are whole rows at every multiple of 4 kept tokens: the same layer tokens step by step.

    Their layer average is floored once instead of per row, so that the run has a few steps less.
    """
    specs = [paper_plan_spec(variant(name)) for name in ("ltd", "layer_drop")]
    tables = [steps_table(spec) for spec in specs]
    steps = len(tables[1])
    assert 0 < len(tables[0]) - steps < 1e-4 * steps
    ltd, layer_drop = (table.iloc[:steps] for table in tables)
    assert ltd["kept_tokens"].tolist() == layer_drop["kept_tokens"].tolist()
    spent = [counted_layer_tokens(spec, table) for spec, table in zip(specs, (ltd, layer_drop), strict=True)]
    assert (spent[0] == spent[1]).all()
    assert (layer_drop["effective_tokens"] == spent[1] // 24).all()
    more = layer_drop["effective_tokens"] - ltd["effective_tokens"]
    assert 0 == more.min() < more.max() < 512


def test_dropped_samples_by_hand() -> None:
    """4 rows of 64, 2 middle layers: one row goes through each below 32 kept tokens, two below 48, three below 64."""
    spec = small("layer_drop")
    table = steps_table(spec)
    kept = table["kept_tokens"].to_numpy()
    through = np.select([kept < 32, kept < 48, kept < 64], [1, 2, 3], 4)
    assert set(through) == {1, 2, 3, 4}
    assert (counted_layer_tokens(spec, table) == 2 * 4 * 64 + 2 * through * 64).all()
    assert (table["effective_tokens"] == 2 * 4 * 64 // 4 + 2 * through * 64 // 4).all()
    assert (table["raw_tokens"] == 4 * 64).all()
    consumed = table["cumulative_effective_tokens"]
    assert consumed.iloc[-2] < spec.train_tokens <= consumed.iloc[-1]


# --- window --------------------------------------------------------------------------------------------------


def test_a_window_grows_while_all_tokens_are_trained_on() -> None:
    """8 to 64 over 24 of 40 steps: 8 + 56 t / 24 at the 1-based step t, rounded down to a multiple of 8."""
    table, baseline = steps_table(small("window")), steps_table(small("baseline"))
    window = table.pop("window")
    assert window.iloc[:8].tolist() == [8, 8, 8, 16, 16, 16, 24, 24]  # 10.3, 12.7, 15, 17.3, 19.7, 22, 24.3, 26.7
    assert window.iloc[[22, 23, 39]].tolist() == [56, 64, 64]
    assert table.equals(baseline)


def test_a_window_at_the_papers_length() -> None:
    window = steps_table(paper_plan_spec(variant("window")))["window"]
    steps = round(0.6 * 286_102)
    assert window.iloc[[0, steps - 2, steps - 1, -1]].tolist() == [256, 2040, 2048, 2048]
    assert (window % 8 == 0).all()
    assert (window.diff().dropna() >= 0).all()


@pytest.mark.parametrize("name", ["baseline", "cl_seqtru", "ltd"])
def test_no_other_variant_has_a_window(name: str) -> None:
    assert "window" not in steps_table(small(name))


# --- a curriculum as a warm-up -------------------------------------------------------------------------------


def test_after_a_warm_up_the_pool_is_all_samples() -> None:
    """1 to 50 percent over 8 of 40 steps: 1 + 49 t / 8 at the 1-based step t, then everything."""
    plan = build_plan(small("cl_warmup"), 2000, {"compression_ratio": index_of(2000)})
    level = plan.steps["compression_ratio_percentile"].tolist()
    assert level == [7, 13, 19, 25, 31, 37, 43, 50] + [100] * 32
    assert plan.steps["pool_size"].tolist() == [20 * percent for percent in level]
    values = index_of(2000).values
    early, late = (np.concatenate([plan.order.samples(step) for step in steps]) for steps in (range(8), range(8, 40)))
    assert values[early].max() < 1000
    assert (values[late] >= 1000).mean() > 0.4


def test_without_it_the_end_is_held() -> None:
    held = variant("cl_warmup")
    held["curriculum"]["compression_ratio"]["then"] = "hold"
    plan = build_plan(small_plan_spec(held), 2000, {"compression_ratio": index_of(2000)})
    assert plan.steps["compression_ratio_percentile"].iloc[7:].tolist() == [50] * 33
    assert plan.steps["pool_size"].iloc[-1] == 1000


def test_a_warm_up_by_value_ends_with_all_samples_too() -> None:
    warm = variant("cl_warmup")
    warm["curriculum"]["compression_ratio"] |= {"by": "value", "pacing": {"start": 100, "end": 500, "over": 0.2}}
    plan = build_plan(small_plan_spec(warm), 2000, {"compression_ratio": index_of(2000)})
    assert plan.steps["pool_size"].iloc[7] == 501  # values of 0 to 500
    assert set(plan.steps["pool_size"].iloc[8:]) == {2000}


# --- learning rate -------------------------------------------------------------------------------------------

LINEAR = LearningRate(peak=1e-3, minimum=1e-5, warmup_tokens=1024, decay="linear")


def test_raw_tokens_as_the_clock_by_hand() -> None:
    """A step of 256 raw tokens, whatever is dropped; steps see the tokens up to the last but one."""
    table = steps_table(small("ltd_raw_token_lr", learning_rate=LINEAR))
    rate, total = table["learning_rate"].to_numpy(), 256 * len(table)
    assert len(table) > 40
    seen = 256 * np.maximum(0, np.arange(len(table)) - 1)
    decayed = 1e-3 - (1e-3 - 1e-5) * (seen - 1024) / (total - 1024)
    assert rate == pytest.approx(np.where(seen <= 1024, 1e-3 * seen / 1024, decayed), rel=1e-9)
    other = steps_table(small("ltd", learning_rate=LINEAR))
    assert table.drop(columns="learning_rate").equals(other.drop(columns="learning_rate"))
    assert (rate[2:5] > other["learning_rate"].to_numpy()[2:5]).all()  # the warm-up is over sooner


def test_layer_tokens_as_the_clock_by_hand() -> None:
    """The middle of every step on the scale of layer tokens; the warm-up is 1024 tokens through all 4 layers."""
    spec = small("ltd_layer_token_lr", learning_rate=LINEAR)
    table = steps_table(spec)
    kept = table["kept_tokens"].to_numpy()
    step_tokens = 4 * 64 * 2 + 4 * kept * 2
    middle = np.cumsum(step_tokens) - step_tokens / 2
    decayed = 1e-3 - (1e-3 - 1e-5) * (middle - 4096) / (step_tokens.sum() - 4096)
    expected = np.where(middle <= 4096, 1e-3 * middle / 4096, decayed)
    assert table["learning_rate"].to_numpy() == pytest.approx(expected, rel=1e-9)
    assert table["learning_rate"].iloc[0] > 0


def test_the_clocks_agree_where_nothing_is_dropped() -> None:
    plain = steps_table(small("baseline"))["learning_rate"]
    raw = steps_table(small_plan_spec(variant("baseline", lr_clock="raw_tokens")))["learning_rate"]
    layer = steps_table(small_plan_spec(variant("baseline", lr_clock="layer_tokens")))["learning_rate"]
    assert raw.tolist() == plain.tolist()
    assert (
        layer.iloc[:-2].to_numpy()
        == pytest.approx(  # a step and a half ahead of upstream's delay
            (plain.iloc[1:-1].to_numpy() + plain.iloc[2:].to_numpy()) / 2, abs=2e-4
        )
    )


@pytest.mark.parametrize("data", [1, Fraction(1, 2)])
@pytest.mark.parametrize(("name", "share"), [("cl_voc", None), ("cl_voc_moderate", 1 / 3), ("cl_voc_ema", 1)])
def test_the_last_rate_is_a_part_of_the_run_s_own_peak(name: str, share: float | None, data: Fraction) -> None:
    run = Run(family="gpt", variant="test", data=data, seed=1234)
    table = steps_table(paper_plan_spec(variant(name), run=run, train_tokens=int(300_000_000_000 * data)))
    peak = 2e-4 / data
    rate = table["learning_rate"].to_numpy()
    assert rate.max() == pytest.approx(peak, rel=1e-5)
    assert rate[-1] == pytest.approx(1e-6 if share is None else share * peak, rel=1e-3)
    warm = table["cumulative_effective_tokens"].to_numpy() > 3_000_000_000 + 2 * 512 * 2048
    if share == 1:
        assert rate[warm] == pytest.approx(peak, rel=1e-12)
    else:
        assert (np.diff(rate[warm]) < 0).all()


def test_an_average_changes_no_plan() -> None:
    moderate, average = (steps_table(small(name)) for name in ("cl_voc_moderate", "cl_voc_average"))
    assert moderate.equals(average)
