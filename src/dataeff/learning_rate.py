"""The learning rate of every step, as a function of the tokens that were trained on before it (arXiv 2212.03597, 3.3).

Three clocks: the effective tokens of Megatron-DeepSpeed's code, with its delay of a step; the tokens summed over the
layers, as the Random-LTD paper proposes; and the raw tokens, which both papers compare with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataeff.study.types import LearningRate

Column = NDArray[np.int64]
Rates = NDArray[np.float64]


def learning_rates(
    schedule: LearningRate, peak: float, total_tokens: int, consumed: Column, minimum: float | None = None
) -> Rates:
    """Learning rate of each step; `consumed` is the cumulative effective (or raw) tokens after each step.

    The decay is a function of tokens; the warm-up one of tokens or of steps. Upstream's scheduler steps before the
    step's tokens are counted, so step t (0-based) sees the tokens of steps 0..t-2; steps 0 and 1 therefore have a
    rate of 0 under a warm-up over tokens. A warm-up over steps gives t / warmup_steps, and the decay begins at the
    tokens seen when it ends. `minimum`: the last rate, where it is not the schedule's.
    """
    seen = np.concatenate([[0, 0], consumed])[: len(consumed)].astype(np.float64)
    if schedule.warmup_steps:
        step = np.arange(len(seen))
        rising = peak * step / schedule.warmup_steps
        warmup = float(seen[min(schedule.warmup_steps, len(seen) - 1)])
        return _then_decay(schedule, peak, minimum, seen, warmup, total_tokens, rising, step <= schedule.warmup_steps)
    warmup = float(schedule.warmup_tokens)
    rising = peak * seen / max(1.0, warmup)
    warm = seen <= warmup if warmup else np.zeros(len(seen), dtype=bool)
    return _then_decay(schedule, peak, minimum, seen, warmup, total_tokens, rising, warm)


def layer_token_rates(
    schedule: LearningRate, peak: float, consumed: Column, warmup: int, minimum: float | None = None
) -> Rates:
    """The LayerToken schedule (arXiv 2211.11586, 3.3 and appendix C): warm-up and decay alike follow the tokens summed
    over the layers, so that a step moves the schedule by as much as it trains.

    `consumed`: cumulative layer tokens after each step, whose last is where the decay ends; `warmup`: the layer tokens
    of the warm-up, at full length. No released code has this schedule; here a step has the rate of the tokens before
    it, without upstream's delay of another step, and its first rate is that of its own tokens, above 0.
    """
    before = np.concatenate([[0], consumed[:-1]]).astype(np.float64)
    # In the middle of a step, so that neither the first nor the last step stands still.
    seen = (before + consumed) / 2
    rising = peak * seen / max(1, warmup)
    return _then_decay(schedule, peak, minimum, seen, float(warmup), int(consumed[-1]), rising, seen <= warmup)


def _then_decay(
    schedule: LearningRate,
    peak: float,
    minimum: float | None,
    seen: Rates,
    warmup: float,
    total: int,
    rising: Rates,
    warm: NDArray[np.bool_],
) -> Rates:
    lowest = schedule.minimum if minimum is None else minimum
    fraction = np.clip((seen - warmup) / max(1.0, total - warmup), 0.0, 1.0)
    shape = 0.5 * (np.cos(np.pi * fraction) + 1.0) if schedule.decay == "cosine" else 1.0 - fraction
    return np.where(warm, rising, lowest + (peak - lowest) * shape)
