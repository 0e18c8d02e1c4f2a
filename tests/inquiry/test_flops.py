"""Operations by the formula equal those that torch counts in a forward and backward pass of the real models."""

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dataeff.families import gpt
from dataeff.inquiry.flops import training_flops
from dataeff.plan import steps_table
from dataeff.study.specs import dropped_layers
from dataeff.study.types import Model, Run
from dataeff.token_drop import TokenDrop
from tests.factory import LTD, SEQTRU, paper_plan_spec

LAYERS, HIDDEN, LENGTH, VOCABULARY, ROWS = 4, 32, 24, 128, 3
MODEL = Model(layers=LAYERS, hidden=HIDDEN, heads=2, sequence_length=LENGTH, dropout=0.0)


def one_step(rows: int, length: int, kept: int) -> pd.DataFrame:
    return pd.DataFrame({"rows": [rows], "sequence_length": [length], "kept_tokens": [kept]})


def eager_gpt() -> Any:
    network = gpt.build_model(MODEL, vocabulary=VOCABULARY, eos_id=0)
    network.set_attn_implementation("eager")
    return network.train()


def counted(loss: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return int(counter.get_total_flops())


def rows_of(length: int) -> torch.Tensor:
    return torch.arange(ROWS * (length + 1)).reshape(ROWS, length + 1) % VOCABULARY


@pytest.mark.parametrize("length", [LENGTH, 8])
def test_gpt(length: int) -> None:
    network = eager_gpt()
    expected = counted(lambda: gpt.loss_sum(network, rows_of(length))[0])
    assert training_flops("gpt", MODEL, VOCABULARY, 0, one_step(ROWS, length, length)).total == expected


def test_gpt_with_dropped_tokens() -> None:
    network, kept = eager_gpt(), 8
    drop = TokenDrop.attach(network, layers=[1, 2], seed=1)
    drop.set_step(0, kept=kept, rows_B=torch.arange(ROWS))
    expected = counted(lambda: gpt.loss_sum(network, rows_of(LENGTH))[0])
    assert training_flops("gpt", MODEL, VOCABULARY, 2, one_step(ROWS, LENGTH, kept)).total == expected


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
    from transformers import MegatronBertConfig, MegatronBertForPreTraining

    config = MegatronBertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=LENGTH,
    )
    network = MegatronBertForPreTraining(config).train()
    tokens = rows_of(LENGTH)[:, :-1].contiguous()
    labels = {"labels": tokens, "next_sentence_label": torch.zeros(ROWS, dtype=torch.int64)}
    expected = counted(lambda: network(input_ids=tokens, **labels).loss)
    assert training_flops("bert", MODEL, VOCABULARY, 0, one_step(ROWS, LENGTH, LENGTH)).total == expected


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
