from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.errors import DataeffError
from dataeff.files import write_json, write_manifest
from dataeff.plan import (
    TrainingPlan,
    build_plan,
    run,
    steps_table,
)
from dataeff.study.specs import PlanSpec
from dataeff.study.types import Run
from tests.factory import LTD, SEQRES, SEQTRU, VOC, paper_plan_spec, small_plan_spec


def index_of(values: np.ndarray) -> DifficultyIndex:
    values = values.astype(np.int64)
    return DifficultyIndex("vocab_rarity", values, np.argsort(values, kind="stable"))


# Golden numbers of the papers' GPT-3 1.3B runs at 300B tokens (arXiv 2212.03597; Megatron-DeepSpeed f4157be).
@pytest.mark.parametrize(
    ("variant", "steps", "raw_billions"),
    [
        ({}, 286_103, 300.0),
        ({"token_drop": LTD}, 372_789, 390.9),
        ({"curriculum": SEQTRU}, 339_169, 300.0),
        ({"curriculum": VOC}, 286_103, 300.0),
        ({"curriculum": SEQTRU, "token_drop": LTD}, 377_264, 339.9),
    ],
)
def test_paper_scale_steps(variant: dict, steps: int, raw_billions: float) -> None:
    table = steps_table(paper_plan_spec(variant))
    assert len(table) == steps
    assert round(table["raw_tokens"].sum() / 1e9, 1) == raw_billions
    consumed = table["cumulative_effective_tokens"]
    assert consumed.iloc[-2] < 300_000_000_000 <= consumed.iloc[-1]


def test_paper_scale_pacing() -> None:
    table = steps_table(paper_plan_spec({"curriculum": {**SEQTRU, **VOC}, "token_drop": LTD}))
    assert table["sequence_length"].iloc[[0, 110_000 - 1]].tolist() == [80, 2048]
    assert table["sequence_length"].iloc[110_000 - 2] == 2040
    assert table["kept_tokens"].iloc[200_000] == 2048
    assert table["kept_tokens"].iloc[200_000 - 1] == 2032
    assert table["vocab_rarity_percentile"].iloc[[0, 110_000 - 1]].tolist() == [1, 100]


@pytest.mark.parametrize(("data", "peak"), [(1, 2e-4), (Fraction(2, 3), 3e-4), (Fraction(1, 2), 4e-4)])
def test_paper_scale_learning_rate(data: Fraction, peak: float) -> None:
    tokens = int(300_000_000_000 * data)
    spec = paper_plan_spec(run=Run(family="gpt", variant="test", data=data, seed=1), train_tokens=tokens)
    table = steps_table(spec)
    rate = table["learning_rate"].to_numpy()
    assert rate[0] == rate[1] == 0
    assert rate[2] == pytest.approx(peak * 2**20 / 3e9)  # the tokens of step 0 alone
    assert rate.max() == pytest.approx(peak, rel=1e-3)
    assert rate[-1] == pytest.approx(1e-6, rel=1e-3)
    half = int(np.searchsorted(table["cumulative_effective_tokens"], (3e9 + tokens) / 2)) + 2
    assert rate[half] == pytest.approx((peak + 1e-6) / 2, rel=1e-3)  # cosine's middle


def test_flat_learning_rate_keeps_the_peak() -> None:
    run = Run(family="gpt", variant="test", data=Fraction(1, 2), seed=1)
    spec = small_plan_spec({"lr_scaling": "none"}, run=run)
    assert build_plan(spec, 1000, {}).facts["peak_learning_rate"] == 1e-3
    scaled = small_plan_spec({}, run=run)
    assert build_plan(scaled, 1000, {}).facts["peak_learning_rate"] == 2e-3


def test_a_baseline_is_the_empty_curriculum() -> None:
    plan = build_plan(small_plan_spec(), 1000, {})
    assert plan.facts["steps"] == plan.facts["nominal_steps"] == 40
    assert set(plan.steps["sequence_length"]) == set(plan.steps["kept_tokens"]) == {64}
    assert set(plan.steps["pool_size"]) == {1000}


def test_reshape_keeps_the_tokens_of_a_step() -> None:
    table = steps_table(small_plan_spec({"curriculum": SEQRES}))
    assert (table["raw_tokens"] > 0.75 * 4 * 64).all()
    assert table["rows"].iloc[0] > 4


def test_selected_samples_are_the_easy_ones_first() -> None:
    values = np.random.default_rng(0).permutation(2000)
    plan = build_plan(small_plan_spec({"curriculum": VOC}), 2000, {"vocab_rarity": index_of(values)})
    for step, ids in enumerate(plan.order.iterate()):
        assert values[ids].max() < plan.steps["pool_size"].iloc[step]
    assert plan.steps["pool_size"].iloc[-1] == 2000


def two_metrics_spec(start: int = 20, **changes: Any) -> PlanSpec:
    part = {"apply": "select", "pacing": {"start": start, "end": 100, "over": "1/2"}}
    return small_plan_spec({"curriculum": {"vocab_rarity": part, "other": part}}, **changes)


