"""Operations by the formula equal those that torch counts in a forward and backward pass of the real models."""

from fractions import Fraction
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dataeff.families import gpt, masking
from dataeff.families.bert_network import new_network
from dataeff.inquiry import flops as formula
from dataeff.inquiry.flops import training_flops
from dataeff.plan import steps_table
from dataeff.study import types
from dataeff.study.specs import dropped_layers
from dataeff.study.types import Model, Run
from dataeff.token_drop import Route, TokenDrop
from tests.factory import LTD, SEQTRU, paper_plan_spec, small_plan_spec
from tests.families.pieces import MASKER, batch_of, framed

LAYERS, HIDDEN, LENGTH, VOCABULARY, ROWS = 4, 32, 24, 128, 3
MODEL = Model(layers=LAYERS, hidden=HIDDEN, heads=2, sequence_length=LENGTH, dropout=0.0)


def one_step(rows: int, length: int, kept: int | None = None, window: int | None = None) -> pd.DataFrame:
    """A plan of one step; without `window` there is no such column."""
    columns = {"rows": rows, "sequence_length": length, "kept_tokens": kept or length}
    return pd.DataFrame([columns if window is None else {**columns, "window": window}])


def dropping(route: str) -> types.TokenDrop:
    return types.TokenDrop.model_validate({**LTD, "route": route})


def eager_gpt() -> Any:
    network = gpt.build_model(MODEL, vocabulary=VOCABULARY, eos_id=0)
    network.set_attn_implementation("eager")
    return network.train()


def counted(loss: Any) -> int:
    """Fused attention in its plain form, whose products torch counts on a CPU too."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss().backward()
    return int(counter.get_total_flops())


def rows_of(length: int) -> torch.Tensor:
    return torch.arange(ROWS * (length + 1)).reshape(ROWS, length + 1) % VOCABULARY


@pytest.mark.parametrize("length", [LENGTH, 8])
def test_gpt(length: int) -> None:
    network = eager_gpt()
    expected = counted(lambda: gpt.loss_sum(network, rows_of(length))[0])
    assert training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, length, length)).total == expected


@pytest.mark.parametrize("route", get_args(Route))
def test_gpt_with_dropped_tokens(route: Route) -> None:
    """8 of 24 tokens of each row, or 1 of 3 rows."""
    network, kept = eager_gpt(), 8
    drop = TokenDrop.attach(network, layers=[1, 2], seed=1, route=route)
    drop.set_step(0, kept=kept, rows_B=torch.arange(ROWS), rows=ROWS)
    expected = counted(lambda: gpt.loss_sum(network, rows_of(LENGTH))[0])
    table = one_step(ROWS, LENGTH, kept)
    assert training_flops("gpt", MODEL, VOCABULARY, 2, table, drop=dropping(route)).total == expected


def test_whole_rows_that_are_kept_attend_over_their_whole_length() -> None:
    """5 rows of 24 tokens with 10 kept: floor(5 * 10 / 24) = 2 rows go through 2 of 4 layers."""
    flops = training_flops("gpt", MODEL, VOCABULARY, 2, one_step(5, 24, 10), drop=dropping("samples"))
    assert flops.weights == 3 * 24 * 32**2 * (2 * 5 * 24 + 2 * 2 * 24)
    assert flops.attention == 3 * 4 * 32 * (2 * 5 * 24**2 + 2 * 2 * 24**2)
    tokens = training_flops("gpt", MODEL, VOCABULARY, 2, one_step(5, 24, 10), drop=dropping("one_route"))
    assert tokens.weights == 3 * 24 * 32**2 * (2 * 5 * 24 + 2 * 5 * 10)
    assert tokens.attention == 3 * 4 * 32 * (2 * 5 * 24**2 + 2 * 5 * 10**2)
    assert tokens == training_flops("gpt", MODEL, VOCABULARY, 2, one_step(5, 24, 10), drop=dropping("each_layer"))


def test_a_window_counts_its_blocks() -> None:
    """24 tokens in blocks of 10, 10 and 4; and 8 by 8 the same as rows of 8."""
    flops = training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, 24, window=10))
    assert flops.attention == 3 * 4 * 32 * LAYERS * ROWS * (10**2 + 10**2 + 4**2)
    assert flops.weights == training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, 24)).weights
    blocks = training_flops("gpt", MODEL, VOCABULARY, 0, one_step(3 * ROWS, 8))
    assert training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, 24, window=8)) == blocks
    whole = training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, 24))
    assert training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, 24, window=64)) == whole


def test_the_mask_of_a_window_computes_the_whole_square() -> None:
    network = eager_gpt()
    expected = counted(lambda: gpt.loss_sum(network, rows_of(LENGTH), window=8)[0])
    assert training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, LENGTH)).total == expected


@pytest.mark.parametrize(("length", "kept", "window"), [(8, 5, 3), (8, 3, 8), (7, 1, 2), (1, 1, 1)])
def test_a_window_over_kept_tokens_is_the_mean_of_all_draws(length: int, kept: int, window: int) -> None:
    draws = [np.bincount(np.array(draw) // window) for draw in combinations(range(length), kept)]
    mean = np.mean([(blocks**2).sum() for blocks in draws])
    flops = training_flops("gpt", MODEL, VOCABULARY, LAYERS, one_step(1, length, kept, window))
    assert flops.attention == pytest.approx(3 * 4 * 32 * LAYERS * mean)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_gpt_with_recomputation() -> None:
    """The reentrant kind runs a layer's whole forward pass again; the other one stops before its last product."""
    network = eager_gpt()
    network.gradient_checkpointing_enable({"use_reentrant": True})
    network.enable_input_require_grads()
    expected = counted(lambda: gpt.loss_sum(network, rows_of(LENGTH))[0])
    table = one_step(ROWS, LENGTH, LENGTH)
    flops = training_flops("gpt", MODEL, VOCABULARY, 0, table, recompute=True)
    assert flops.total == expected
    assert flops.recomputed == pytest.approx((flops.weights + flops.attention) / 3)


