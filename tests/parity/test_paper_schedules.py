"""The columns of the papers' composed rows, from config/, equal the installed DeepSpeed's schedulers at every step."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from dataeff.plan import schedules
from tests.test_papers import spec_of, table_of

FULL, HALF = Fraction(1), Fraction(1, 2)
CASES = [
    pytest.param("gpt", FULL, (80, 2048, 110_000), (1, 100, 110_000), (128, 2048, 200_000), id="gpt-100"),
    pytest.param(
        "gpt", Fraction(2, 3), (80, 2048, 73_000), (1, 100, 73_000), (128, 2048, 133_333),
        id="gpt-67",
    ),
    pytest.param(
        "gpt", HALF, (80, 2048, 55_000), (1, 100, 55_000), (128, 2048, 100_000), id="gpt-50"
    ),
    pytest.param(
        "bert", FULL, (128, 512, 960_000), (5, 100, 960_000), (128, 512, 2_000_000),
        id="bert-100", marks=pytest.mark.slow,
    ),
    pytest.param(
        "bert", Fraction(67, 100), (128, 512, 640_000), (5, 100, 640_000), (128, 512, 1_340_000),
        id="bert-67", marks=pytest.mark.slow,
    ),
    pytest.param(
        "bert", HALF, (128, 512, 480_000), (5, 100, 480_000), (128, 512, 1_000_000),
        id="bert-50", marks=pytest.mark.slow,
    ),
]  # fmt: skip
Range = tuple[int, int, int]


def curriculum(limits: Range, step: int, root: int, count: int) -> np.ndarray:
    """The difficulty at steps 1 to `count`, as the training loop asks for it."""
    from deepspeed.runtime.data_pipeline.curriculum_scheduler import CurriculumScheduler

    start, end, total = limits
    config = {"total_curriculum_step": total, "difficulty_step": step, "root_degree": root}
    peer = CurriculumScheduler(
        {"min_difficulty": start, "max_difficulty": end, "schedule_type": "fixed_root", "schedule_config": config}
    )
    return np.fromiter((peer.update_difficulty(number) for number in range(1, count + 1)), np.int64, count)


def kept_tokens(limits: Range, count: int) -> np.ndarray:
    """The kept tokens at steps 0 to `count` - 1."""
    from deepspeed.runtime.data_pipeline.data_routing.scheduler import RandomLTDScheduler

    start, end, total = limits
    pacing = {
        "min_value": start,
        "max_value": end,
        "schedule_type": "fixed_linear",
        "schedule_config": {"require_steps": total, "seq_per_step": 16},
    }
    peer = RandomLTDScheduler(
        {
            "total_layer_num": 24,
            "random_ltd_layer_num": 22,
            "global_batch_size": 512,
            "layer_token_lr_schedule": {"enabled": False},
            "random_ltd_schedule": pacing,
        }
    )

    def at(step: int) -> int:
        peer.update_seq(step)
        return int(peer.get_current_seq())

    return np.fromiter((at(step) for step in range(count)), np.int64, count)


@pytest.mark.parametrize(("family", "data", "length", "rarity", "drop"), CASES)
def test_every_step(family: str, data: Fraction, length: Range, rarity: Range, drop: Range) -> None:
    table = table_of(family, "composed", data)
    lengths = curriculum(length, 8, 1, len(table))
    assert (table["sequence_length"].to_numpy() == lengths).all()
    assert (table["vocab_rarity_percentile"].to_numpy() == curriculum(rarity, 1, 2, len(table))).all()
    # The table's kept tokens are at most the step's length; the schedule itself is what DeepSpeed's gives.
    kept = kept_tokens(drop, len(table))
    assert (schedules(spec_of(family, "composed", data))["token_drop"].at(np.arange(len(table))) == kept).all()
    assert (table["kept_tokens"].to_numpy() == np.minimum(kept, lengths)).all()
