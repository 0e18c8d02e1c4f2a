"""Whole BERT runs through the same loop: both losses, lengths, kills, ranks, and a folder that opens again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataeff.families.bert import Bert
from dataeff.files import check_manifest, read_json
from dataeff.plan import TrainingPlan
from dataeff.pretrain.probe import probe_measures
from dataeff.samples import PairSamples
from dataeff.tokens.vocabulary import load
from tests.pretrain.test_loop import FROM_THE_PLAN, assert_close, assert_identical
from tests.pretrain.training import CHECKPOINT_EVERY, VARIANTS, Material, Training, study_of

EXACT = ("batch_length", "masked_tokens")


@pytest.fixture(scope="module")
def runs(material: Material, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Training]:
    """Runs with dropout that nothing interrupted, by variant."""
    folder = tmp_path_factory.mktemp("bert")
    return {variant: material.training(variant, folder / variant, "bert").finish() for variant in VARIANTS["bert"]}


@pytest.fixture(scope="module")
def one_process(still: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """The composed run without dropout: one process, micro-batches of 8."""
    return still.training("composed", tmp_path_factory.mktemp("bert_one_process"), "bert").finish()


def samples_of(material: Material) -> PairSamples:
    tokenizer = load(material.tokenized("bert") / "tokenizer")
    return Bert(tokenizer).open_samples(material.item("bert") / "samples", material.token_files("bert"))


@pytest.mark.parametrize("variant", VARIANTS["bert"])
def test_metrics_are_the_plan_s_and_the_loss_is_the_sum_of_its_parts(
    material: Material, runs: dict[str, Training], variant: str
) -> None:
    run = runs[variant]
    steps = TrainingPlan.load(material.scale / "plan" / run.name).steps
    for name, column in FROM_THE_PLAN.items():
        assert [row[name] for row in run.metrics] == steps[column].tolist()
    for row in run.metrics:
        assert row["loss"] == row["mlm_loss"] + row["sentence_order_loss"]
    masked = [row["mlm_loss"] for row in run.metrics]
    assert abs(masked[0] - np.log(384)) < 0.1  # nothing learned: one of 384 pieces
    assert abs(run.metrics[0]["sentence_order_loss"] - np.log(2)) < 0.05
    assert np.mean(masked[-3:]) < masked[0] - 0.7
    last = run.metrics[-1]
    assert 0 <= last["heldout_sentence_order_accuracy"] <= 1
    facts = read_json(run.out / "run.json")
    for name in ("heldout_loss", "heldout_sentence_order_loss", "heldout_sentence_order_accuracy"):
        assert facts[name] == last[name]


@pytest.mark.parametrize("variant", VARIANTS["bert"])
def test_lengths_are_those_of_the_method(material: Material, runs: dict[str, Training], variant: str) -> None:
    """Whole for the baseline, of the step's longest sample where samples are selected, of the plan where truncated."""
    run, samples = runs[variant], samples_of(material)
    plan = TrainingPlan.load(material.scale / "plan" / run.name)
    longest = [samples.batch(plan.order.samples(step)).lengths.max() for step in range(len(plan.steps))]
    expected = {
        "baseline": [64] * len(plan.steps),
        "cl_voc": [-(-int(length) // 8) * 8 for length in longest],
        "composed": plan.steps["sequence_length"].tolist(),
    }
    assert [row["batch_length"] for row in run.metrics] == expected[variant]
    assert variant == "baseline" or min(expected[variant]) < 64


def test_the_folder_opens_with_the_library(material: Material, runs: dict[str, Training]) -> None:
    """Its weights and its tokenizer give the held-out measures that the run wrote down."""
    import torch
    from transformers import AutoConfig, AutoModelForPreTraining, AutoTokenizer

    from dataeff.evaluate.model import open_model

    out = runs["composed"].out
    assert check_manifest(out) is None
    assert AutoConfig.from_pretrained(out).architectures == ["MegatronBertForPreTraining"]
    library, loading = AutoModelForPreTraining.from_pretrained(out, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    torch.set_num_threads(1)
    opened = open_model(out, 8)
    assert opened.lm is None
    assert not opened.network.training
    for name, tensor in opened.network.state_dict().items():
        assert torch.equal(library.state_dict()[name], tensor)
    batch = opened.family.probe_batch(material.data / "heldout", 64)
    measures = probe_measures(opened.network, opened.family, batch, 8, "cpu")
    facts = read_json(out / "run.json")
    for name, value in measures.items():
        assert value == pytest.approx(facts[f"heldout_{name}"], abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(tokenizer("Ba ke ti.", add_special_tokens=False)["input_ids"]).startswith("ba ke ti")


@pytest.mark.parametrize("variant", ["composed"])
def test_killed_a_run_ends_identically(
    material: Material, runs: dict[str, Training], tmp_path: Path, variant: str
) -> None:
    run = material.training(variant, tmp_path, "bert")
    for rows in (2 * CHECKPOINT_EVERY, 11):
        run.kill_after(rows)
    assert_identical(run.finish(), runs[variant])
    assert "continues after step" in run.log


def test_micro_batches_change_nothing_but_the_order_of_additions(
    still: Material, one_process: Training, tmp_path: Path
) -> None:
    """Masks are counted over the whole step, so that parts with more of them weigh more."""
    run = still.training("composed", tmp_path, "bert", micro_batch=3)
    assert_close(run.finish(), one_process, EXACT)


def test_two_processes_train_as_one(still: Material, one_process: Training, tmp_path: Path) -> None:
    run = still.training("composed", tmp_path, "bert", processes=2)
    assert_close(run.finish_with_torchrun(), one_process, EXACT)


def test_samples_longer_than_the_model_are_refused(material: Material, tmp_path: Path) -> None:
    small = Material(material.folder, study_of(material.folder, "small", sequence_length=32))
    small.make_plans()
    run = small.training("baseline", tmp_path, "bert")
    said = run.fail().splitlines()[-1]
    assert said == (
        f"dataeff: error: {material.item('bert') / 'samples'}: its samples have 64 tokens, the model of {run.name} "
        f"takes 32; make samples of that sequence_length"
    )
    assert not run.out.exists()
