from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import read_dataset
from dataeff.finetune import train
from dataeff.finetune.data import Items, padded, read_items
from dataeff.finetune.heads import Encoder, open_encoder
from dataeff.finetune.train import Trained, Trainer, adamw, micro_batches, rate_factor
from dataeff.study.tasks import FinetuneRecipe
from tests.finetune.conftest import recipe_of, task_of


@pytest.fixture(scope="module")
def encoder(model: Path) -> Encoder:
    return open_encoder(model, 1)


def trainer_of(encoder: Encoder, marked: Path, recipe: FinetuneRecipe) -> Trainer:
    dataset, task = read_dataset(marked), task_of()
    splits = {split: read_items(task, dataset, split, None, encoder.tokenizer, 24) for split in ("train", "validation")}
    return Trainer.of("finetune: x", encoder, task, recipe, splits)


def trained(trainer: Trainer, rate: float = 3e-3, seed: int = 1) -> Trained:
    return trainer.run(rate, seed, lambda step: None)


def same(one: Trained, other: Trained) -> bool:
    return all(
        first.training_loss == second.training_loss
        and all(np.array_equal(first.outputs[split], second.outputs[split]) for split in first.outputs)
        for first, second in zip(one.epochs, other.epochs, strict=True)
    )


def test_it_learns_what_can_be_learnt(encoder: Encoder, marked: Path) -> None:
    trainer = trainer_of(encoder, marked, recipe_of(epochs=3))
    found = trained(trainer)
    labels = trainer.evaluation["validation"].labels
    right = (found.epochs[-1].outputs["validation"].argmax(axis=1) == labels).mean()
    assert right > 0.9
    assert found.epochs[-1].training_loss < found.epochs[0].training_loss
    assert found.steps == 30


def test_the_same_bits_whatever_ran_before(encoder: Encoder, marked: Path) -> None:
    first = trainer_of(encoder, marked, recipe_of())
    alone = trained(first, seed=2)
    assert not same(alone, trained(first, seed=1))
    torch.rand(5)
    assert same(alone, trained(first, seed=2))
    assert same(alone, trained(trainer_of(encoder, marked, recipe_of()), seed=2))
    assert not same(alone, trained(first, rate=1e-3, seed=2))


def test_micro_batches_change_nothing_but_rounding(
    encoder: Encoder, marked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout, which draws other numbers for other shapes."""
    recipe = recipe_of(epochs=1, dropout=0.0, learning_rates=[1e-3])
    whole = trained(trainer_of(encoder, marked, recipe), 1e-3)
    monkeypatch.setitem(train.PADDED_TOKENS, "cpu", 40)
    parts = trained(trainer_of(encoder, marked, recipe), 1e-3)
    np.testing.assert_allclose(
        whole.epochs[0].outputs["validation"], parts.epochs[0].outputs["validation"], rtol=1e-3, atol=1e-4
    )
    assert whole.epochs[0].training_loss == pytest.approx(parts.epochs[0].training_loss, rel=1e-4)


def test_a_loss_that_is_not_finite_is_an_error(encoder: Encoder, marked: Path) -> None:
    trainer = trainer_of(encoder, marked, recipe_of(clip=1e30))
    with pytest.raises(DataeffError, match=r"learning rate 1e\+20, seed 1: .* not finite in epoch 1; look at"):
        trained(trainer, rate=1e20)


@given(st.integers(1, 400), st.sampled_from([Fraction(0), Fraction(1, 10), Fraction(13, 200), Fraction(1)]))
def test_the_rate_is_the_librarys_linear_one(steps: int, warmup: Fraction) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(warmup * steps), steps)
    factor = schedule.lr_lambdas[0]
    assert [rate_factor(step, steps, warmup) for step in range(steps)] == pytest.approx(list(map(factor, range(steps))))


def test_biases_and_norms_do_not_decay(encoder: Encoder, marked: Path) -> None:
    network = trainer_of(encoder, marked, recipe_of()).network
    decayed, others = adamw(network, 1e-3, 0.1).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert plain == {
        name for name in names.values() if name.endswith("bias") or ".ln." in name or "norm" in name.lower()
    }
    assert len(decayed["params"]) + len(plain) == len(names)


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 3), st.integers(8, 200))
def test_micro_batches_hold_every_item_once_and_keep_the_limit(lengths: list[int], choices: int, limit: int) -> None:
    starts = np.concatenate([[0], np.cumsum(np.repeat(lengths, choices))])
    count = len(lengths)
    none = np.zeros(count * choices, dtype=np.int64)
    items = Items(np.zeros(starts[-1], np.int32), starts, none, none[:count], choices, np.arange(count), 0)
    numbers = np.arange(count)[::-1]
    parts = micro_batches(items, numbers, limit)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    for part in parts:
        tokens = len(part) * choices * padded(int(items.lengths[part].max()))
        assert tokens <= limit or len(part) == 1
