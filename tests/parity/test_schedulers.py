"""Pacing equals the schedulers of the installed DeepSpeed at every step of the papers' runs."""

import numpy as np
import pytest

from dataeff.pacing import PacingSchedule


@pytest.mark.parametrize(
    ("start", "end", "total", "multiple", "root"),
    [
        (80, 2048, 110_000, 8, 1),
        (1, 100, 110_000, 1, 2),
        (128, 512, 960_000, 8, 1),
        (5, 100, 960_000, 8, 2),
        (8, 256, 84, 16, 1),
    ],
)
def test_curriculum_equals_deepspeed(start: int, end: int, total: int, multiple: int, root: int) -> None:
    from deepspeed.runtime.data_pipeline.curriculum_scheduler import CurriculumScheduler

    peer = CurriculumScheduler(
        {
            "min_difficulty": start,
            "max_difficulty": end,
            "schedule_type": "fixed_root",
            "schedule_config": {
                "total_curriculum_step": total,
                "difficulty_step": multiple,
                "root_degree": root,
            },
        }
    )
    steps = np.unique(
        np.concatenate([np.arange(1, 5000), np.arange(1, int(1.1 * total), 7), np.arange(total - 50, total + 50)])
    )
    steps = steps[steps > 0]
    ours = PacingSchedule(start, end, total, root, multiple, floor=-(-start // multiple) * multiple).at(steps)
    assert ours.tolist() == [peer.update_difficulty(int(step)) for step in steps]


@pytest.mark.parametrize(("start", "end", "total"), [(128, 2048, 200_000), (128, 512, 2_000_000), (16, 256, 154)])
def test_kept_tokens_equal_deepspeed(start: int, end: int, total: int) -> None:
    from deepspeed.runtime.data_pipeline.data_routing.scheduler import RandomLTDScheduler

    peer = RandomLTDScheduler(
        {
            "total_layer_num": 24,
            "random_ltd_layer_num": 22,
            "global_batch_size": 512,
            "layer_token_lr_schedule": {"enabled": False},
            "random_ltd_schedule": {
                "min_value": start,
                "max_value": end,
                "schedule_type": "fixed_linear",
                "schedule_config": {"require_steps": total, "seq_per_step": 16},
            },
        }
    )
    steps = np.unique(np.concatenate([np.arange(3000), np.arange(0, int(1.1 * total), 11)]))
    ours = PacingSchedule(start, end, total, root=1, multiple_of=16, floor=0).at(steps)
    theirs = []
    for step in steps:
        peer.update_seq(int(step))
        theirs.append(peer.get_current_seq())
    assert ours.tolist() == theirs
