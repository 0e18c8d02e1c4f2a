"""Hours and dollars: against the published run, against each other, and what is refused."""

import csv
from pathlib import Path

import pytest
import yaml

from dataeff.errors import DataeffError
from dataeff.inquiry import cost
from dataeff.inquiry.gpus import GPUS, find_gpu
from dataeff.inquiry.options import cost_arguments
from dataeff.inquiry.price import costs_of
from dataeff.study.outside import study_of
from tests.factory import ROOT
from tests.inquiry.asking import Asked

BASELINE = "gpt-baseline-100-s1234"


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(cost_arguments, cost.run, capsys)


BERT_ROWS = {
    100: ["baseline", "cl_seqtru", "cl_seqreo", "cl_voc", "cl_seqtru_voc", "cl_seqreo_voc", "ltd", "composed"],
    67: ["baseline", "cl_seqtru_voc", "ltd"],
    50: ["baseline", "cl_seqtru_voc", "ltd", "composed"],
}
VARIANTS = {
    "baseline": "baseline",
    "CL_seqtru_voc": "cl_seqtru_voc",
    "random-LTD": "ltd",
    "CL_seqtru_voc+random-LTD": "composed",
}


def published_hours() -> dict[str, float]:
    """Hours on 64 V100 of the papers' runs, by our run's name; those alone that were verified."""
    with (ROOT / "config/papers/gpt3_1p3b_cases.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["field"] == "hours_64xV100" and row["verified"] == "yes"]
    return {f"gpt-{VARIANTS[row['method']]}-{row['data_pct']}-s1234": float(row["value"]) for row in rows}


def test_published_runs_take_their_published_hours(ask: Asked) -> None:
    """All at one utilisation, 36% of a V100: so operations are in proportion to the hours that the papers measured."""
    published = published_hours()
    assert len(published) == 8
    lines = ask("--grid", "papers", "--gpu", "V100", "--mfu", "0.36", "--gpus", "64", scale="paper")
    found = {line.split()[0]: float(line.split()[-2]) for line in lines if line.startswith("gpt-")}
    for run, hours in published.items():
        assert found[run] == pytest.approx(hours, rel=0.015), run


def test_every_bert_row_of_the_papers(ask: Asked, tmp_path: Path) -> None:
    """A grid of one's own with the 15 cases: equal tokens, about equal operations, in proportion to the data."""
    own = tmp_path / "own.yaml"
    data = {100: 1, 67: 0.67, 50: "1/2"}
    entries = [
        {"family": "bert", "variants": variants, "data": [data[percent]]} for percent, variants in BERT_ROWS.items()
    ]
    own.write_text(yaml.safe_dump({"grids": {"cases": entries}}))
    lines = ask("--grid", "cases", "--configfile", str(own), scale="paper")
    found = {row[0]: row for row in (line.split() for line in lines) if row and row[0].startswith("bert-")}
    assert list(found) == [f"bert-{name}-{percent}-s1234" for percent, names in BERT_ROWS.items() for name in names]
    assert [found[f"bert-baseline-{percent}-s1234"][1] for percent in BERT_ROWS] == [
        "2,000,000",
        "1,340,000",
        "1,000,000",
    ]
    for percent, tokens in ((100, "1,048.6B"), (67, "702.5B"), (50, "524.3B")):
        rows = [found[f"bert-{name}-{percent}-s1234"] for name in BERT_ROWS[percent]]
        assert {row[3] for row in rows} == {tokens}
        # Forward, a row of 512: layers 309.2 and 25.8, heads 5.0 billion operations; 2,048,000,000 rows at 100%.
        operations = 3 * (309.2e9 + 25.8e9 + 5.0e9) * 2_048_000_000 * percent / 100
        assert all(float(row[4]) == pytest.approx(operations, rel=0.025) for row in rows)
    text = " ".join(" ".join(lines).split())
    assert "bert predicts at the masked places alone, 15% of a row" in text
    assert "bert's rows are full" in text


def test_what_later_work_costs(ask: Asked) -> None:
    """Windows and short documents save attention alone; routes spend the same layer tokens."""
    names = ("baseline", "window", "length_buckets", "ltd", "one_route", "layer_drop")
    study = study_of(ask.parse(settings=("grid=beyond",)))
    costs = {found.run.variant: found for found in costs_of(study, study.grids["beyond"])}
    weights, attention = (
        {name: getattr(costs[name].flops, term) for name in names} for term in ("weights", "attention")
    )
    assert weights["window"] == weights["length_buckets"] == weights["baseline"]
    assert attention["length_buckets"] < attention["window"] < attention["baseline"]
    assert costs["one_route"].flops == costs["ltd"].flops
    assert weights["layer_drop"] == pytest.approx(weights["ltd"], rel=0.02)
    assert attention["layer_drop"] > attention["ltd"]
    text = " ".join(" ".join(ask("--grid", "beyond")).split())
    assert "a window costs its blocks" in text
    assert "as if every bucket held as many tokens" in text


def test_other_seeds_draw_other_buckets(ask: Asked) -> None:
    study = study_of(ask.parse(settings=("seeds=[1, 2]", "grid=beyond")))
    costs = {found.run.name: found for found in costs_of(study, study.grids["beyond"])}
    one, other = (costs[f"gpt-length_buckets-100-s{seed}"] for seed in (1, 2))
    assert one.flops.attention != other.flops.attention
    assert one.flops.weights == other.flops.weights


def test_one_run_is_one_line_with_its_assumptions(ask: Asked) -> None:
    lines = ask(
        BASELINE, "--gpu", "v100", "--mfu", "0.36", "--gpus", "64", "--dollars-per-gpu-hour", "2.78", scale="paper"
    )
    row = next(line for line in lines if line.startswith(BASELINE)).split()
    assert row == [BASELINE, "286,103", "300.0B", "300.0B", "2.72e21", "16,803", "263", "h", "$46,714"]
    text = " ".join(" ".join(lines).split())
    assert "V100, 125 TFLOP/s" in text
    assert "36% of that" in text
    assert "1,315,819,520 parameters" in text
    assert "not included tokenising, analysis, held-out probes, evaluation and finetuning" in text
    assert "runs" not in text


def test_a_grid_ends_with_its_sum(ask: Asked) -> None:
    lines = ask("--grid", "core", "--peak-tflops", "0.0001", "--mfu", "1")
    runs = [line.split() for line in lines if line.startswith(("gpt-", "bert-"))]
    total = next(line.split() for line in lines if line.startswith(f"{len(runs)} runs"))
    assert {row[0].split("-")[0] for row in runs} == {"gpt", "bert"}
    assert int(total[2].replace(",", "")) == sum(int(row[1].replace(",", "")) for row in runs)
    assert float(total[-1]) == pytest.approx(sum(float(row[-1]) for row in runs), abs=0.5)
    assert any("trains in fp32" in line for line in lines)


def test_the_default_is_the_default_grid_and_all_is_everything(ask: Asked) -> None:
    assert ask()[0] == "Training cost of grid core at scale tiny"
    study = study_of(ask.parse())
    assert ask("--all")[0] == f"Training cost of all {len(study.runs)} runs of all grids at scale tiny"


def test_other_seeds_cost_the_same(ask: Asked) -> None:
    study = study_of(ask.parse(settings=("seeds=[1, 2]",)))
    costs = {found.run.name: found for found in costs_of(study, study.grids["core"])}
    for variant in ("composed", "cl_seqres"):
        one, other = costs[f"gpt-{variant}-100-s1"], costs[f"gpt-{variant}-100-s2"]
        assert (one.steps, one.flops) == (other.steps, other.flops)
    assert costs["gpt-composed-100-s1"].flops != costs["gpt-ltd-100-s1"].flops


def test_explained_terms_add_up(ask: Asked) -> None:
    lines = ask("bert-composed-67-s1", "--explain", "--recompute", scale="paper")
    heading = next(line for line in lines if line.startswith("run") and "weights" in line).split()
    row = [line.split() for line in lines if line.startswith("bert-composed")][-1]
    values = dict(zip(heading[1:6], map(float, row[1:6]), strict=True))
    parts = sum(values[term] for term in ("weights", "attention", "head", "recomputed"))
    assert parts == pytest.approx(values["total"], rel=0.01)
    assert any("24 h^2" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mfu", "0"], "--mfu 0: above 0 and at most 1"),
        (["--mfu", "1.01"], "--mfu 1.01: above 0 and at most 1"),
        (["--mfu", "nan"], "--mfu nan"),
        (["--gpu", "B100"], "--gpu: unknown GPU 'B100'; known: B200, .*give --peak-tflops"),
        (["--peak-tflops", "0"], "--peak-tflops 0"),
        (["--gpus", "0"], "--gpus 0"),
        (["--dollars-per-gpu-hour", "-1"], "--dollars-per-gpu-hour -1"),
        (["--grid", "cora"], "--grid: unknown grid 'cora'; did you mean 'core'"),
        (["gpt-nothing-50-s1"], "unknown variant 'nothing'"),
    ],
)
def test_what_is_refused(ask: Asked, words: list[str], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        ask(*words)


def test_gpus_by_any_spelling() -> None:
    assert find_gpu("rtx 4090", None) is GPUS["RTX-4090"]
    assert find_gpu("h100_pcie", None) is GPUS["H100-PCIe"]
    assert find_gpu("MI300X", 1307.4).peak_teraflops == 1307.4
    assert all(gpu.peak_teraflops > 0 and gpu.source for gpu in GPUS.values())