def test_two_selecting_metrics_intersect() -> None:
    random = np.random.default_rng(0)
    indexes = {name: index_of(random.integers(0, 300, 4000)) for name in ("vocab_rarity", "other")}
    plan = build_plan(two_metrics_spec(), 4000, indexes)
    for step, ids in enumerate(plan.order.iterate()):
        row = plan.steps.iloc[step]
        pools = [
            set(index.order[: index.pool_size_at_percentile(int(row[f"{name}_percentile"]))].tolist())
            for name, index in indexes.items()
        ]
        assert row["pool_size"] == len(pools[0] & pools[1])
        assert set(ids.tolist()) <= pools[0] & pools[1]
    assert plan.steps["pool_size"].iloc[0] < 0.1 * 4000
    assert plan.steps["pool_size"].iloc[-1] == 4000


def test_metrics_that_admit_no_sample_in_common_are_refused() -> None:
    indexes = {"vocab_rarity": index_of(np.arange(1000)), "other": index_of(-np.arange(1000))}
    with pytest.raises(
        DataeffError,
        match=r"holds 0 samples, fewer than a batch of 4 \(vocab_rarity admits 240, other admits 240 of 1000\)",
    ):
        build_plan(two_metrics_spec(), 1000, indexes)


def write_indexes(folder: Path, samples: int, names: list[str]) -> dict[str, Path]:
    """Index folders, as `dataeff analyze` leaves them, beside the facts of the samples."""
    write_json(folder / "samples.json", {"samples": samples})
    folders = {name: folder / name for name in names}
    for seed, index_folder in enumerate(folders.values()):
        index = index_of(np.random.default_rng(seed).integers(0, 300, samples))
        index_folder.mkdir()
        np.save(index_folder / "value.npy", index.values)
        np.save(index_folder / "order.npy", index.order)
        ends = {"min": int(index.values.min()), "max": int(index.values.max())}
        write_json(index_folder / "index.json", {"metric": "vocab_rarity", "samples": samples, **ends})
        write_manifest(index_folder)
    return folders


def test_the_stage_refers_to_the_order_of_a_single_metric(tmp_path: Path) -> None:
    folders = write_indexes(tmp_path, 2000, ["vocab_rarity"])
    spec = small_plan_spec({"curriculum": VOC})
    line = run(spec, tmp_path, folders, tmp_path / "plan")
    assert line.startswith("gpt-test-100-s1234: 40 steps")
    files = sorted(file.name for file in (tmp_path / "plan").iterdir())
    assert files == ["counts.npy", "order.json", "plan.json", "steps.parquet"]
    made = build_plan(spec, 2000, {"vocab_rarity": DifficultyIndex.open(folders["vocab_rarity"])})
    loaded = TrainingPlan.load(tmp_path / "plan")
    assert loaded.digest == made.digest
    assert (loaded.order.samples(39) == made.order.samples(39)).all()


def test_the_stage_writes_the_joint_order_of_two_metrics(tmp_path: Path) -> None:
    folders = write_indexes(tmp_path, 4000, ["vocab_rarity", "other"])
    run(two_metrics_spec(), tmp_path, folders, tmp_path / "plan")
    indexes = {name: DifficultyIndex.open(folder) for name, folder in folders.items()}
    made = build_plan(two_metrics_spec(), 4000, indexes)
    loaded = TrainingPlan.load(tmp_path / "plan")
    assert (tmp_path / "plan/admission.npy").is_file()
    assert loaded.digest == made.digest
    assert (loaded.order.samples(39) == made.order.samples(39)).all()


def test_a_plan_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = write_indexes(tmp_path, 4000, ["vocab_rarity", "other"])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataeffError, match="max_epochs"):
        run(two_metrics_spec(max_epochs=Fraction(1, 100)), tmp_path, folders, tmp_path / "plan")
    assert sorted(tmp_path.iterdir()) == before


def test_saved_and_loaded_a_plan_is_the_same(tmp_path: Path) -> None:
    drop = {"pacing": {"start": "1/4", "end": 1, "over": "0.7", "multiple_of": 16}}
    plan = build_plan(small_plan_spec({"token_drop": drop}), 1000, {})
    plan.save(tmp_path / "plan")
    again = TrainingPlan.load(tmp_path / "plan")
    assert again.steps.equals(plan.steps)
    assert again.digest == plan.digest
    assert (again.order.samples(7) == plan.order.samples(7)).all()


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"nowhere/steps.parquet: no such file; make it with `dataeff plan`"):
        TrainingPlan.load(tmp_path / "nowhere")


def test_a_corpus_that_is_too_small_says_how_often_it_would_repeat() -> None:
    with pytest.raises(
        DataeffError,
        match=r"40 steps of 4 samples would read the corpus of 20 samples 8.0 times; max_epochs is 4",
    ):
        build_plan(small_plan_spec(), 20, {})


def test_a_pool_smaller_than_a_batch_is_refused() -> None:
    slow = {"vocab_rarity": {"apply": "select", "pacing": {"start": 1, "end": 100, "over": 1}}}
    spec = small_plan_spec({"curriculum": slow})
    with pytest.raises(DataeffError, match=r"pool of the first step holds 3 samples, fewer than a batch of 4"):
        build_plan(spec, 100, {"vocab_rarity": index_of(np.arange(100))})


def test_an_index_of_other_samples_is_refused() -> None:
    spec = small_plan_spec({"curriculum": VOC})
    with pytest.raises(DataeffError, match="covers 100 samples, the corpus has 90"):
        build_plan(spec, 90, {"vocab_rarity": index_of(np.arange(100))})


def test_token_drop_needs_a_layer_between() -> None:
    with pytest.raises(DataeffError, match=r"at least 3 layers are needed"):
        steps_table(small_plan_spec({"token_drop": LTD}, layers=2))
