import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dataeff.errors import DataeffError
from dataeff.families.bert_network import MegatronBertForPreTraining, new_network
from dataeff.study.types import Model
from dataeff.token_drop import TokenDrop, kept_positions

ROWS = torch.arange(3)


def gpt2(layers: int = 4, dropout: float = 0.0) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=50,
        n_positions=32,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return GPT2LMHeadModel(config).train()


def test_kept_positions_are_sorted_distinct_and_keyed() -> None:
    kept = kept_positions(1, 5, ROWS, 2, length=32, kept=8)
    assert kept.shape == (3, 8)
    assert (kept.diff(dim=1) > 0).all()
    assert 0 <= kept.min() <= kept.max() < 32
    assert (kept == kept_positions(1, 5, ROWS, 2, 32, 8)).all()
    for other in (
        kept_positions(2, 5, ROWS, 2, 32, 8),
        kept_positions(1, 6, ROWS, 2, 32, 8),
        kept_positions(1, 5, ROWS, 3, 32, 8),
    ):
        assert (kept != other).any()
    assert (kept[0] != kept[1]).any()


def test_kept_positions_of_a_row_do_not_depend_on_the_micro_batch() -> None:
    together = kept_positions(1, 5, torch.arange(6), 2, 32, 8)
    apart = torch.cat([kept_positions(1, 5, rows, 2, 32, 8) for rows in torch.arange(6).split(2)])
    assert (together == apart).all()


def test_every_position_is_kept_equally_often() -> None:
    """8 of 32 positions over 20,000 rows: each kept 5,000 times, within five standard deviations (306)."""
    counts = torch.bincount(kept_positions(1, 0, torch.arange(20_000), 1, 32, 8).flatten(), minlength=32)
    assert (counts - 5000).abs().max() < 306


def test_a_layer_sees_only_kept_tokens_and_the_rest_pass_by() -> None:
    model = gpt2()
    drop = TokenDrop.attach(model, layers=[1], seed=1)
    drop.set_step(3, kept=8, rows_B=ROWS)
    block = model.transformer.h[1]
    hidden = torch.randn(3, 32, 16)
    output = block(hidden)
    output = output[0] if isinstance(output, tuple) else output
    kept = kept_positions(1, 3, ROWS, 1, 32, 8)
    alone = type(block).forward(block, hidden.gather(1, kept[..., None].expand(-1, -1, 16)))
    alone = alone[0] if isinstance(alone, tuple) else alone
    for row in range(3):
        dropped = sorted(set(range(32)) - set(kept[row].tolist()))
        assert torch.equal(output[row, dropped], hidden[row, dropped])
        assert torch.allclose(output[row, kept[row]], alone[row], atol=1e-6)


def test_keeping_all_or_evaluating_changes_nothing() -> None:
    model, plain = gpt2(), gpt2()
    drop = TokenDrop.attach(model, layers=[1, 2], seed=1)
    tokens = torch.randint(0, 50, (3, 32))
    drop.set_step(0, kept=32, rows_B=ROWS)
    assert torch.equal(model(tokens).logits, plain(tokens).logits)
    drop.set_step(0, kept=8, rows_B=ROWS)
    assert not torch.equal(model(tokens).logits, plain(tokens).logits)
    assert torch.equal(model.eval()(tokens).logits, plain.eval()(tokens).logits)


def test_parameter_names_stay_and_detach_restores() -> None:
    model = gpt2()
    names = list(model.state_dict())
    drop = TokenDrop.attach(model, layers=[1, 2], seed=1)
    assert list(model.state_dict()) == names
    drop.detach()
    assert "forward" not in vars(model.transformer.h[1])


def test_activation_checkpointing_recomputes_the_same_drop() -> None:
    tokens = torch.randint(0, 50, (3, 32))
    gradients = []
    for checkpointing in (False, True):
        model = gpt2()
        drop = TokenDrop.attach(model, layers=[1, 2], seed=1)
        if checkpointing:
            model.gradient_checkpointing_enable()
        drop.set_step(2, kept=8, rows_B=ROWS)
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_gradients_flow_to_dropped_tokens() -> None:
    model = gpt2()
    drop = TokenDrop.attach(model, layers=[1, 2], seed=1)
    drop.set_step(2, kept=4, rows_B=ROWS)
    embedded = torch.randn(3, 32, 16, requires_grad=True)
    model(inputs_embeds=embedded, use_cache=False).logits.sum().backward()
    assert (embedded.grad.abs().sum(-1) > 0).all()


