"""The held-out probe: which rows, when, and that taking it leaves no trace."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.families import find_family
from dataeff.families.batch import StepBatch
from dataeff.families.bert import PROBE_PAIRS_PER_DOMAIN
from dataeff.families.gpt import PROBE_ROWS_PER_DOMAIN
from dataeff.plan import TrainingPlan
from dataeff.pretrain.probe import probe_measures, probe_steps
from dataeff.study.types import Model
from dataeff.tokens.tokenizer import load
from tests.pretrain.training import STEPS, VARIANTS, Material

MODEL = Model(layers=2, hidden=16, heads=2, sequence_length=64, dropout=0.5)


def test_steps_at_equal_spacing_of_effective_tokens() -> None:
    tokens = np.cumsum([1, 1, 2, 4, 4, 4, 4, 4, 4, 4])  # 32 in all
    assert sorted(probe_steps(tokens, 4, 32)) == [3, 5, 7, 9]
    assert sorted(probe_steps(tokens, 1, 32)) == sorted(probe_steps(tokens, 0, 32)) == [9]
    assert sorted(probe_steps(tokens, 1000, 32)) == list(range(10))
    assert sorted(probe_steps(tokens[:8], 3, 32)) == [3, 5, 7]  # cut at 24 of 32: marks at 8, 16, 24


@given(
    budget=st.integers(1, 10_000),
    points=st.integers(1, 40),
    plans=st.lists(st.lists(st.integers(1, 300), min_size=40, max_size=40), min_size=1, max_size=4),
)
def test_all_runs_of_a_budget_are_measured_at_the_same_tokens(budget: int, points: int, plans: list[list[int]]) -> None:
    """At each part of the budget, every run has a probe less than a step of its own later, and one at its end."""
    for steps in plans:
        repeated = np.cumsum(steps * (budget // sum(steps) + 1))
        consumed = repeated[: int(np.searchsorted(repeated, budget)) + 1]  # as a plan ends: see plan.steps_table
        probes = probe_steps(consumed, points, budget)
        assert max(probes) == len(consumed) - 1
        assert len(probes) <= points
        marks = [Fraction(budget * point, points) for point in range(1, points + 1)]
        before = np.concatenate([[0], consumed])
        for mark in marks:
            assert any(before[step] < mark <= consumed[step] for step in probes)
        for step in probes:
            assert any(before[step] < mark <= consumed[step] for mark in marks)


def test_variants_of_a_budget_take_their_probes_at_the_same_tokens(material: Material) -> None:
    """The plans of real variants: the n-th probe of each lies within a step of the n-th part."""
    for variant in VARIANTS["gpt"]:
        plan = TrainingPlan.load(material.scale / "plan" / f"gpt-{variant}-100-s1234")
        consumed = plan.steps["cumulative_effective_tokens"].to_numpy()
        found = sorted(probe_steps(consumed, 5, plan.facts["target_tokens"]))
        assert len(found) == 5
        assert found[-1] == len(consumed) - 1
        for part, step in enumerate(found, start=1):
            late = consumed[step] - STEPS * 8 * 64 * part / 5
            assert 0 <= late < plan.steps["effective_tokens"].iloc[step]


def probe_of(material: Material, family: str, length: int = 64) -> StepBatch:
    made = find_family(family)(load(material.tokenized(family) / "tokenizer"))  # type: ignore[arg-type]
    return made.probe_batch(material.data / "heldout", length)


def test_gpt_s_rows_are_the_heldout_text_s_first(material: Material) -> None:
    rows = probe_of(material, "gpt").arrays["tokens"]
    assert rows.shape == (PROBE_ROWS_PER_DOMAIN, 65)
    (path,) = (material.data / "heldout").glob("*.jsonl.zst")
    encoder = load(material.tokenized("gpt") / "tokenizer")
    tokens = [token for document in read_documents(path) for token in [*encoder.encode(document.text), encoder.eos_id]]
    assert rows.flatten().tolist() == tokens[: PROBE_ROWS_PER_DOMAIN * 65]
    with pytest.raises(DataeffError, match="no held-out text of at least 100001 tokens"):
        probe_of(material, "gpt", 100_000)


def test_bert_s_are_masked_pairs_of_the_heldout_text(material: Material) -> None:
    batch, again = probe_of(material, "bert"), probe_of(material, "bert")
    assert 4 <= batch.rows <= PROBE_PAIRS_PER_DOMAIN
    for name, array in batch.arrays.items():
        assert np.array_equal(array, again.arrays[name])
    assert batch.counts["mlm_loss"] > 0.1 * batch.arrays["lengths"].sum()
    original = np.where(batch.arrays["labels"] < 0, batch.arrays["tokens"], batch.arrays["labels"])
    (path,) = (material.data / "heldout").glob("*.jsonl.zst")
    encoder = load(material.tokenized("bert") / "tokenizer")
    sentences = [f"{part}." for document in read_documents(path) for part in document.text.split(".")]
    heldout = {tuple(encoder.encode(sentence)) for sentence in sentences}
    middle = [tuple(row[1 : row.tolist().index(encoder.sep_id)]) for row in original]
    # Segments of a whole sentence are found in the text; of others, the frame cuts ends off or joins several.
    assert any(segment in heldout for segment in middle)


@pytest.mark.parametrize("name", ["gpt", "bert"])
def test_the_probe_does_not_depend_on_the_micro_batch_and_leaves_no_trace(material: Material, name: str) -> None:
    family = find_family(name)(load(material.tokenized(name) / "tokenizer"))  # type: ignore[arg-type]
    network = family.build_model(MODEL).train()
    batch = family.probe_batch(material.data / "heldout", 64)
    before = torch.get_rng_state()
    found = [probe_measures(network, family, batch, micro_batch, "cpu") for micro_batch in (1, 3, 8)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-5)  # dropout is off
    assert network.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in network.parameters())
