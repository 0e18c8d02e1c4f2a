"""Trainer with the callback trains what a plain loop on the same plan trains, on one rank or several."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dataeff.errors import DataeffError
from dataeff.library import PlannedCollator
from tests.factory import ROOT
from tests.library.loops import SAMPLES, composed_plan, trained_by_a_plain_loop, trainer_of, weights
from tests.library.planning import DROP, RESHAPE, TRUNCATE, small_gpt2, small_plan


@pytest.mark.parametrize(("curriculum", "workers"), [(TRUNCATE, 2), (RESHAPE, 0)])
def test_trainer_trains_what_a_plain_loop_does(tmp_path: Path, curriculum: dict[str, Any], workers: int) -> None:
    plan = composed_plan(curriculum)
    trainer = trainer_of(plan, tmp_path, dataloader_num_workers=workers)
    trainer.train()
    expected = weights(trained_by_a_plain_loop(plan))
    assert (expected - weights(small_gpt2())).norm() > 0.2
    torch.testing.assert_close(weights(trainer.model), expected, rtol=1e-4, atol=1e-6)


def test_two_ranks_train_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*command, "-m", "tests.library.loops", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    expected = weights(trained_by_a_plain_loop(composed_plan(RESHAPE)))
    for loop in ("plain", "trainer"):
        torch.testing.assert_close(torch.load(tmp_path / f"{loop}.pt"), expected, rtol=1e-4, atol=1e-6)


def test_a_resumed_trainer_ends_with_the_same_weights(tmp_path: Path) -> None:
    plan = composed_plan(TRUNCATE)
    whole = trainer_of(plan, tmp_path / "whole")
    whole.train()
    trainer_of(plan, tmp_path / "parts", max_steps=5, save_strategy="steps", save_steps=5).train()
    resumed = trainer_of(plan, tmp_path / "parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts/checkpoint-5"))
    torch.testing.assert_close(weights(resumed.model), weights(whole.model), rtol=1e-5, atol=1e-7)


def test_a_plan_without_a_learning_rate_leaves_the_trainers_own(tmp_path: Path) -> None:
    plan = small_plan(token_drop=DROP, learning_rate=None)
    trainer_of(plan, tmp_path, max_steps=1).train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradient_accumulation_steps": 3}, "accumulation_steps 3 are 6 samples a step, the plan has 8; make them eq"),
        ({"max_steps": 1000}, r"max_steps is 1000, the plan has 12; pass max_steps=len\(plan\)"),
        ({"optimizers": (None, None)}, r"its scheduler \(LambdaLR\) is not the plan's; pass optimizers=\(optimizer, "),
        ({"train_dataset": SAMPLES}, r"does not read this plan; pass train_dataset=PlannedDataset\(plan, dataset\)"),
        ({"train_sampling_strategy": "random"}, "read PlannedDataset in order"),
        ({"data_collator": PlannedCollator(small_plan(seed=5))}, r"pass data_collator=PlannedCollator\(plan\)"),
    ],
)
def test_arguments_that_would_run_something_else_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataeffError, match=message):
        trainer_of(small_plan(), tmp_path, **changes).train()
