import numpy as np
import pytest

from dataeff.learning_rate import layer_token_rates, learning_rates
from dataeff.study.types import LearningRate


def test_linear_decay_by_hand() -> None:
    schedule = LearningRate(peak=1.0, minimum=0.1, warmup_tokens=20, decay="linear")
    consumed = np.arange(10, 130, 10)
    # seen:   0  0  10   20  30 ...: warm-up 10/20, then 1 - 0.9 * (seen - 20) / 80
    assert learning_rates(schedule, 1.0, 100, consumed)[:5] == pytest.approx([0, 0, 0.5, 1.0, 1 - 0.9 / 8])
    assert learning_rates(schedule, 1.0, 100, consumed)[-1] == pytest.approx(0.1)


def test_a_last_rate_replaces_the_minimum() -> None:
    schedule = LearningRate(peak=1.0, minimum=0.1, warmup_tokens=20, decay="cosine")
    consumed = np.arange(10, 130, 10)
    assert learning_rates(schedule, 2.0, 100, consumed, minimum=1.5)[-1] == pytest.approx(1.5)
    assert learning_rates(schedule, 2.0, 100, consumed, minimum=0.0)[-1] == 0.0


def test_layer_token_rates_by_hand() -> None:
    """Steps of 10, 10, 20, 20, 40 layer tokens, warm-up 20: the middles of the steps are 5, 15, 30, 50, 80 of 100."""
    schedule = LearningRate(peak=1.0, minimum=0.0, warmup_tokens=20, decay="linear")
    rates = layer_token_rates(schedule, 1.0, np.array([10, 20, 40, 60, 100]), warmup=20)
    assert rates == pytest.approx([0.25, 0.75, 1 - 10 / 80, 1 - 30 / 80, 1 - 60 / 80])


def test_layer_token_rates_move_as_far_as_a_step_trains() -> None:
    """Two runs of the same layer tokens, in steps of half the size: the same rate at the same layer tokens."""
    schedule = LearningRate(peak=1.0, minimum=0.1, warmup_tokens=20)
    whole = layer_token_rates(schedule, 1.0, np.arange(40, 4040, 40), warmup=400)
    halves = layer_token_rates(schedule, 1.0, np.arange(20, 4020, 20), warmup=400)
    assert halves.reshape(-1, 2).mean(axis=1) == pytest.approx(whole, abs=2e-3)