def test_rotary_positions_of_kept_tokens_stay_theirs() -> None:
    """Dropping in a Llama equals running the layer on the kept tokens with their own position ids."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    model = LlamaForCausalLM(config).train()
    plain = copy.deepcopy(model)
    drop = TokenDrop.attach(model, layers=[1], seed=1)
    drop.set_step(0, kept=8, rows_B=ROWS)
    seen = {}
    model.model.layers[1].self_attn.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(cos=kwargs["position_embeddings"][0]),
        with_kwargs=True,
    )
    model(torch.randint(0, 50, (3, 32)), use_cache=False)
    kept = kept_positions(1, 0, ROWS, 1, 32, 8)
    cos, _ = plain.model.rotary_emb(torch.zeros(3, 8, 16), kept)
    assert torch.allclose(seen["cos"], cos)


def test_a_mask_is_gathered_by_rows_and_columns() -> None:
    """Padding at the end, given as a mask: rows whose kept tokens are all real agree with the mask-free model."""
    model = gpt2()
    model.config._attn_implementation = "eager"
    drop = TokenDrop.attach(model, layers=[1], seed=1)
    drop.set_step(0, kept=8, rows_B=ROWS)
    tokens = torch.randint(0, 50, (3, 32))
    with_mask = model(tokens, attention_mask=torch.ones(3, 32, dtype=torch.long), use_cache=False).logits
    without = model(tokens, use_cache=False).logits
    assert torch.allclose(with_mask, without, atol=1e-6)
    changed = tokens.clone()
    changed[:, 24:] = (changed[:, 24:] + 1) % 50
    mask = torch.ones(3, 32, dtype=torch.long)
    mask[:, 24:] = 0
    first, second = (model(t, attention_mask=mask, use_cache=False).logits[:, :24] for t in (tokens, changed))
    assert torch.allclose(first, second, atol=1e-6)


def bert() -> MegatronBertForPreTraining:
    torch.manual_seed(0)
    model = Model(layers=4, hidden=16, heads=2, sequence_length=32, dropout=0.0, init_std=0.3)
    return new_network(model, vocabulary=50, pad_id=0).train()


def pairs() -> dict[str, torch.Tensor]:
    """Rows of 32, 20 and 6 real tokens; every real place is asked for."""
    lengths = torch.tensor([32, 20, 6])
    real = (torch.arange(32) < lengths[:, None]).flatten()
    return {
        "input_ids": torch.randint(5, 50, (3, 32)),
        "token_type_ids": torch.randint(0, 2, (3, 32)),
        "lengths": lengths,
        "places": torch.arange(3 * 32)[real],
    }


def test_bert_s_kept_tokens_never_see_padding() -> None:
    """Whatever stands in it, in any layer that drops; a row may even keep nothing but padding there."""
    model = bert()
    drop = TokenDrop.attach(model, layers=[1, 2], seed=1)
    inputs = pairs()
    padding = torch.arange(32) >= inputs["lengths"][:, None]
    other = {**inputs, "input_ids": torch.where(padding, 7, inputs["input_ids"])}
    only_padding = 0
    for step in range(40):
        drop.set_step(step, kept=8, rows_B=ROWS)
        (first, first_order), (second, second_order) = model(**inputs), model(**other)
        assert torch.isfinite(first).all()
        assert torch.allclose(first, second, atol=1e-5)
        assert torch.allclose(first_order, second_order, atol=1e-5)
        only_padding += sum(int(drop.positions(layer, 32)[2].min() >= 6) for layer in (1, 2))
    assert only_padding > 0
    drop.set_step(0, kept=32, rows_B=ROWS)
    assert not torch.allclose(model(**inputs)[0], first, atol=1e-3)  # dropping does change what is computed


def test_bert_s_layer_gets_the_mask_of_the_kept_tokens() -> None:
    model = bert()
    drop = TokenDrop.attach(model, layers=[1], seed=1)
    drop.set_step(3, kept=8, rows_B=ROWS)
    seen = {}
    model.bert.encoder.layer[1].attention.self.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(hidden=args[0], mask=kwargs["attention_mask"]),
        with_kwargs=True,
    )
    inputs = pairs()
    model(**inputs)
    kept = kept_positions(1, 3, ROWS, 1, 32, 8)
    assert seen["hidden"].shape == (3, 8, 16)
    assert seen["mask"].shape == (3, 1, 1, 8)
    assert ((seen["mask"][:, 0, 0] < 0) == (kept >= inputs["lengths"][:, None])).all()


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DataeffError, match=r"layers \[4\] do not exist; the model has layers 0..3"):
        TokenDrop.attach(gpt2(), layers=[1, 4], seed=1)


def test_rows_of_another_micro_batch_are_refused() -> None:
    model = gpt2()
    drop = TokenDrop.attach(model, layers=[1], seed=1)
    drop.set_step(0, kept=8, rows_B=ROWS)
    with pytest.raises(ValueError, match="3 rows, the layer sees 2"):
        model(torch.zeros(2, 32, dtype=torch.long))