def test_bert() -> None:
    """Rows of 20 tokens, of which 15% are 3 places."""
    network = new_network(MODEL, vocabulary=VOCABULARY, pad_id=0).train()
    tokens, lengths = rows_of(20)[:, :-1].contiguous(), torch.full((ROWS,), 20)
    places = torch.tensor([20 * row + place for row in range(ROWS) for place in (1, 5, 7)])

    def loss() -> Any:
        logits, order = network(input_ids=tokens, token_type_ids=tokens % 2, lengths=lengths, places=places)
        return logits.sum() + order.sum()

    flops = training_flops("bert", MODEL, VOCABULARY, 0, one_step(ROWS, 20))
    assert flops.total == counted(loss)
    transform, projection, pooler, order = 2 * 32 * 32, 2 * 32 * VOCABULARY, 2 * 32 * 32, 2 * 32 * 2
    assert flops.head == 3 * ROWS * (3 * (transform + projection) + pooler + order)
    assert flops.attention == 3 * ROWS * LAYERS * 4 * 32 * 20**2


def test_the_masked_share_is_that_of_the_masking() -> None:
    assert formula.MASKED_SHARE == masking.SHARE
    rows = np.random.default_rng(1).integers(5, 64, (200, 2, 100)).tolist()
    batch = batch_of([framed(*row, width=203) for row in rows])
    _, labels = MASKER.mask(batch, np.full(200, 200), key=1)
    assert (labels != masking.IGNORED).mean() == pytest.approx(formula.MASKED_SHARE, abs=0.003)


def test_steps_add_up_and_kept_tokens_above_the_length_change_nothing() -> None:
    steps = [(3, 24, 8), (5, 8, 24), (2, 16, 16)]
    table = pd.concat([one_step(*step) for step in steps], ignore_index=True)
    parts = [training_flops("gpt", MODEL, VOCABULARY, 2, one_step(*step)).total for step in steps]
    assert training_flops("gpt", MODEL, VOCABULARY, 2, table).total == pytest.approx(sum(parts))
    cut, whole = one_step(5, 8, 24), one_step(5, 8, 8)
    assert training_flops("gpt", MODEL, VOCABULARY, 2, cut) == training_flops("gpt", MODEL, VOCABULARY, 2, whole)


PAPER = Model(layers=24, hidden=2048, heads=16, sequence_length=2048)


def paper_flops(variant: dict[str, Any]) -> Any:
    spec = paper_plan_spec(variant, run=Run(family="gpt", variant="test", data=Fraction(1), seed=1))
    return training_flops("gpt", PAPER, 50_304, len(dropped_layers(spec.variant, 24)), steps_table(spec))


def test_the_baseline_is_6_n_d_and_attention() -> None:
    """N is 1.31 billion without positions, D 300 billion tokens."""
    flops = paper_flops({})
    parameters = 12 * 24 * 2048**2 + 50_304 * 2048
    assert flops.weights + flops.head == pytest.approx(6 * parameters * 3e11, rel=1e-3)
    assert flops.attention == pytest.approx(12 * 24 * 2048 * 2048 * 3e11, rel=1e-3)


def test_equal_effective_tokens_cost_about_the_same() -> None:
    baseline = paper_flops({}).total
    totals = np.array([paper_flops(variant).total for variant in ({"token_drop": LTD}, {"curriculum": SEQTRU})])
    assert (np.abs(totals / baseline - 1) < 0.02).all()
    assert (totals != baseline).all()


def test_buckets_have_rows_and_length_of_each_step() -> None:
    spec = small_plan_spec(
        {"curriculum": {"seqlen": {"apply": "bucket", "pacing": {"start": "1/8", "end": 1, "over": "1/2"}}}}
    )
    table = steps_table(spec)
    length = table["sequence_length"].to_numpy(np.float64)
    assert set(length) == {8, 16, 32, 64}
    assert set(table["rows"] * length) == {4 * 64}
    model = Model(layers=4, hidden=32, heads=2, sequence_length=64)
    flops = training_flops("gpt", model, VOCABULARY, 0, table)
    assert flops.weights == 3 * 24 * 32**2 * 4 * 4 * 64 * len(table)
    assert flops.attention == 3 * 4 * 32 * 4 * 4 * 64 * length.sum()
