"""The papers' own scale, from config/ as it stands: every constant that the released scripts state, and the steps."""

from __future__ import annotations

import csv
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataeff.errors import DataeffError
from dataeff.plan import nominal_steps, peak_learning_rate, schedules, steps_table
from dataeff.study.load import Study, load_study
from dataeff.study.specs import PlanSpec, plan_spec, pretrain_spec
from dataeff.study.types import Run
from tests.factory import ROOT, config

BILLION = 1_000_000_000
SHARED = ["baseline", "cl_seqtru", "cl_voc", "cl_seqtru_voc", "ltd", "composed"]
VARIANTS = {
    "gpt": [*SHARED, "cl_seqres", "cl_seqres_voc", "ltd_flat_lr"],
    "bert": [*SHARED, "cl_seqreo", "cl_seqreo_voc", "ltd_no_dropout"],
}
DATA = {
    "gpt": [Fraction(1), Fraction(2, 3), Fraction(1, 2)],
    "bert": [Fraction(1), Fraction(67, 100), Fraction(1, 2)],
}


@lru_cache
def paper() -> Study:
    grids = {
        "every": [
            {"family": family, "variants": VARIANTS[family], "data": [str(data) for data in DATA[family]]}
            for family in VARIANTS
        ],
        **config()["grids"],
    }
    return load_study(config(scale="paper", grid="every", grids=grids), ROOT)


def spec_of(family: str, variant: str, data: Fraction = Fraction(1)) -> PlanSpec:
    return plan_spec(paper(), Run(family=family, variant=variant, data=data, seed=1234))


@lru_cache
def table_of(family: str, variant: str, data: Fraction = Fraction(1)) -> pd.DataFrame:
    return steps_table(spec_of(family, variant, data))


