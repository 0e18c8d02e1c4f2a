"""Which pacing is tuned, what is tried of it, and the variant that a candidate is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from dataeff.errors import DataeffError
from dataeff.study.types import Variant
from dataeff.tune.pacings import find_pacing, starts_of, with_pacing, without_pacing
from tests.factory import LTD, SEQTRU, VOC

COMPOSED = Variant.model_validate({"curriculum": {**SEQTRU, **VOC}, "token_drop": LTD})


def starts(metric: str, parameters: int = 10**6, length: int = 2048) -> list[int]:
    return starts_of(find_pacing(COMPOSED, metric, length, "here"), parameters, lambda percent: percent)


def test_starts_double_from_the_smallest_that_the_model_and_the_multiple_allow() -> None:
    assert starts("seqlen", length=256) == [8, 16, 32, 64, 128]
    assert starts("seqlen", 10**9) == [64, 128, 256, 512, 1024]
    assert starts("token_drop", length=256) == [16, 32, 64, 128]
    assert starts("vocab_rarity") == [1, 2, 4, 8, 16, 32, 64]


def test_a_pacing_by_value_starts_at_the_values_of_the_easiest_samples() -> None:
    by_value = {"apply": "select", "by": "value", "pacing": {"start": 5, "end": 500, "over": "1/2"}}
    tuned = find_pacing(Variant.model_validate({"curriculum": {"vocab_rarity": by_value}}), None, 64, "here")
    assert starts_of(tuned, 1, lambda percent: 40 * (percent // 2)) == [40, 80, 160, 320]
    assert tuned.words(40) == "value 40"


@pytest.mark.parametrize(("metric", "share"), [("seqlen", "1/64"), ("token_drop", "1/64"), ("vocab_rarity", "32")])
def test_a_candidate_changes_start_and_duration_of_its_pacing_alone(metric: str, share: str) -> None:
    tuned = find_pacing(COMPOSED, metric, 2048, "here")
    changed = with_pacing(COMPOSED, tuned, 32, Fraction(1, 2)).model_dump(mode="json")
    expected = COMPOSED.model_dump(mode="json")
    part = expected["token_drop"] if metric == "token_drop" else expected["curriculum"][metric]
    part["pacing"] |= {"start": share, "over": "1/2"}
    assert changed == expected


def test_without_a_pacing_the_other_methods_stay() -> None:
    kept = without_pacing(COMPOSED, find_pacing(COMPOSED, "seqlen", 64, "here"))
    assert (list(kept.curriculum), kept.token_drop) == (["vocab_rarity"], COMPOSED.token_drop)
    kept = without_pacing(COMPOSED, find_pacing(COMPOSED, "token_drop", 64, "here"))
    assert (list(kept.curriculum), kept.token_drop) == (["seqlen", "vocab_rarity"], None)


def test_what_is_tuned_must_be_clear() -> None:
    with pytest.raises(
        DataeffError, match=r"variants.gpt.x: it has 3 pacings; .*--metric seqlen or vocab_rarity or to"
    ):
        find_pacing(COMPOSED, None, 64, "variants.gpt.x")
    with pytest.raises(DataeffError, match="unknown pacing 'seqlin'; did you mean 'seqlen'"):
        find_pacing(COMPOSED, "seqlin", 64, "variants.gpt.x")
    with pytest.raises(DataeffError, match="it has no pacing to tune"):
        find_pacing(Variant(), None, 64, "variants.gpt.baseline")
