"""How the rows of a step are cut into passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dataeff.bucket_plan import Buckets
from dataeff.order import SampleOrder
from dataeff.order_buckets import BucketOrder
from dataeff.plan import TrainingPlan
from dataeff.pretrain.step import Steps, passes
from dataeff.study.specs import pretrain_spec
from tests.factory import load, own_scale


def steps_of(order: SampleOrder | BucketOrder, micro_batch: int) -> Steps:
    """Of a run of the length that the scale of the tests has."""
    study = load(own_scale())
    made = Steps()
    made.spec, made.micro_batch = pretrain_spec(study, study.runs[0]), micro_batch
    made.plan = TrainingPlan(pd.DataFrame(), order, {})
    return made


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_a_pass_of_a_shorter_bucket_has_more_rows_and_no_more_tokens(micro_batch: int) -> None:
    whole = load(own_scale()).scale.families["gpt"].model.sequence_length
    buckets = Buckets.assumed(whole)
    order = BucketOrder.build(seed=1, step_tokens=8 * whole, levels=np.full(20, whole), buckets=buckets)
    steps = steps_of(order, micro_batch)
    assert steps.rows_a_pass(whole) == micro_batch
    for length, rows in zip(order.lengths.tolist(), order.rows.tolist(), strict=True):
        parts = [part for part, _ in passes(rows, steps.rows_a_pass(length), 0, 1)]
        assert len(parts) == -(-8 // micro_batch)  # as many passes as a step of full rows
        assert max(map(len, parts)) * length <= micro_batch * whole
        assert np.concatenate(parts).tolist() == list(range(rows))


def test_other_short_rows_are_as_many_a_pass_as_full_ones() -> None:
    """A step of truncated rows has no more of them."""
    order = SampleOrder.build(seed=1, batch_size=4, pool_sizes=np.full(8, 64), admission=None)
    assert [steps_of(order, 4).rows_a_pass(length) for length in (8, 32)] == [4, 4]
