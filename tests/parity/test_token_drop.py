"""Token drop equals DeepSpeed's RandomLayerTokenDrop, forward and backward, where both keep the same tokens.

DeepSpeed's operators exist for CUDA only. Stand-ins of the three in plain torch let its own layer wrapper and its own
autograd functions run here: what is compared is how tokens are gathered, which mask the layer gets, where its output
goes and what gradients come back.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from dataeff.families.bert_network import MegatronBertForPreTraining, new_network
from dataeff.study.types import Model
from dataeff.token_drop import TokenDrop

LENGTH, KEPT, LAYERS = 32, 12, (1, 2)
ROWS_B = torch.arange(3)


def token_sort_(indices: Tensor, length: int) -> Tensor:
    return indices.sort(dim=-1).values


def token_gather(activations: Tensor, indices: Tensor, batch_first: bool) -> Tensor:
    source = activations if batch_first else activations.transpose(0, 1)
    rows = source.gather(1, indices.long()[..., None].expand(-1, -1, source.shape[-1]))
    return rows if batch_first else rows.transpose(0, 1).contiguous()


def token_scatter_(activations: Tensor, part: Tensor, indices: Tensor, batch_first: bool) -> Tensor:
    target = activations if batch_first else activations.transpose(0, 1)
    rows = part if batch_first else part.transpose(0, 1)
    target.scatter_(1, indices.long()[..., None].expand(-1, -1, target.shape[-1]), rows)
    return activations


@pytest.fixture(autouse=True)
def _operators(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.ops.random_ltd import dropping_utils

    operators = SimpleNamespace(token_sort_=token_sort_, token_gather=token_gather, token_scatter_=token_scatter_)
    monkeypatch.setattr(dropping_utils, "random_ltd_module", operators)


def two_models() -> tuple[GPT2LMHeadModel, GPT2LMHeadModel]:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        bos_token_id=0,
        eos_token_id=0,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=4,
        n_head=2,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    )
    ours = GPT2LMHeadModel(config).double().train()
    return ours, copy.deepcopy(ours)


class Scheduler:
    """What the wrapper asks its scheduler for: the length to keep, and a place for the step's indices."""

    def __init__(self, kept: int, layers: int) -> None:
        self.kept, self.random_ltd_layer_num = kept, layers
        self.state: dict[str, object] = {"max_value": LENGTH}

    def get_current_seq(self) -> int:
        return self.kept


class ByKeyword(nn.Module):
    """DeepSpeed's wrapper takes the hidden states alone by position; GPT-2 gives its empty masks so, BERT its mask."""

    def __init__(self, wrapped: nn.Module, mask_name: str | None) -> None:
        super().__init__()
        self.wrapped, self.mask_name = wrapped, mask_name

    def forward(self, hidden_BSD: Tensor, *positional: Tensor | None, **keywords: object) -> Tensor:
        if self.mask_name is not None:
            mask, *positional = positional
            keywords[self.mask_name] = mask
        assert not any(positional)
        return self.wrapped(hidden_BSD, **keywords)


def wrap(
    blocks: nn.ModuleList, indices_LBR: Tensor, monkeypatch: pytest.MonkeyPatch, mask_name: str | None = None
) -> None:
    """Puts DeepSpeed's wrapper around the dropping blocks; it draws the given indices. With a mask: as an encoder."""
    from deepspeed.runtime.data_pipeline.data_routing.basic_layer import RandomLayerTokenDrop

    scheduler = Scheduler(KEPT, len(LAYERS))
    settings = {
        "model_mask_name": mask_name,
        "micro_batch_size": 3,
        "hidden_state_order": "batch_seq_dim",
        "model_type": "decoder" if mask_name is None else "encoder",
    }
    # It samples with torch.multinomial and sorts afterwards: an unsorted draw of our positions shows that it sorts.
    shuffled = indices_LBR[..., torch.randperm(KEPT)].reshape(-1, KEPT)
    monkeypatch.setattr(torch, "multinomial", lambda weights, count: shuffled)
    for number, layer in enumerate(LAYERS):
        wrapped = RandomLayerTokenDrop(blocks[layer])
        wrapped.init_config(settings, scheduler, number)
        blocks[layer] = ByKeyword(wrapped, mask_name)


