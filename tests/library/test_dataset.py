from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from dataeff.errors import DataeffError
from dataeff.library import PlannedCollator, PlannedDataset
from tests.library.planning import BATCH, LENGTH, RESHAPE, TRUNCATE, small_plan, token_samples

SAMPLES = token_samples()
PLAN = small_plan(curriculum=TRUNCATE)


class AsMappings:
    """The samples as a model's inputs of S tokens."""

    def __len__(self) -> int:
        return len(SAMPLES)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = SAMPLES[index, :LENGTH]
        return {"input_ids": tokens, "labels": tokens}


def batches(plan: Any = PLAN, dataset: Any = SAMPLES, size: int = 4, workers: int = 0) -> list[dict[str, Any]]:
    loader = DataLoader(
        PlannedDataset(plan, dataset), batch_size=size, collate_fn=PlannedCollator(plan), num_workers=workers
    )
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_steps_samples_at_the_steps_length(workers: int) -> None:
    found = batches(workers=workers)
    assert len(found) == 2 * len(PLAN)
    for number, batch in enumerate(found):
        step, half = divmod(number, 2)
        tokens = SAMPLES[PLAN.samples(step)[half * 4 : half * 4 + 4]][:, : PLAN.sequence_length(step) + 1]
        assert torch.equal(batch["input_ids"], tokens[:, :-1])
        assert torch.equal(batch["labels"], tokens[:, 1:])
        assert torch.equal(batch["shift_labels"], tokens[:, 1:])


def test_mappings_stay_as_the_model_takes_them() -> None:
    for number, batch in enumerate(batches(dataset=AsMappings(), size=BATCH)):
        tokens = SAMPLES[PLAN.samples(number)][:, : PLAN.sequence_length(number)]
        assert batch.keys() == {"input_ids", "labels"}
        assert torch.equal(batch["input_ids"], tokens)
        assert torch.equal(batch["labels"], tokens)


def test_reshaped_steps_have_the_plans_rows() -> None:
    plan = small_plan(curriculum=RESHAPE)
    found = batches(plan)
    assert plan.rows(0) > BATCH
    for step in range(len(plan)):
        both = found[2 * step : 2 * step + 2]
        assert sum(len(batch["input_ids"]) for batch in both) == plan.rows(step)
        assert {batch["input_ids"].shape[1] for batch in both} == {plan.sequence_length(step)}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_accelerates_shards_are_dealt_out_in_turn(ranks: int) -> None:
    """As DataEfficiencyCallback has it: batch j of a step is micro-batch j // ranks of process j % ranks."""
    dataset, size = PlannedDataset(PLAN, SAMPLES), 2
    passes = BATCH // (ranks * size)
    for rank in range(ranks):
        shard = BatchSamplerShard(BatchSampler(SequentialSampler(dataset), size, False), ranks, rank)
        for number, positions in enumerate(shard):
            step, micro = divmod(number, passes)
            first = (micro * ranks + rank) * size
            assert positions == [step * BATCH + first, step * BATCH + first + 1]


def test_samples_without_a_place_are_left_whole() -> None:
    batch = PlannedCollator(PLAN)([SAMPLES[0], SAMPLES[1]])
    assert batch["input_ids"].shape == (2, LENGTH)


def test_batches_across_steps_or_out_of_order_are_refused() -> None:
    with pytest.raises(DataeffError, match=r"from steps 0 to 1: read PlannedDataset in order .* batch_size of 8"):
        batches(size=12)
    dataset = PlannedDataset(PLAN, SAMPLES)
    with pytest.raises(DataeffError, match="read PlannedDataset in order"):
        PlannedCollator(PLAN)([dataset[3], dataset[1]])


def test_samples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataeffError, match=r"samples of shape \(32,\); arrays of 33 tokens are needed"):
        batches(dataset=SAMPLES[:, :LENGTH])
    with pytest.raises(DataeffError, match="Tensor: 90 samples, the plan was made for 400"):
        PlannedDataset(PLAN, SAMPLES[:90])


def test_a_window_is_refused() -> None:
    plan = small_plan(curriculum={"seqlen": {**TRUNCATE["seqlen"], "apply": "window"}})
    with pytest.raises(DataeffError, match="'window' is a mask of attention, which this does not make"):
        PlannedCollator(plan)
