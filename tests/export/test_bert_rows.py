"""Every BERT row of the papers is exported with the published constants (config/papers/hyperparameters.csv)."""

import csv
import json
import re
from pathlib import Path

import pytest

from dataeff.export import deepspeed
from dataeff.inquiry.options import deepspeed_arguments
from dataeff.study.outside import study_of
from tests.export.megatron_options import options_of
from tests.factory import ROOT
from tests.inquiry.asking import Asked

MODEL = "BERT-large 336M"
CASES = {
    "baseline": "baseline",
    "CL_seqtru": "cl_seqtru",
    "CL_seqreo": "cl_seqreo",
    "CL_voc": "cl_voc",
    "CL_seqtru_voc": "cl_seqtru_voc",
    "CL_seqreo_voc": "cl_seqreo_voc",
    "random-LTD": "ltd",
    "CL_seqtru_voc+random-LTD": "composed",
}
METRICS = {
    "cl_seqtru": {"seqlen_truncate": "CL seqtru d_s..d_e"},
    "cl_seqreo": {"seqlen": "CL seqreo d_s..d_e (percentile)"},
    "cl_voc": {"voc": "CL voc d_s..d_e"},
    "cl_seqreo_voc": {"seqlenvocabrarity": "CL seqreo_voc"},
}
METRICS["cl_seqtru_voc"] = METRICS["composed"] = {**METRICS["cl_seqtru"], **METRICS["cl_voc"]}
STEPS_OF = {"seqlen_truncate": 8, "seqlen": 8, "voc": 1, "seqlenvocabrarity": 1}
ROOT_OF = {"seqlen_truncate": 1, "seqlen": 2, "voc": 2, "seqlenvocabrarity": 2}


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(deepspeed_arguments, deepspeed.run, capsys)


def published() -> dict[str, dict[int, str]]:
    """By parameter and percent of the data; all of them were read in the released scripts."""
    with (ROOT / "config/papers/hyperparameters.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["model"] == MODEL]
    assert all(row["verified"] == "yes" for row in rows)
    at_all = {row["param"]: row["data100"] for row in rows}
    return {
        row["param"]: {
            percent: at_all[row["param"]] if row[f"data{percent}"] in ("", "same") else row[f"data{percent}"]
            for percent in (100, 67, 50)
        }
        for row in rows
    }


def cases() -> list[tuple[str, int]]:
    """The 15 cases, and random-LTD without dropout."""
    with (ROOT / "config/papers/bert_large_cases.csv").open(newline="") as stream:
        found = dict.fromkeys((CASES[row["method"]], int(row["data_pct"])) for row in csv.DictReader(stream))
    return [*found, ("ltd_no_dropout", 100)]


PUBLISHED = published()


def test_the_grid_of_the_papers_holds_them_all(ask: Asked) -> None:
    study = study_of(ask.parse("--run", "any", "--out", "unused", scale="paper"))
    named = {(run.variant, round(100 * run.data)) for run in study.grids["papers"] if run.family == "bert"}
    assert len(cases()) == 16
    assert named == set(cases())


def numbers(text: str) -> list[int]:
    """`5..100`, also at the end of a sentence about them."""
    return [int(number) for number in re.findall(r"(\d+)\.\.(\d+)", text)[0]]


@pytest.mark.parametrize(("variant", "percent"), cases())
def test_a_row(ask: Asked, tmp_path: Path, variant: str, percent: int) -> None:
    def value(parameter: str) -> str:
        return PUBLISHED[parameter][percent]

    found = options_of(ask, f"bert-{variant}-{percent}-s1234", tmp_path)
    steps = round(float(value("train_iters_M (baseline)")) * 1e6)
    assert int(found["--train-tokens"]) == int(found["--lr-decay-tokens"]) == steps * 512 * 1024
    assert round(int(found["--train-tokens"]) / 1e9) == int(value("train_tokens_B"))
    assert float(found["--lr"]) == float(value("peak_lr"))
    assert float(found["--min-lr"]) == float(value("min_lr"))
    assert found["--lr-warmup-iters"] == value("lr_warmup_iters")
    assert value("lr_decay").startswith(found["--lr-decay-style"])
    shape = ("--num-layers", "--hidden-size", "--num-attention-heads", "--seq-length", "--global-batch-size")
    assert "/".join(found[name] for name in shape) == value("layers/hidden/heads/seq/gbs")
    assert found["--init-method-std"] == value("init_std")
    dropout = "0" if variant == "ltd_no_dropout" else value("LTD dropout")
    assert found["--hidden-dropout"] == found["--attention-dropout"] == dropout

    config = json.loads((tmp_path / "a folder/ds_config.json").read_text())["data_efficiency"]
    assert config["enabled"] == (variant != "baseline")
    curriculum = config.get("data_sampling", {}).get("curriculum_learning", {}).get("curriculum_metrics", {})
    expected = METRICS.get(variant, {})
    assert set(curriculum) == set(expected)
    assert ("--train-idx-path" in found) == bool(expected)
    for name, parameter in expected.items():
        metric = curriculum[name]
        assert [metric["min_difficulty"], metric["max_difficulty"]] == numbers(value(parameter))
        assert metric["schedule_config"] == {
            "total_curriculum_step": int(value("CL T_c (steps)")),
            "difficulty_step": STEPS_OF[name],
            "root_degree": ROOT_OF[name],
        }
    drops = variant in ("ltd", "ltd_no_dropout", "composed")
    assert ("--random-ltd" in found) == ("data_routing" in config) == drops
    if drops:
        schedule = config["data_routing"]["random_ltd"]["random_ltd_schedule"]
        assert [schedule["min_value"], schedule["max_value"]] == numbers(value("LTD r_s..r_e"))
        assert schedule["schedule_config"] == {"require_steps": int(value("LTD T_r (steps)")), "seq_per_step": 16}
        assert config["data_routing"]["random_ltd"]["random_ltd_layer_id"] == list(range(1, 23))
