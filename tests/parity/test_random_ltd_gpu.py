"""On a graphics card: token drop equals DeepSpeed's RandomLayerTokenDrop with its own kernels, and draws as a CPU does.

DeepSpeed compiles its three operators (sort, gather, scatter) at their first use, which takes a minute and needs nvcc.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GPT2LMHeadModel

from dataeff.token_drop import TokenDrop, kept_positions, transformer_layers
from tests.parity.test_token_drop import KEPT, LAYERS, LENGTH, ROWS_B, two_models, wrap

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device: DeepSpeed's operators exist for CUDA only"
    ),
]


def both_on_the_card(step: int, monkeypatch: pytest.MonkeyPatch) -> tuple[GPT2LMHeadModel, GPT2LMHeadModel]:
    """In float32, which DeepSpeed's kernels are for."""
    ours, theirs = (model.float().cuda() for model in two_models())
    drop = TokenDrop.attach(ours, layers=LAYERS, seed=7)
    drop.set_step(step, kept=KEPT, rows_B=ROWS_B.cuda())
    indices_LBR = torch.stack([drop.positions(layer, LENGTH) for layer in LAYERS])
    wrap(theirs.transformer.h, indices_LBR, monkeypatch)
    return ours, theirs


def test_equals_deepspeed_s_kernels_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = both_on_the_card(5, monkeypatch)
    tokens = torch.randint(0, 50, (3, LENGTH), device="cuda")
    plain = copy.deepcopy(ours)
    TokenDrop.attach(plain, layers=LAYERS, seed=7)  # no step is set: nothing is dropped
    logits = []
    for model in (ours, theirs):
        output = model(tokens, labels=tokens, use_cache=False)
        output.loss.backward()
        logits.append(output.logits)
    assert torch.allclose(*logits, atol=1e-5)
    assert not torch.allclose(logits[0], plain(tokens, use_cache=False).logits, atol=1e-3)
    their_gradients = {
        name.replace("wrapped.random_ltd_layer.", ""): parameter.grad for name, parameter in theirs.named_parameters()
    }
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, their_gradients[name], atol=1e-5), name


def test_positions_are_those_of_a_cpu() -> None:
    for step, layer, length, kept in ((0, 1, 32, 8), (5, 2, 257, 100), (9, 22, 2048, 512)):
        here = kept_positions(7, step, ROWS_B, layer, length, kept)
        assert torch.equal(kept_positions(7, step, ROWS_B.cuda(), layer, length, kept).cpu(), here)


def test_drawing_does_not_wait_for_the_card() -> None:
    """An operation that waits is an error while torch watches for them."""
    ours, _ = (model.float().cuda() for model in two_models())
    drop = TokenDrop.attach(ours, layers=LAYERS, seed=7)
    hidden, rows_B = torch.randn(3, LENGTH, 16, device="cuda"), ROWS_B.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        drop.set_step(3, kept=KEPT, rows_B=rows_B)
        for layer in LAYERS:
            transformer_layers(ours)[layer](hidden)
    finally:
        torch.cuda.set_sync_debug_mode("default")
