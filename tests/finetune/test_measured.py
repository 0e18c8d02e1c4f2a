from __future__ import annotations

import json

import numpy as np
import pytest

from dataeff.errors import DataeffError
from dataeff.finetune.data import Items
from dataeff.finetune.measured import Measured, selection_part
from dataeff.finetune.metrics import measure
from dataeff.finetune.train import Epoch, Trained
from dataeff.study.tasks import FinetuneTask
from tests.finetune.conftest import task_of

TWO = {"M": "matched", "MM": "mismatched"}


def items_of(count: int, seed: int) -> Items:
    labels = np.random.default_rng(seed).integers(0, 2, count)
    starts = np.arange(count + 1) * 3
    return Items(np.zeros(3 * count, np.int32), starts, np.full(count, 3), labels, 1, np.arange(count) * 2, 1)


SPLITS = {"train": items_of(4, 0), "matched": items_of(41, 1), "mismatched": items_of(30, 2)}


def trained(seed: int = 0) -> Trained:
    random = np.random.default_rng(seed)
    epochs = [
        Epoch(0.5, {split: random.normal(size=(len(SPLITS[split]), 2)).astype(np.float32) for split in TWO.values()})
        for _ in range(3)
    ]
    return Trained(2e-5, 1234, 6, 1.5, epochs)


def measured(task: FinetuneTask) -> Measured:
    return Measured.of("mine", task, SPLITS)


def test_the_first_column_decides_and_others_are_scored_in_full() -> None:
    task, found = task_of(evaluation=TWO), trained()
    trial = measured(task).trial(found)
    part = selection_part(41)
    for epoch, values in zip(found.epochs, trial.epochs, strict=True):
        labels, outputs = SPLITS["matched"].labels, epoch.outputs["matched"]
        assert values.decides == values.values["M"] == measure("accuracy", labels, outputs)
        assert values.selection == measure("accuracy", labels[part], outputs[part])
        assert values.scored["M"] == measure("accuracy", labels[~part], outputs[~part])
        assert values.scored["MM"] == values.values["MM"]
    deciding = [values.decides for values in trial.epochs]
    assert trial.published_epoch == deciding.index(max(deciding)) + 1
    columns = measured(task).columns()
    assert (columns["M"].items, columns["M"].selection_items, columns["M"].cut_items) == (41, 20, 1)
    assert (columns["MM"].items, columns["MM"].selection_items) == (30, 0)


def test_together_all_items_decide_as_one() -> None:
    """Megatron's `overall`: what is right in both splits by the items of both."""
    trial = measured(task_of(evaluation=TWO, decided_by="together")).trial(trained())
    for values in trial.epochs:
        assert values.decides == pytest.approx((41 * values.values["M"] + 30 * values.values["MM"]) / 71)
        assert values.scored["MM"] != values.values["MM"] or values.scored["M"] != values.values["M"]


def test_half_of_the_items_select() -> None:
    for count in (2, 3, 10, 1001):
        part = selection_part(count)
        assert part.sum() == count // 2
        assert np.array_equal(part, selection_part(count))
    # Not the first half, nor every second one.
    assert 0 < selection_part(1000)[:500].sum() - 200 < 100
    assert 0 < selection_part(1000)[::2].sum() - 200 < 100


def test_one_item_cannot_be_parted() -> None:
    with pytest.raises(DataeffError, match=r"finetuning\.mine: split 'matched' has 1 items; two or more are needed"):
        Measured.of("mine", task_of(evaluation={"M": "matched"}), {**SPLITS, "matched": items_of(1, 0)})


def test_values_can_be_computed_again_from_the_predictions() -> None:
    task, found = task_of(evaluation=TWO, decided_by="together"), trained()
    trial = measured(task).trial(found)
    records = [json.loads(json.dumps(record)) for record in measured(task).predictions(found, trial)]
    assert {record["epoch"] for record in records} == {trial.published_epoch, trial.honest_epoch}
    for column, split in TWO.items():
        mine = [record for record in records if (record["column"], record["epoch"]) == (column, trial.honest_epoch)]
        outputs = np.array([record["outputs"] for record in mine], dtype=np.float32)
        assert np.array_equal(outputs, found.epochs[trial.honest_epoch - 1].outputs[split])
        assert [record["row"] for record in mine] == (np.arange(len(mine)) * 2).tolist()
        scored = np.array([record["part"] == "scored" for record in mine])
        labels = np.array([record["label"] for record in mine])
        value = trial.epochs[trial.honest_epoch - 1].scored[column]
        assert measure("accuracy", labels[scored], outputs[scored]) == value
