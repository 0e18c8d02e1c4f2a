"""A cut plan is the beginning of the full one: the same rows, the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dataeff.analyze.difficulty import DifficultyIndex
from dataeff.bucket_plan import Buckets
from dataeff.errors import DataeffError
from dataeff.plan import build_plan, steps_table
from dataeff.study.types import LearningRate
from dataeff.tune.cut import check_warmup, cut_plan, watched_steps
from tests.factory import SEQTRU, VOC, small_plan_spec

SAMPLES = 1000
SHORT = {"seqlen": {**SEQTRU["seqlen"], "pacing": {"start": "1/8", "end": 1, "over": "1/2", "multiple_of": 8}}}
DROP = {"pacing": {"start": "1/4", "end": 1, "over": "3/4", "multiple_of": 8}}
BUCKET = {"seqlen": {"apply": "bucket", "pacing": {"start": "1/8", "end": 1, "over": "1/2"}}}


def spec(variant: dict[str, Any] | None = None, **rate: Any) -> Any:
    return small_plan_spec(variant, learning_rate=LearningRate(peak=1e-3, minimum=1e-5, **rate))


@pytest.mark.parametrize("variant", [{}, {"curriculum": {**SHORT, **VOC}, "token_drop": DROP}, {"curriculum": BUCKET}])
def test_the_first_steps_are_those_of_the_full_plan(variant: dict[str, Any]) -> None:
    whole = spec(variant, warmup_tokens=1024)
    values = np.random.default_rng(0).integers(0, 500, SAMPLES)
    index = DifficultyIndex("vocab_rarity", values, np.argsort(values, kind="stable"))
    buckets = Buckets.assumed(64) if "seqlen" in variant.get("curriculum", {}) and "token_drop" not in variant else None
    if buckets is not None:
        buckets = Buckets(buckets.lengths, tuple(50 * count for count in buckets.samples))
    plan = build_plan(whole, SAMPLES, {"vocab_rarity": index}, buckets=buckets)
    cut = cut_plan(plan, whole, 13, buckets)
    assert cut.steps.equals(plan.steps.iloc[:13])
    found = list(cut.order.iterate())
    assert len(found) == 13
    for step, ids in enumerate(found):
        np.testing.assert_array_equal(ids, plan.order.samples(step))
    assert cut.facts["nominal_steps"] == plan.facts["nominal_steps"]
    assert cut.facts["effective_tokens"] == plan.steps["effective_tokens"].iloc[:13].sum()
    assert cut.digest not in (plan.digest, cut_plan(plan, whole, 12, buckets).digest)


def test_multiples_are_counted_in_what_the_warmup_is_counted_in() -> None:
    """Of 256 tokens a step at full length: 1,024 tokens are 4 steps."""
    tokens = spec(warmup_tokens=1024)
    assert watched_steps(tokens, steps_table(tokens), 4) == 16
    short = spec({"curriculum": SHORT}, warmup_tokens=1024)
    table = steps_table(short)
    steps = watched_steps(short, table, 4)
    consumed = table["cumulative_effective_tokens"]
    assert consumed.iloc[steps - 2] < 4096 <= consumed.iloc[steps - 1]
    assert steps > 16
    counted = spec({"curriculum": SHORT}, warmup_steps=3)
    assert watched_steps(counted, steps_table(counted), 4) == 12
    assert watched_steps(tokens, steps_table(tokens), 1000) == len(steps_table(tokens))


def test_a_run_without_warmup_is_refused_with_the_remedy() -> None:
    with pytest.raises(
        DataeffError, match=r"scales.x.families.gpt.learning_rate: it has no warm-up.*set warmup_tokens"
    ):
        check_warmup(spec(), "scales.x.families.gpt")
