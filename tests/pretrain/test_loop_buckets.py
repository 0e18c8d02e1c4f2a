"""Runs on length buckets: what each step reads, and that neither a kill nor the hardware changes it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dataeff.errors import DataeffError
from dataeff.families.batch import Cut
from dataeff.families.gpt import Gpt
from dataeff.plan import TrainingPlan
from dataeff.samples import BucketSamples, build
from dataeff.study.specs import SamplesSpec, read_spec, write_specs
from dataeff.study.types import Run, Variant
from dataeff.tokens.vocabulary import load
from tests.pretrain.training import CHECKPOINT_EVERY, STEPS, Material, Training, study_of

NAME = "length_buckets"
VARIANT = {"curriculum": {"seqlen": {"apply": "bucket", "pacing": {"start": "1/8", "end": 1, "over": "0.384"}}}}


@dataclass(frozen=True)
class Bucketed(Material):
    """The samples of the runs in buckets."""

    def item(self, family: str) -> Path:
        return self.tokenized(family) / f"{family}-64-buckets"


@pytest.fixture(scope="module")
def bucketed(material: Material) -> Bucketed:
    """One variant, without dropout, beside the material of the other tests."""
    study = study_of(material.folder, "bucketed", dropout=0.0)
    run = Run(family="gpt", variant=NAME, data=Fraction(1), seed=1234)
    changes = {"grids": {"core": [run]}, "variants": {"gpt": {NAME: Variant.model_validate(VARIANT)}}}
    made = Bucketed(material.folder, study.model_copy(update=changes))
    write_specs(made.study, made.folder / "results")
    spec = read_spec(made.data / "specs/bpe320/gpt-64-buckets/samples.yaml", SamplesSpec)
    build(spec, made.token_files("gpt"), made.item("gpt") / "samples")
    made.make_plans()
    return made


@pytest.fixture(scope="module")
def finished(bucketed: Bucketed, tmp_path_factory: pytest.TempPathFactory) -> Training:
    return bucketed.training(NAME, tmp_path_factory.mktemp("finished")).finish()


def test_a_step_trains_on_rows_of_its_bucket(bucketed: Bucketed, finished: Training) -> None:
    plan = TrainingPlan.load(bucketed.scale / "plan" / finished.name)
    assert len(finished.metrics) == len(plan.steps) == STEPS
    assert [row["sequence_length"] for row in finished.metrics] == plan.steps["sequence_length"].tolist()
    assert {16, 64} <= {row["sequence_length"] for row in finished.metrics} <= {8, 16, 32, 64}
    assert [row["raw_tokens"] for row in finished.metrics] == [8 * 64 * (step + 1) for step in range(STEPS)]
    assert finished.losses[-3:].mean() < finished.losses[:3].mean() - 0.1

    samples = BucketSamples(bucketed.item("gpt") / "samples", bucketed.token_files("gpt"))
    family = Gpt(load(bucketed.tokenized("gpt") / "tokenizer"))
    for step, (ids, length) in enumerate(zip(plan.order.iterate(), plan.steps["sequence_length"], strict=True)):
        batch = family.step_batch(samples, ids, Cut(int(length), None, False, 1234, step))
        assert batch.arrays["tokens"].shape == (8 * 64 // length, length + 1)
        assert batch.counts == {"loss": 8 * 64}


def test_the_first_loss_is_that_of_the_first_rows(bucketed: Bucketed, finished: Training) -> None:
    """An untrained model knows next to nothing: the loss is near ln of the vocabulary, whatever the rows' length."""
    vocabulary = load(bucketed.tokenized("gpt") / "tokenizer").padded_vocab_size()
    assert finished.losses[0] == pytest.approx(np.log(vocabulary), abs=0.25)


def test_neither_kill_nor_micro_batch_changes_it(bucketed: Bucketed, finished: Training, tmp_path: Path) -> None:
    killed = bucketed.training(NAME, tmp_path / "killed")
    killed.kill_after(CHECKPOINT_EVERY + 2)
    killed.finish()
    assert (killed.out / "metrics.jsonl").read_bytes() == (finished.out / "metrics.jsonl").read_bytes()
    assert (killed.out / "model.safetensors").read_bytes() == (finished.out / "model.safetensors").read_bytes()
    other = bucketed.training(NAME, tmp_path / "other", micro_batch=3).finish()
    assert np.abs(other.losses - finished.losses).max() < 1e-5


def test_samples_of_one_length_are_refused(bucketed: Bucketed, material: Material) -> None:
    plan = TrainingPlan.load(bucketed.scale / "plan" / f"gpt-{NAME}-100-s1234")
    family = Gpt(load(bucketed.tokenized("gpt") / "tokenizer"))
    samples = family.open_samples(material.item("gpt") / "samples", material.token_files("gpt"))
    with pytest.raises(DataeffError, match=r"all of 64 tokens, step 1 of the plan takes a length bucket of 8"):
        family.step_batch(samples, plan.order.samples(0) % len(samples), Cut(8, None, False, 1234, 0))
