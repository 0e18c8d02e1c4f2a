"""The held-out probe: which rows, when, and that taking it leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataeff.errors import DataeffError
from dataeff.families import gpt
from dataeff.pretrain.probe import ROWS_PER_DOMAIN, probe_loss, probe_rows, probe_steps
from dataeff.study.types import Model
from tests.pretrain.training import Material


def test_steps_at_equal_spacing_of_effective_tokens() -> None:
    tokens = np.cumsum([1, 1, 2, 4, 4, 4, 4, 4, 4, 4])  # 32 in all
    assert sorted(probe_steps(tokens, 4)) == [3, 5, 7, 9]
    assert sorted(probe_steps(tokens, 1)) == sorted(probe_steps(tokens, 0)) == [9]
    assert sorted(probe_steps(tokens, 1000)) == list(range(10))


def test_rows_are_the_heldout_text_s_first(material: Material) -> None:
    from dataeff.corpus.shard import read_documents
    from dataeff.tokens.tokenizer import load

    tokenizer = material.tokenized / "tokenizer"
    rows = probe_rows(material.data / "heldout", tokenizer, 64)
    assert rows.shape == (ROWS_PER_DOMAIN, 65)
    (path,) = (material.data / "heldout").glob("*.jsonl.zst")
    encoder = load(tokenizer)
    tokens = [token for document in read_documents(path) for token in [*encoder.encode(document.text), encoder.eos_id]]
    assert rows.flatten().tolist() == tokens[: ROWS_PER_DOMAIN * 65]
    with pytest.raises(DataeffError, match="no held-out text of at least 100001 tokens"):
        probe_rows(material.data / "heldout", tokenizer, 100_000)


def test_the_probe_does_not_depend_on_the_micro_batch_and_leaves_no_trace() -> None:
    model = Model(layers=2, hidden=16, heads=2, sequence_length=32, dropout=0.5)
    network = gpt.build_model(model, vocabulary=128, eos_id=0).train()
    rows = torch.randint(0, 128, (7, 33))
    before = torch.get_rng_state()
    losses = [probe_loss(network, rows, gpt.loss_sum, micro_batch) for micro_batch in (1, 3, 8)]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)  # dropout is off
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in network.parameters())
