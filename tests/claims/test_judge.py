"""Claims from runs whose truth is known: the three verdicts, what is missing, the papers' numbers, and the file."""

from __future__ import annotations

import csv
import re
from fractions import Fraction
from pathlib import Path

import pytest

from dataeff import tables
from dataeff.claims import Claim, read_claims
from dataeff.claims.judge import MOST_HEADLINES, judged
from dataeff.claims.rows import BASELINES, BETTER, LESS
from dataeff.study.types import Run
from dataeff.tables.results import RunResult
from dataeff.tables.statistics import holm, paired_p
from tests.claims.factory import FRACTIONS, made, runs_of, spec_of, written
from tests.result_factory import ROOT

SHARES = {"baseline": 1.0, "composed": 0.6, "cl_seqtru_voc": 1.3, "ltd": 1.0}


def claims_of(runs: list[RunResult]) -> dict[str, Claim]:
    return {claim.key: claim for claim in judged(spec_of(runs), runs).claims}


def test_a_true_saving_is_found_and_lies_in_its_interval() -> None:
    claim = claims_of(runs_of(SHARES, spread=0.02))["data_saving_gpt_composed"]
    assert (claim.verdict, claim.seeds, claim.headline) == ("holds", 3, True)
    assert claim.value == pytest.approx(60, abs=1)
    assert claim.low is not None
    assert claim.high is not None
    assert claim.low < 60 < claim.high < 100
    assert "95% interval" in claim.text


def test_a_worse_variant_needs_more_than_all_data_and_is_not_extrapolated() -> None:
    claim = claims_of(runs_of(SHARES, spread=0.02))["data_saving_gpt_cl_seqtru_voc"]
    assert (claim.verdict, claim.value) == ("does not hold", None)
    assert "more than 100%" in claim.text


def test_a_better_one_on_the_least_data_needs_less_than_that() -> None:
    claim = claims_of(runs_of({"baseline": 1.0, "composed": 0.05}, spread=0.02))["data_saving_gpt_composed"]
    assert (claim.verdict, claim.value) == ("holds", None)
    assert "less than 12.5%" in claim.text


def test_no_difference_cannot_be_told() -> None:
    claim = claims_of(runs_of(SHARES, spread=0.02))["better_at_equal_data_gpt_ltd"]
    assert claim.verdict == "cannot be told"
    assert "interval holds the limit" in claim.reason


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_fewer_than_three_seeds_decide_nothing(seeds: tuple[int, ...]) -> None:
    found = claims_of(runs_of(SHARES, seeds=seeds, spread=0.02)).values()
    assert {claim.verdict for claim in found} == {"cannot be told"}
    assert {(claim.low, claim.high) for claim in found} == {(None, None)}


def test_three_amounts_of_data_give_no_saving() -> None:
    claim = claims_of(runs_of(SHARES, fractions=FRACTIONS[1:], spread=0.02))["data_saving_gpt_composed"]
    assert (claim.verdict, claim.value) == ("cannot be told", None)
    assert "4 are needed" in claim.reason


def test_without_the_baseline_nothing_is_claimed() -> None:
    found = claims_of(runs_of({"composed": 0.6}))
    assert {claim.verdict for claim in found.values()} == {"cannot be told"}


def test_a_family_has_claims_of_its_own() -> None:
    found = claims_of(runs_of(SHARES, family="bert", spread=0.02))
    assert {claim.family for claim in found.values()} == {"bert"}
    assert found["data_saving_bert_composed"].verdict == "holds"


def test_a_reversal_between_amounts_of_data_is_noise() -> None:
    runs = runs_of({"baseline": 1.0, "composed": 0.6}, spread=0.01)
    quarter, half = (Run(family="gpt", variant="composed", data=data, seed=1234) for data in FRACTIONS[1:3])
    losses = {result.run.name: result.heldout.loss for result in runs}
    swapped = {quarter.name: losses[half.name], half.name: losses[quarter.name]}
    runs = [made(result.run, swapped.get(result.run.name, result.heldout.loss)) for result in runs]
    claim = claims_of(runs)["data_saving_gpt_composed"]
    assert claim.value is not None
    assert 0 < claim.value <= 100


def test_a_share_of_the_time_has_its_limit() -> None:
    def seconds(variant: str, data: Fraction) -> float:
        return 100 * float(data) * (1.05 if variant == "ltd" else 1.0)

    runs = [
        made(Run(family="gpt", variant=variant, data=data, seed=seed), 4.0, seconds(variant, data) + seed / 100)
        for variant, data in (("baseline", Fraction(1)), ("ltd", Fraction(2, 3)))
        for seed in (1, 2, 3)
    ]
    claim = claims_of(runs)["time_gpt_ltd"]
    assert claim.value == pytest.approx(70, abs=0.1)
    assert claim.verdict == "holds"


def test_headlines_are_few_and_first() -> None:
    found = judged(spec_of(runs_of(SHARES)), runs_of(SHARES)).claims
    shown = [claim.headline for claim in found]
    assert 0 < sum(shown) <= MOST_HEADLINES
    assert shown == sorted(shown, reverse=True)


def test_numbers_in_words_are_those_of_config() -> None:
    for family, name, field in (
        ("gpt", "gpt3_1p3b_cases.csv", "avg_0shot"),
        ("bert", "bert_large_cases.csv", "glue_avg"),
    ):
        with (ROOT / "config/papers" / name).open(encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.DictReader(stream) if line["field"] == field]
        for row in [BASELINES[family], *BETTER[family], *LESS[family]]:
            (line,) = [line for line in lines if line["case"] == str(row.case) and "blog Table 3" not in line["method"]]
            assert (float(line["value"]), line["data_pct"]) == (float(row.value), str(row.percent)), row
            assert (line["verified"] == "yes") == row.read, row


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert paired_p([1.0, 2.0]) is None
    assert paired_p([-1.0, 0.0, 1.0]) == pytest.approx(1.0)
    # t = sqrt(3) 2 / 1 with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2).
    assert paired_p([1.0, 2.0, 3.0]) == pytest.approx(1 - (12 / 14) ** 0.5)


def test_the_file_and_the_terminal(tmp_path: Path) -> None:
    runs = runs_of({"baseline": 1.0, "composed": 0.6}, spread=0.02)
    spec, results, data = written(tmp_path, runs)
    out = results / "tables" / spec.grid
    tables.build(spec, results, out, data)
    (claim,) = [claim for claim in read_claims(out).claims if claim.key == "data_saving_gpt_composed"]
    assert claim.verdict == "holds"
    assert set(claim.runs) == {run.name for run in spec.runs if (run.variant, run.data) != ("baseline", 0)} - {
        run.name for run in spec.runs if run.variant == "baseline" and run.data != 1
    }
    text = tables.summary(results, spec.grid)
    assert re.search(r"^holds: 'composed' reaches the baseline's final loss with ", text, re.MULTILINE)
    assert text.isascii()
