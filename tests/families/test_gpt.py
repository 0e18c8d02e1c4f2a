import numpy as np
import pytest
import torch
from torch import nn

from dataeff.families import gpt
from dataeff.study.types import Model
from dataeff.token_drop import Route, TokenDrop

SAMPLES = np.arange(4 * 65, dtype=np.int64).reshape(4, 65)
MODEL = Model(layers=3, hidden=16, heads=2, sequence_length=64)


def test_truncation_keeps_the_first_tokens() -> None:
    assert (gpt.cut(SAMPLES, 16, "truncate") == SAMPLES[:, :17]).all()
    assert gpt.cut(SAMPLES, 64, "truncate") is SAMPLES
    assert gpt.cut(SAMPLES, 64, None) is SAMPLES


def upstream_reshape(samples: np.ndarray, length: int) -> torch.Tensor:
    """The rows as a torch program that follows the published rule word for word would make them."""
    text = torch.from_numpy(samples)
    pieces = [
        text[row, i * (length + 1) : (i + 1) * (length + 1)]
        for row in range(len(text))
        for i in range(text.shape[1] // (length + 1))
    ]
    pieces += [text[row, -(length + 1) :] for row in range(len(text))]
    keep = min(-(-text.numel() // (length + 1)), len(pieces))
    return torch.stack(pieces[: keep - keep % 2 if keep > 1 else keep])


@pytest.mark.parametrize("length", [8, 16, 24, 40, 56])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_reshape_follows_the_published_rule(length: int, batch: int) -> None:
    assert (gpt.cut(SAMPLES[:batch], length, "reshape") == upstream_reshape(SAMPLES[:batch], length).numpy()).all()


def test_loss_sum_is_the_library_s_own_loss() -> None:
    torch.manual_seed(0)
    network = gpt.build_model(MODEL, vocabulary=128, eos_id=0).eval()
    rows = torch.randint(0, 128, (3, 65))
    with torch.no_grad():
        loss, tokens = gpt.loss_sum(network, rows)
        per_row = [
            network(input_ids=row[None, :-1]).logits.log_softmax(-1)[0].gather(1, row[1:, None]).sum() for row in rows
        ]
    assert tokens == 3 * 64
    assert float(loss) == pytest.approx(-float(sum(per_row)), rel=1e-5)


def test_residual_projections_start_smaller() -> None:
    torch.manual_seed(0)
    network = gpt.build_model(
        Model(layers=8, hidden=256, heads=4, sequence_length=32, init_std=0.02), vocabulary=128, eos_id=0
    )
    weights = dict(network.named_parameters())
    assert weights["transformer.h.3.attn.c_attn.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert weights["transformer.h.3.mlp.c_proj.weight"].std().item() == pytest.approx(
        0.02 / 4, rel=0.05
    )  # sqrt(2 * 8) = 4


# --- attention inside blocks ---------------------------------------------------------------------------------

LENGTH = 12


def network_of(attention: str = "sdpa") -> nn.Module:
    """In training mode, with weights large enough that every token that is seen shows."""
    torch.manual_seed(0)
    model = Model(layers=4, hidden=16, heads=2, sequence_length=LENGTH, dropout=0.0, init_std=0.5)
    network = gpt.build_model(model, vocabulary=128, eos_id=0).train()
    network.config._attn_implementation = attention
    return network


def some_rows(rows: int = 2) -> torch.Tensor:
    return torch.randint(0, 128, (rows, LENGTH + 1), generator=torch.Generator().manual_seed(5))


def logits_of(network: nn.Module, rows: torch.Tensor, window: int | None) -> torch.Tensor:
    """The logits [B, S, V] that the loss of a window is made of."""
    found: list[torch.Tensor] = []
    hook = network.lm_head.register_forward_hook(lambda module, args, output: found.append(output))
    gpt.loss_sum(network, rows, window)
    hook.remove()
    return found[0]


def test_a_window_s_mask_by_hand() -> None:
    mask = gpt.window_mask(5, 2, torch.float32, torch.device("cpu"))
    assert mask.shape == (1, 1, 5, 5)
    assert (mask[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert set(mask.flatten().tolist()) == {0.0, torch.finfo(torch.float32).min}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [1, 4, 5, LENGTH])
def test_a_token_depends_on_exactly_those_of_its_block_before_it(attention: str, window: int) -> None:
    network, rows = network_of(attention), some_rows(1)
    for changed in range(LENGTH):
        other = rows.clone()
        other[0, changed] = (other[0, changed] + 1) % 128
        differs = (logits_of(network, rows, window) != logits_of(network, other, window)).any(-1)[0]
        expected = [place >= changed and place // window == changed // window for place in range(LENGTH)]
        assert differs.tolist() == expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [4, 5])
def test_blocks_train_as_rows_of_their_own_at_their_positions(attention: str, window: int) -> None:
    """The same loss and gradients; 5 does not divide the 12 tokens, so that the last block is shorter."""
    whole, apart, rows = network_of(attention), network_of(attention), some_rows()
    loss, tokens = gpt.loss_sum(whole, rows, window)
    loss.backward()
    assert tokens == 2 * LENGTH
    total = 0.0
    for first in range(0, LENGTH, window):
        places = torch.arange(first, min(first + window, LENGTH))
        logits = apart(input_ids=rows[:, places], position_ids=places[None], use_cache=False).logits
        part = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, places + 1].flatten(), reduction="sum")
        part.backward()
        total += float(part.detach())
    assert float(loss.detach()) == pytest.approx(total, rel=1e-6)
    for here, there in zip(whole.parameters(), apart.parameters(), strict=True):
        assert torch.allclose(here.grad, there.grad, rtol=1e-4, atol=1e-4 * float(there.grad.abs().max()))


@pytest.mark.parametrize("window", [1, 4, 5])
def test_all_tokens_are_trained_on(window: int) -> None:
    """The gradient reaches every token read and every logit."""
    network, rows, seen = network_of(), some_rows(), {}
    network.transformer.wte.register_forward_hook(lambda module, args, output: seen.update(read=output))
    network.lm_head.register_forward_hook(lambda module, args, output: seen.update(logits=output))
    network.lm_head.register_forward_hook(lambda module, args, output: seen["read"].retain_grad())
    network.lm_head.register_forward_hook(lambda module, args, output: output.retain_grad())
    gpt.loss_sum(network, rows, window)[0].backward()
    assert (seen["read"].grad.abs().sum(-1) > 0).all()
    assert (seen["logits"].grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("window", [LENGTH, LENGTH + 1])
def test_a_window_of_all_tokens_is_no_mask(attention: str, window: int) -> None:
    network, rows, masks = network_of(attention), some_rows(), []
    network.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    assert torch.equal(logits_of(network, rows, window), logits_of(network, rows, None))
    assert masks == [None, None]
    gpt.loss_sum(network, rows, LENGTH - 1)
    assert masks[2] is not None


def test_a_mask_is_made_once_for_a_window() -> None:
    network, rows = network_of(), some_rows(6)
    gpt.window_mask.cache_clear()
    for window in (4, 8):
        for part in rows.split(2):
            gpt.loss_sum(network, part, window)
    assert gpt.window_mask.cache_info().misses == 2


def test_a_mask_has_the_network_s_type() -> None:
    """Attention in bfloat16 takes no mask of another type; with one the loss is that of float32 but for rounding."""
    rows = some_rows()
    whole, half = (
        float(gpt.loss_sum(network, rows, 4)[0].detach()) for network in (network_of(), network_of().bfloat16())
    )
    assert half == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("route", ["each_layer", "one_route", "samples"])
def test_a_window_goes_with_token_dropping(attention: str, route: Route) -> None:
    """What is kept in a layer sees what is kept of its own block: other blocks' tokens change nothing."""
    network, rows = network_of(attention), some_rows()
    drop = TokenDrop.attach(network, layers=[1, 2], seed=1, route=route)
    other = rows.clone()
    other[:, 4:8] = (other[:, 4:8] + 1) % 128
    for step in range(5):
        drop.set_step(step, kept=8, rows_B=torch.arange(2), rows=2)
        before, after = (logits_of(network, tokens, 4) for tokens in (rows, other))
        assert torch.equal(before[:, :4], after[:, :4])
        assert torch.equal(before[:, 8:], after[:, 8:])
        assert (before[:, 4:8] != after[:, 4:8]).any(-1).all()
        drop.set_step(step, kept=LENGTH, rows_B=torch.arange(2), rows=2)
        assert not torch.equal(logits_of(network, rows, 4), before)
