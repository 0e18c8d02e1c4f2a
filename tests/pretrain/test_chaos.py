"""Ranks killed at random, again and again: the run ends as one that nothing disturbed, bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.pretrain.test_loop import assert_identical
from tests.pretrain.training import Material, Training

KILLS = 20


def kill_a_rank(run: Training, rows: int, random: np.random.Generator) -> bool:
    """Kills one of two ranks: some time after this start's log holds `rows` rows or, one time in five, while it starts.
    The other ends by itself or, as torchrun would do it, soon after. Whether it was killed before the run was done.
    """
    log, before = run.state / "metrics.jsonl", None
    if log.exists():
        before = log.stat().st_ino  # a start writes it anew
    ranks = run.start_ranks(2)
    if random.random() < 0.2:
        time.sleep(random.uniform(0, 2))
    else:
        run.wait_for(ranks.processes[0], lambda: log.exists() and log.stat().st_ino != before)
        ranks.wait_for_rows(rows)
        time.sleep(random.uniform(0, 0.1))
    killed = int(random.integers(2))
    ranks.signal(signal.SIGKILL, killed)
    ranks.processes[1 - killed].join(5)
    ranks.signal(signal.SIGKILL)
    ends = ranks.ends()
    assert set(ends) <= {0, 1, -signal.SIGKILL}, run.log
    return 0 not in ends


def test_killed_twice(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    run, random = material.training("composed", tmp_path), np.random.default_rng()
    for rows in sorted(random.integers(0, 12, size=2)):
        kill_a_rank(run, int(rows), random)
    assert_identical(run.finish_ranks(2), two_ranks)


def test_killed_while_saving(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    run = material.training("composed", tmp_path)
    ranks = run.start_ranks(2)
    run.wait_for(ranks.processes[0], lambda: 3 in run.checkpoints and bool(list(run.state.glob(".saving-*"))))
    ranks.kill()
    assert run.checkpoints == [3]
    assert list(run.state.glob(".saving-00000006"))
    assert_identical(run.finish_ranks(2), two_ranks)
    assert "continues after step 3 " in run.log


@pytest.mark.slow
def test_killed_twenty_times(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    """All through the run, with a checkpoint after each step, so that many are killed in the middle of one. A run that
    gets to its end in between must be right, and the next one is killed.
    """
    random, kills, runs = np.random.default_rng(), 0, []
    last = len(two_ranks.metrics) - 2
    while kills < KILLS:
        runs.append(material.training("composed", tmp_path / str(len(runs)), checkpoint_every=1))
        for rows in sorted(random.integers(0, last, size=KILLS - kills)):
            if not kill_a_rank(runs[-1], int(rows), random):
                break
            kills += 1
        assert_identical(runs[-1].finish_ranks(2), two_ranks)
    assert sum(run.log.count("continues after step") for run in runs) > KILLS // 3
