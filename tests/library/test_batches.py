from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from dataeff.errors import DataeffError
from dataeff.families.gpt import cut
from dataeff.library import MicroBatch, Plan, PlanSampler
from tests.library.planning import BATCH, DROP, LENGTH, RESHAPE, TRUNCATE, small_gpt2, small_plan, token_samples

SAMPLES = token_samples()
PLANS = {
    "baseline": small_plan(),
    "truncate": small_plan(curriculum=TRUNCATE),
    "reshape": small_plan(curriculum=RESHAPE, token_drop=DROP),
    "odd": small_plan(curriculum=RESHAPE, batch_size=7, train_tokens=12 * 7 * LENGTH),
}
plans = st.sampled_from(sorted(PLANS)).map(PLANS.__getitem__)


def deal(plan: Plan, ranks: int, micro: int | None, first: int) -> list[PlanSampler]:
    """The samplers of all ranks; none where a step has fewer samples than micro-batches."""
    shares = {"world_size": ranks, "micro_batch": micro, "first_step": first}
    passes = 1 if micro is None else -(-plan.batch_size // (ranks * micro))
    if plan.batch_size >= ranks * passes:
        return [PlanSampler(plan, rank=rank, **shares) for rank in range(ranks)]
    assert plan.batch_size % ranks  # a multiple can always be dealt out
    with pytest.raises(DataeffError, match="make batch_size a multiple of world_size"):
        PlanSampler(plan, **shares)
    return []


@settings(deadline=None, max_examples=60)
@given(plan=plans, ranks=st.integers(1, 9), micro=st.none() | st.integers(1, 9), first=st.integers(0, 12))
def test_ranks_and_micro_batches_take_each_sample_of_a_step_once_in_order(
    plan: Plan, ranks: int, micro: int | None, first: int
) -> None:
    samplers = deal(plan, ranks, micro, first)
    if not samplers:
        return
    passes = len(samplers[0]) // max(1, len(plan) - first)
    taken = [list(sampler) for sampler in samplers]
    assert [len(batches) for batches in taken] == [len(sampler) for sampler in samplers]
    assert all(1 <= len(ids) <= (micro or plan.batch_size) for batches in taken for ids in batches)
    for number, step in enumerate(range(first, len(plan))):
        of_step = [ids for batches in taken for ids in batches[number * passes : (number + 1) * passes]]
        assert list(chain.from_iterable(of_step)) == plan.samples(step).tolist()
    told = list(samplers[-1].micro_batches())
    assert [part.last for part in told] == ([False] * (passes - 1) + [True]) * (len(plan) - first)
    assert [plan.samples(part.step)[part.positions].tolist() for part in told] == taken[-1]


@settings(deadline=None, max_examples=60)
@given(plan=plans, ranks=st.integers(1, 4), micro=st.none() | st.integers(1, 4), step=st.integers(0, 11))
def test_the_parts_of_a_step_are_the_studys_global_batch(plan: Plan, ranks: int, micro: int | None, step: int) -> None:
    samplers = deal(plan, ranks, micro, step)
    if not samplers:
        return
    rule: Any = "reshape" if plan.reshapes else "truncate"
    expected = cut(SAMPLES.numpy()[plan.samples(step)], plan.sequence_length(step), rule)
    found = np.full_like(expected, -1)
    weight = 0.0
    for part in (part for sampler in samplers for part in sampler.micro_batches() if part.step == step):
        whole = SAMPLES[plan.samples(step)[part.positions]]
        assert (found[part.rows] == -1).all()
        found[part.rows] = part.cut(whole.numpy())
        assert (part.cut(whole).numpy() == found[part.rows]).all()
        weight += part.weight
    assert (found == expected).all()
    assert weight == pytest.approx(1)


def test_gradients_of_a_step_do_not_depend_on_how_it_is_dealt_out() -> None:
    plan, gradients = PLANS["reshape"], []
    assert plan.kept_tokens(3) < plan.sequence_length(3) < LENGTH
    for ranks, micro in ((1, None), (1, 3), (4, 1)):
        model = small_gpt2().double()
        drop = plan.attach(model)
        for sampler in deal(plan, ranks, micro, 3):
            for part in (part for part in sampler.micro_batches() if part.step == 3):
                rows = part.cut(SAMPLES[plan.samples(3)[part.positions]])
                part.set_step(drop, rows.device)
                loss = cross_entropy(model(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
                (loss * part.weight).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert gradients[0].norm() > 0.1
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-12)


def test_every_field_of_a_mapping_is_cut() -> None:
    part = MicroBatch(PLANS["truncate"], 0, np.arange(BATCH))
    length = PLANS["truncate"].sequence_length(0)
    assert length < LENGTH
    batch = {"input_ids": SAMPLES[:BATCH, :LENGTH], "tokens": SAMPLES[:BATCH], "domain": torch.arange(BATCH)}
    cut_batch = part.cut(batch)
    assert {name: tuple(values.shape) for name, values in cut_batch.items()} == {
        "input_ids": (BATCH, length),
        "tokens": (BATCH, length + 1),
        "domain": (BATCH,),
    }


def test_reshaped_rows_keep_the_entries_of_their_sample() -> None:
    part = MicroBatch(PLANS["reshape"], 0, np.arange(4, BATCH))
    batch = part.cut({"tokens": SAMPLES[4:BATCH], "domain": torch.arange(4, BATCH)})
    assert len(batch["tokens"]) == len(batch["domain"]) == len(part.rows) > 4
    for row, domain in zip(batch["tokens"], batch["domain"], strict=True):
        windows = SAMPLES[domain].unfold(0, len(row), 1)
        assert (windows == row).all(dim=1).any()


@pytest.mark.parametrize(
    ("plan", "shape", "message"),
    [
        ("truncate", (8, 20), r"step 0: samples has shape \(8, 20\); \[8, 33\] or \[8, 32\] is needed: whole samples"),
        ("truncate", (7, 33), r"samples has shape \(7, 33\); \[8, 33\] or"),
        ("reshape", (8, 32), "has 32 tokens a sample; curriculum.seqlen.apply: 'reshape' takes samples of 33"),
    ],
)
def test_samples_of_another_shape_are_refused(plan: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        MicroBatch(PLANS[plan], 0, np.arange(BATCH)).cut(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_run_ahead_change_nothing(workers: int) -> None:
    """With 16 batches prefetched, the sampler is done long before the first step is trained on."""
    plan = PLANS["truncate"]
    sampler = PlanSampler(plan, micro_batch=4, first_step=2)
    ahead = {"prefetch_factor": 16} if workers else {}
    loader = DataLoader(SAMPLES, batch_sampler=sampler, num_workers=workers, **ahead)
    seen = 0
    for part, whole in sampler.batches(loader):
        assert part.step == 2 + seen // 2
        rows = part.cut(whole)
        expected = SAMPLES[plan.samples(part.step)[part.positions]][:, : plan.sequence_length(part.step) + 1]
        assert torch.equal(rows, expected)
        seen += 1
    assert seen == len(sampler) == 2 * (len(plan) - 2)
    assert plan.sequence_length(2) < LENGTH == plan.sequence_length(len(plan) - 1)


def test_a_loader_of_another_sampler_or_order_is_refused() -> None:
    sampler = PlanSampler(PLANS["baseline"])
    with pytest.raises(DataeffError, match="takes another sampler; make it with batch_sampler=this one"):
        next(sampler.batches(DataLoader(SAMPLES)))
    with pytest.raises(DataeffError, match="made with in_order=False; leave that out"):
        next(sampler.batches(DataLoader(SAMPLES, batch_sampler=sampler, in_order=False)))
    with pytest.raises(DataeffError, match="90 samples, the plan was made for 400; make it with samples=90"):
        next(sampler.batches(DataLoader(SAMPLES[:90], batch_sampler=sampler)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of 2; ranks are 0 to world_size - 1"),
        ({"micro_batch": 0}, "micro_batch is 0; at least 1 is needed"),
        ({"first_step": 13}, "first_step is 13; the plan's steps are 0 to 11"),
        ({"world_size": 9}, r"8 samples of a step \(batch_size\) cannot be dealt to 9 ranks"),
    ],
)
def test_impossible_shares_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        PlanSampler(PLANS["baseline"], **arguments)
