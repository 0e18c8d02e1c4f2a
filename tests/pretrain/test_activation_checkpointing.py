"""Activations computed again in the backward pass: the same gradients with dropout and dropped tokens, less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dataeff.families import bert_network, gpt
from dataeff.pretrain.engine import checkpoint_activations
from dataeff.study.types import Model
from dataeff.token_drop import Route, TokenDrop
from tests.pretrain.test_loop import assert_identical
from tests.pretrain.training import Material, Training

ROWS, LENGTH, VOCABULARY = 4, 24, 64
MODEL = Model(layers=4, hidden=16, heads=2, sequence_length=LENGTH, dropout=0.1)


def gpt_loss(network: Any) -> Tensor:
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    return gpt.loss_sum(network, tokens)[0]


def windowed_gpt_loss(network: Any) -> Tensor:
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(3))
    return gpt.loss_sum(network, tokens, window=8)[0]


def bert_loss(network: Any) -> Tensor:
    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([LENGTH, LENGTH - 3, LENGTH, LENGTH - 7])
    logits, order = network(tokens, torch.zeros_like(tokens), lengths, torch.arange(0, ROWS * LENGTH, 5))
    return logits.logsumexp(-1).sum() + order.logsumexp(-1).sum()


def new_gpt() -> nn.Module:
    return gpt.build_model(MODEL, vocabulary=VOCABULARY, eos_id=0)


def new_bert() -> nn.Module:
    return bert_network.new_network(MODEL, vocabulary=VOCABULARY, pad_id=0)


def gradients(
    make: Callable[[], nn.Module], loss: Callable[[Any], Tensor], route: Route | None, checkpointing: bool
) -> tuple[dict[str, Tensor], int]:
    """Of one pass; and the bytes that it kept for its backward."""
    torch.manual_seed(1)
    network = make().train()
    if checkpointing:
        checkpoint_activations(network)
    if route is not None:
        drop = TokenDrop.attach(network, layers=[1, 2], seed=5, route=route)
        drop.set_step(7, kept=10, rows_B=torch.arange(ROWS), rows=ROWS)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = loss(network)
    total.backward()
    found = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return found, sum(kept.values())


@pytest.mark.parametrize("route", [None, "each_layer", "one_route", "samples"])
@pytest.mark.parametrize(
    ("make", "loss"),
    [(new_gpt, gpt_loss), (new_gpt, windowed_gpt_loss), (new_bert, bert_loss)],
    ids=["gpt", "windowed gpt", "bert"],
)
def test_gradients_are_the_same_of_less_memory(
    make: Callable[[], nn.Module], loss: Callable[[Any], Tensor], route: Route | None
) -> None:
    expected, bytes_kept = gradients(make, loss, route, checkpointing=False)
    found, fewer_kept = gradients(make, loss, route, checkpointing=True)
    assert expected.keys() == found.keys()
    assert len(expected) > 20
    for name, gradient in expected.items():
        assert found[name].equal(gradient), name
    assert fewer_kept < bytes_kept / 2


@pytest.mark.parametrize(("family", "variant"), [("gpt", "composed"), ("bert", "composed")])
def test_a_run_is_the_same(material: Material, tmp_path: Path, family: str, variant: str) -> None:
    plain = material.training(variant, tmp_path / "plain", family).finish()
    again = material.training(variant, tmp_path / "again", family, activation_checkpointing=True)
    assert_identical(again.finish(), plain)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_at_every_stage_with_accumulation(material: Material, tmp_path: Path, zero_stage: int) -> None:
    runs: list[Training] = [
        material.training(
            "composed", tmp_path / str(on), zero_stage=zero_stage, micro_batch=3, activation_checkpointing=on
        ).finish_ranks(2)
        for on in (False, True)
    ]
    assert_identical(runs[1], runs[0])
