import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from dataeff import token_drop
from dataeff.errors import DataeffError
from dataeff.families.bert_network import MegatronBertForPreTraining, new_network
from dataeff.study.types import Model
from dataeff.token_counts import kept_rows
from dataeff.token_drop import TokenDrop, chosen_rows, kept_by_layers, kept_positions, transformer_layers

ROWS = torch.arange(3)
FIRST = [[3, 6, 10, 15], [6, 7, 10, 13]]
LATER = [[363, 1228, 1600, 1809, 1872, 1907]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of such small models wait for each other, up to 50 times as long as they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_kept_positions_are_these() -> None:
    """Known values: what is dropped must not change from one version to the next."""
    assert kept_positions(1234, 0, torch.arange(2), 1, length=16, kept=4).tolist() == FIRST
    assert kept_positions(1234, 7, torch.tensor([511]), 22, length=2048, kept=6).tolist() == LATER


@pytest.mark.parametrize("at_once", [1, 3 * 32, 2 * 3 * 32 + 5, 1 << 20])
def test_positions_of_all_layers_at_once_are_those_of_each(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """However many fit into the memory for scores."""
    monkeypatch.setattr(token_drop, "SCORES_AT_ONCE", at_once)
    layers = [1, 2, 5, 7, 22]
    found = kept_by_layers(3, 9, ROWS, layers, 32, 11)
    assert torch.equal(found, torch.stack([kept_positions(3, 9, ROWS, layer, 32, 11) for layer in layers]))


def test_positions_follow_step_and_length() -> None:
    drop = TokenDrop.attach(gpt2(), layers=[1, 2], seed=1)
    for step, length in ((0, 32), (0, 24), (1, 24), (1, 32)):
        drop.set_step(step, kept=8, rows_B=ROWS)
        for layer in (2, 1):
            assert torch.equal(drop.positions(layer, length), kept_positions(1, step, ROWS, layer, length, 8))
    assert torch.equal(drop.positions(1, 20), kept_positions(1, 1, ROWS, 1, 20, 8))


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


# --- the same positions in all layers ------------------------------------------------------------------------


def test_one_route_equals_gathering_once_and_scattering_once() -> None:
    """Forward and backward, to the bit: what is scattered after a layer is what the next one gathers."""
    tokens, kept = torch.randint(0, 50, (3, 32)), kept_positions(1, 5, ROWS, 1, 32, 8)
    model, by_hand = gpt2(layers=5), gpt2(layers=5)
    drop = TokenDrop.attach(model, layers=[1, 2, 3], seed=1, route="one_route")
    drop.set_step(5, kept=8, rows_B=ROWS)
    found = model(tokens, use_cache=False).logits
    stack = by_hand.transformer
    hidden = stack.h[0](stack.wte(tokens) + stack.wpe(torch.arange(32)))
    index = kept[..., None].expand(-1, -1, 16)
    inner = hidden.gather(1, index)
    for layer in stack.h[1:4]:
        inner = layer(inner)
    expected = by_hand.lm_head(stack.ln_f(stack.h[4](hidden.scatter(1, index, inner))))
    assert torch.equal(found, expected)
    for logits in (found, expected):
        logits.logsumexp(-1).sum().backward()
    for here, there in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(here.grad, there.grad)


def test_one_route_is_that_of_the_first_dropping_layer() -> None:
    drop = TokenDrop.attach(gpt2(), layers=[2, 1], seed=1, route="one_route")
    drop.set_step(5, kept=8, rows_B=ROWS)
    first = kept_positions(1, 5, ROWS, 1, 32, 8)
    assert all(torch.equal(drop.positions(layer, 32), first) for layer in (1, 2))
    each = TokenDrop.attach(gpt2(), layers=[1, 2], seed=1)
    each.set_step(5, kept=8, rows_B=ROWS)
    assert torch.equal(each.positions(1, 32), first)
    assert not torch.equal(each.positions(2, 32), first)


# --- whole rows ----------------------------------------------------------------------------------------------

BATCH = 8
TOKENS = torch.randint(5, 50, (BATCH, 32), generator=torch.Generator().manual_seed(3))
LENGTHS = torch.tensor([32, 20, 6, 31, 9, 17, 25, 12])


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).train()


def exact(make: Callable[[], nn.Module], attention: str = "sdpa") -> Callable[[], nn.Module]:
    """The model in float64 with ten times its weights, so that what a layer is given shows in what comes out."""

    def made() -> nn.Module:
        model = make().double()
        model.config._attn_implementation = attention
        with torch.no_grad():
            for layer in transformer_layers(model):
                for parameter in layer.parameters():
                    if parameter.dim() > 1 and make is not bert:
                        parameter.mul_(10)
        return model

    return made


def masked_sum(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """A number that every real token of these rows of TOKENS enters; what is no real token differs from row to row."""
    if isinstance(model, MegatronBertForPreTraining):
        places = torch.arange(len(rows) * 32)[(torch.arange(32) < LENGTHS[rows, None]).flatten()]
        logits, order = model(TOKENS[rows], torch.zeros_like(TOKENS[rows]), LENGTHS[rows], places)
        return logits.logsumexp(-1).sum() + order.sin().sum()
    # Under a causal mask only what lies before a token counts; the first one is real, so that all see something.
    real = (torch.arange(32) == 0) | (torch.arange(32) >= 32 - LENGTHS[rows, None])
    logits = model(TOKENS[rows], attention_mask=real.long(), use_cache=False).logits
    return logits[real].logsumexp(-1).sum()


MODELS = {"gpt2": exact(gpt2), "gpt2 eager": exact(gpt2, "eager"), "bert": exact(bert), "llama": exact(llama)}


def by_samples(model: nn.Module, layers: tuple[int, ...] = (1, 2)) -> TokenDrop:
    return TokenDrop.attach(model, layers=list(layers), seed=1, route="samples")


def test_chosen_rows_are_as_many_as_asked_and_keyed() -> None:
    chosen = chosen_rows(1, 5, 2, rows=64, kept=20)
    assert chosen.sum() == 20
    assert torch.equal(chosen, chosen_rows(1, 5, 2, 64, 20))
    for other in (chosen_rows(2, 5, 2, 64, 20), chosen_rows(1, 6, 2, 64, 20), chosen_rows(1, 5, 3, 64, 20)):
        assert not torch.equal(chosen, other)
    assert not (chosen & ~chosen_rows(1, 5, 2, 64, 21)).any()  # the pacing only adds rows


def test_every_row_is_chosen_equally_often() -> None:
    """2 of 8 rows at 8,000 steps: each 2,000 times, within five standard deviations (194)."""
    counts = torch.stack([chosen_rows(1, step, 1, 8, 2) for step in range(8000)]).sum(0)
    assert (counts - 2000).abs().max() < 194


@pytest.mark.parametrize("kept", [8, 15, 31])
def test_as_many_rows_go_through_each_layer_as_the_plan_counts(kept: int) -> None:
    drop = by_samples(gpt2())
    drop.set_step(4, kept=kept, rows_B=torch.arange(BATCH), rows=BATCH)
    planned = kept_rows(np.array([BATCH]), np.array([32]), np.array([kept]))[0]
    assert [int(drop.through(layer, 32).sum()) for layer in (1, 2)] == [planned, planned]
    assert drop.positions(1, 32) is None


def test_rows_that_are_not_chosen_pass_by() -> None:
    model = gpt2()
    drop = by_samples(model)
    drop.set_step(3, kept=12, rows_B=torch.arange(BATCH), rows=BATCH)
    block, hidden = model.transformer.h[1], torch.randn(BATCH, 32, 16)
    output, chosen = block(hidden), chosen_rows(1, 3, 1, BATCH, 3)
    assert torch.equal(output[~chosen], hidden[~chosen])
    assert torch.equal(output[chosen], type(block).forward(block, hidden[chosen]))


@pytest.mark.parametrize("through", [0, 1, 3])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_none_one_or_all_rows_of_a_micro_batch_go_through(make: Callable[[], nn.Module], through: int) -> None:
    """Every parameter of the layer has a gradient, of zero where no row is chosen; other rows stay as they are."""
    model = make()
    drop = by_samples(model, (1,))
    chosen = chosen_rows(1, 3, 1, BATCH, 3)
    rows = torch.cat([chosen.nonzero()[:through, 0], (~chosen).nonzero()[: 3 - through, 0]])
    drop.set_step(3, kept=12, rows_B=rows, rows=BATCH)
    layer, seen = transformer_layers(model)[1], {}
    layer.register_forward_hook(lambda module, args, output: seen.update(before=args[0], after=output))
    masked_sum(model, rows).backward()
    after = seen["after"][0] if isinstance(seen["after"], tuple) else seen["after"]
    assert torch.equal(after[through:], seen["before"][through:])
    gradients = [parameter.grad for parameter in layer.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients) == (through > 0)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_dropped_rows_do_not_depend_on_the_micro_batch(make: Callable[[], nn.Module]) -> None:
    """One of 8 rows goes through each layer, each has a mask of its own: parts of 1, 2 or 8 rows add up alike."""
    found = []
    for size in (8, 2, 1):
        model = make()
        drop = by_samples(model)
        total = 0.0
        for rows in torch.arange(BATCH).split(size):
            drop.set_step(6, kept=5, rows_B=rows, rows=BATCH)
            part = masked_sum(model, rows)
            part.backward()
            total += float(part.detach())
        found.append((total, [parameter.grad for parameter in model.parameters()]))
    (whole, gradients), *others = found
    for total, parts in others:
        assert total == pytest.approx(whole, rel=1e-12)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(gradients, parts, strict=True))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_masks_and_positions_go_with_their_rows(make: Callable[[], nn.Module]) -> None:
    """A chosen row gives what it gives alone in the whole model, any other what it gives without the layer."""
    model, whole, less = make(), make(), make()
    is_bert = isinstance(model, MegatronBertForPreTraining)
    transformer_layers(less)[1].forward = lambda hidden, *args, **kwargs: (hidden,) if is_bert else hidden
    drop, rows, chosen = by_samples(model, (1,)), torch.arange(BATCH), chosen_rows(1, 6, 1, BATCH, 3)
    drop.set_step(6, kept=12, rows_B=rows, rows=BATCH)
    with torch.no_grad():
        found = float(masked_sum(model, rows))
        alone = [float(masked_sum(whole if chosen[row] else less, rows[row : row + 1])) for row in range(BATCH)]
        assert found == pytest.approx(sum(alone), rel=1e-12)
        assert found != pytest.approx(float(masked_sum(whole, rows)), rel=1e-6)


def test_keeping_all_rows_or_evaluating_changes_nothing() -> None:
    model, plain = gpt2(), gpt2()
    drop = by_samples(model)
    rows = torch.arange(BATCH)
    drop.set_step(0, kept=32, rows_B=rows, rows=BATCH)
    assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
    drop.set_step(0, kept=8, rows_B=rows, rows=BATCH)
    assert not torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
    assert torch.equal(model.eval()(TOKENS).logits, plain.eval()(TOKENS).logits)


@pytest.mark.parametrize("kept", [5, 16])
def test_activation_checkpointing_recomputes_the_same_rows(kept: int) -> None:
    """Also where the micro-batch has no row in a layer (kept 5: one of 8 rows)."""
    gradients = []
    for checkpointing in (False, True):
        model = gpt2()
        drop = by_samples(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        for rows in torch.arange(BATCH).split(2):
            drop.set_step(2, kept=kept, rows_B=rows, rows=BATCH)
            model(TOKENS[rows], labels=TOKENS[rows], use_cache=False).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_rows_of_the_global_batch_are_needed() -> None:
    with pytest.raises(ValueError, match="route 'samples' needs `rows`"):
        by_samples(gpt2()).set_step(0, kept=8, rows_B=ROWS)


def test_dropped_rows_of_another_micro_batch_are_refused() -> None:
    model = gpt2()
    by_samples(model).set_step(0, kept=8, rows_B=ROWS, rows=BATCH)
    with pytest.raises(ValueError, match="3 rows, the layer sees 2"):
        model(torch.zeros(2, 32, dtype=torch.long))