def published(model: str, parameter: str) -> list[str]:
    """The values at 100, 67 and 50% of config/papers/hyperparameters.csv; one that is left out is that of 100%."""
    with Path(ROOT / "config/papers/hyperparameters.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            if (row["model"], row["param"]) == (model, parameter):
                values = [row["data100"], row["data67"], row["data50"]]
                return [value if value not in ("", "same") else values[0] for value in values]
    raise LookupError(parameter)


GPT, BERT = "GPT-3 1.3B", "BERT-large 336M"
FAMILIES = [("gpt", GPT), ("bert", BERT)]


@pytest.mark.parametrize(("family", "model"), FAMILIES)
def test_tokens_and_learning_rates_are_the_published_ones(family: str, model: str) -> None:
    tokens = published(model, "train_tokens_B")
    peaks, minima = published(model, "peak_lr"), published(model, "min_lr")
    for data, billions, peak, minimum in zip(DATA[family], tokens, peaks, minima, strict=True):
        spec = spec_of(family, "baseline", data)
        assert round(spec.train_tokens / BILLION) == int(billions)
        assert peak_learning_rate(spec) == pytest.approx(float(peak))
        assert spec.learning_rate.minimum == float(minimum)
        assert table_of(family, "baseline", data)["learning_rate"].max() == pytest.approx(float(peak), rel=1e-4)


@pytest.mark.parametrize(("family", "model"), FAMILIES)
def test_durations_are_the_published_ones(family: str, model: str) -> None:
    curricula, drops = published(model, "CL T_c (steps)"), published(model, "LTD T_r (steps)")
    for data, curriculum, drop in zip(DATA[family], curricula, drops, strict=True):
        found = schedules(spec_of(family, "composed", data))
        assert found["seqlen"].total_steps == found["vocab_rarity"].total_steps == int(curriculum)
        assert found["token_drop"].total_steps == int(drop)


def test_nominal_steps_are_the_published_ones() -> None:
    assert nominal_steps(spec_of("gpt", "baseline")) == 286_102
    found = [nominal_steps(spec_of("bert", "baseline", data)) for data in DATA["bert"]]
    assert found == [float(value) * 1e6 for value in published(BERT, "train_iters_M (baseline)")] == [2e6, 1.34e6, 1e6]


def test_ranges_are_the_published_ones() -> None:
    gpt, bert = schedules(spec_of("gpt", "composed")), schedules(spec_of("bert", "composed"))
    reordered = schedules(spec_of("bert", "cl_seqreo_voc"))["seqlen_vocab_rarity"]
    ranges = {
        (GPT, "CL seqtru/seqres d_s..d_e"): gpt["seqlen"],
        (GPT, "CL voc d_s..d_e (percentile)"): gpt["vocab_rarity"],
        (GPT, "LTD r_s..r_e"): gpt["token_drop"],
        (BERT, "CL seqtru d_s..d_e"): bert["seqlen"],
        (BERT, "CL voc d_s..d_e"): bert["vocab_rarity"],
        (BERT, "CL seqreo d_s..d_e (percentile)"): schedules(spec_of("bert", "cl_seqreo"))["seqlen"],
        (BERT, "LTD r_s..r_e"): bert["token_drop"],
    }
    for (model, parameter), schedule in ranges.items():
        assert f"{schedule.start}..{schedule.end}" == published(model, parameter)[0].strip(), parameter
    assert (reordered.start, reordered.end, reordered.root) == (5, 100, 2)
    assert [gpt[part].multiple_of for part in ("seqlen", "vocab_rarity", "token_drop")] == [8, 1, 16]
    assert [gpt[part].root for part in ("seqlen", "vocab_rarity", "token_drop")] == [1, 2, 1]


@pytest.mark.parametrize(
    ("variant", "steps"),
    [
        ("baseline", 286_103),
        ("cl_voc", 286_103),
        ("ltd", 372_789),
        ("cl_seqtru", 339_169),
        ("cl_seqtru_voc", 339_169),
        ("composed", 377_264),
    ],
)
def test_steps_of_the_gpt_rows(variant: str, steps: int) -> None:
    assert len(table_of("gpt", variant)) == steps


def test_steps_of_the_bert_rows() -> None:
    """The baseline's tokens are whole steps; what shortens samples needs more of them."""
    assert len(table_of("bert", "baseline")) == len(table_of("bert", "cl_seqreo")) == 2_000_000
    assert len(table_of("bert", "baseline", Fraction(67, 100))) == 1_340_000
    tables = [table_of("bert", variant) for variant in ("cl_seqtru", "ltd", "composed")]
    assert [len(table) > 2_000_000 for table in tables] == [True] * 3
    for table in tables:
        assert table["cumulative_effective_tokens"].iloc[-2] < 1_048_576_000_000
        assert table["cumulative_effective_tokens"].iloc[-1] >= 1_048_576_000_000


def test_bert_warms_up_over_steps_and_decays_over_tokens() -> None:
    rate = table_of("bert", "baseline")["learning_rate"].to_numpy()
    assert rate[[0, 1, 5_000, 10_000]] == pytest.approx([0, 1e-8, 5e-5, 1e-4])
    # Seen at step t are t - 1 steps' tokens: the decay runs from 9,999 to 2,000,000 steps' worth.
    middle = (9_999 + 2_000_000) // 2
    assert rate[middle + 1] == pytest.approx((1e-4 + 1e-5) / 2, rel=1e-5)
    assert rate[-1] == pytest.approx(1e-5, rel=1e-4)
    assert (np.diff(rate[10_000:]) < 0).all()


def test_below_half_the_data_warm_up_and_peak_are_limited() -> None:
    one_percent = spec_of("gpt", "composed", Fraction(1, 100))
    assert one_percent.learning_rate.warmup_tokens == 30_000_000
    assert peak_learning_rate(one_percent) == pytest.approx(8e-4)
    third = spec_of("gpt", "composed", Fraction(8, 25))
    assert third.learning_rate.warmup_tokens == 960_000_000
    assert peak_learning_rate(third) == pytest.approx(2e-4 / 0.32)
    assert spec_of("gpt", "composed", Fraction(1, 2)).learning_rate.warmup_tokens == 3 * BILLION


def test_the_random_ltd_paper_does_not_scale_the_learning_rate() -> None:
    assert peak_learning_rate(spec_of("gpt", "ltd_flat_lr", Fraction(1, 2))) == 2e-4


def test_dropout_is_that_of_the_variant() -> None:
    runs = [Run(family="bert", variant=variant, data=1, seed=1) for variant in ("ltd", "ltd_no_dropout")]
    assert [pretrain_spec(paper(), run).model.dropout for run in runs] == [0.1, 0.0]


@pytest.mark.parametrize("size", ["125m", "350m", "760m", "2_7b", "6_7b", "13b"])
def test_every_size_plans(size: str) -> None:
    study = load_study(config(scale=f"paper_gpt_{size}"), ROOT)
    spec = plan_spec(study, Run(family="gpt", variant="composed", data=1, seed=1234))
    assert schedules(spec)["seqlen"].total_steps == round(Fraction("0.384") * nominal_steps(spec))


def test_every_case_of_the_tables_is_in_the_grid() -> None:
    names = {
        "baseline": "baseline",
        "random-LTD": "ltd",
        "CL_seqtru_voc+random-LTD": "composed",
        **{f"CL_{kind}": f"cl_{kind}" for kind in ("seqtru", "seqres", "voc", "seqtru_voc", "seqres_voc")},
    }
    with Path(ROOT / "config/papers/gpt3_1p3b_cases.csv").open(newline="") as stream:
        cases = {(names[row["method"].split(" (")[0]], int(row["data_pct"])) for row in csv.DictReader(stream)}
    assert len(cases) == 15
    assert cases <= {(run.variant, round(run.data * 100)) for run in paper().grids["papers"]}


def test_sentence_pairs_are_not_reshaped() -> None:
    pacing = {"start": "1/4", "end": 1, "over": "1/2", "multiple_of": 8}
    raw = config(
        scale="paper",
        variants={"bert": {"mine": {"curriculum": {"seqlen": {"apply": "reshape", "pacing": pacing}}}}},
        grids={"core": [{"family": "bert", "variants": ["mine"]}]},
    )
    with pytest.raises(DataeffError, match=r"variants\.bert\.mine\.curriculum\.seqlen\.apply: reshape"):
        load_study(raw, ROOT)