def both_dropping(step: int, monkeypatch: pytest.MonkeyPatch) -> tuple[GPT2LMHeadModel, GPT2LMHeadModel, torch.Tensor]:
    """Ours and DeepSpeed's model set to drop the same tokens, and the positions kept: [layers, B, R]."""
    ours, theirs = two_models()
    drop = TokenDrop.attach(ours, layers=LAYERS, seed=7)
    drop.set_step(step, kept=KEPT, rows_B=ROWS_B)
    indices_LBR = torch.stack([drop.positions(layer, LENGTH) for layer in LAYERS])
    wrap(theirs.transformer.h, indices_LBR, monkeypatch)
    return ours, theirs, indices_LBR


def test_equals_deepspeed_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, _ = both_dropping(5, monkeypatch)
    tokens = torch.randint(0, 50, (3, LENGTH))
    plain = copy.deepcopy(ours)
    TokenDrop.attach(plain, layers=LAYERS, seed=7)  # no step is set: nothing is dropped
    logits = []
    for model in (ours, theirs):
        output = model(tokens, labels=tokens, use_cache=False)
        output.loss.backward()
        logits.append(output.logits)
    assert torch.allclose(*logits, atol=1e-12)
    assert not torch.allclose(logits[0], plain(tokens, use_cache=False).logits, atol=1e-3)
    their_gradients = {
        name.replace("wrapped.random_ltd_layer.", ""): parameter.grad for name, parameter in theirs.named_parameters()
    }
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, their_gradients[name], atol=1e-12), name


def test_the_gradient_at_the_input_equals_deepspeed_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of kept tokens through the block, of dropped ones past it."""
    ours, theirs, indices_LBR = both_dropping(0, monkeypatch)
    hidden = torch.randn(3, LENGTH, 16, dtype=torch.double)
    weights = torch.randn(3, LENGTH, 16, dtype=torch.double)
    gradients = []
    for model in (ours, theirs):
        inputs = hidden.clone().requires_grad_()
        # The first dropping block alone: DeepSpeed draws the indices of all layers in it.
        output = model.transformer.h[LAYERS[0]](inputs)
        output = output[0] if isinstance(output, tuple) else output
        (output * weights).sum().backward()
        gradients.append(inputs.grad)
    assert torch.allclose(*gradients, atol=1e-12)
    dropped = sorted(set(range(LENGTH)) - set(indices_LBR[0, 0].tolist()))
    assert torch.equal(gradients[0][0, dropped], weights[0, dropped])


def test_in_evaluation_neither_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs, _ = both_dropping(5, monkeypatch)
    tokens = torch.randint(0, 50, (3, LENGTH))
    outputs = [model.eval()(tokens, use_cache=False).logits for model in (ours, theirs)]
    assert torch.equal(*outputs)


def two_encoders() -> tuple[MegatronBertForPreTraining, MegatronBertForPreTraining]:
    torch.manual_seed(0)
    model = Model(layers=4, hidden=16, heads=2, sequence_length=LENGTH, dropout=0.0, init_std=0.2)
    ours = new_network(model, vocabulary=50, pad_id=0).double().train()
    return ours, copy.deepcopy(ours)


def test_an_encoder_with_padding_equals_deepspeed_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask gathered by the kept tokens; DeepSpeed's gather wants it as the library makes it, [B, 1, S, S]."""
    ours, theirs = two_encoders()
    drop = TokenDrop.attach(ours, layers=LAYERS, seed=7)
    drop.set_step(5, kept=KEPT, rows_B=ROWS_B)
    indices_LBR = torch.stack([drop.positions(layer, LENGTH) for layer in LAYERS])
    wrap(theirs.bert.encoder.layer, indices_LBR, monkeypatch, mask_name="attention_mask")
    lengths_B = torch.tensor([LENGTH, 20, 7])
    real_BS = torch.arange(LENGTH) < lengths_B[:, None]
    tokens, types = torch.randint(5, 50, (3, LENGTH)), torch.randint(0, 2, (3, LENGTH))
    places = torch.arange(3 * LENGTH)[real_BS.flatten()]
    found = ours(input_ids=tokens, token_type_ids=types, lengths=lengths_B, places=places)
    library = super(MegatronBertForPreTraining, theirs).forward
    output = library(tokens, attention_mask=real_BS.long(), token_type_ids=types)
    expected = (output.prediction_logits[real_BS], output.seq_relationship_logits)
    for logits, order in (found, expected):
        (logits.logsumexp(-1).sum() + order[:, 0].sum()).backward()
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(found, expected, strict=True))
    their_gradients = {
        name.replace("wrapped.random_ltd_layer.", ""): parameter.grad for name, parameter in theirs.named_parameters()
    }
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, their_gradients[name], atol=1e-10), name
