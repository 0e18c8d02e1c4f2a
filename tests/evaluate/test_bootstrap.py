from __future__ import annotations

import random

import numpy as np
import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.bootstrap import RESAMPLES, averaged, paired, resampled
from dataeff.evaluate.rescore import TaskItems, task_items


def items(values: list[float], names: list[str] | None = None, aggregation: str = "mean") -> TaskItems:
    names = names or [str(number) for number in range(len(values))]
    records = [{"item": name, "metrics": {"m": value}} for name, value in zip(names, values, strict=True)]
    return task_items(records, "m", aggregation)


def answers(seed: int, share: float, count: int = 200) -> list[float]:
    drawn = random.Random(seed)
    return [float(drawn.random() < share) for _ in range(count)]


def test_a_difference_is_of_the_values_and_its_interval_that_of_plain_resampling() -> None:
    """Against the same thing item by item with another generator: the quantiles agree within their own error."""
    ours, theirs = answers(1, 0.6), answers(2, 0.5)
    found = paired([items(ours)], [items(theirs)], "t")
    assert found.value == pytest.approx(sum(ours) / 200 - sum(theirs) / 200)
    drawn = random.Random(7)
    spread = []
    for _ in range(4000):
        chosen = drawn.choices(range(200), k=200)
        spread.append(sum(ours[item] - theirs[item] for item in chosen) / 200)
    low, high = np.quantile(spread, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_what_both_find_hard_leaves_no_trace() -> None:
    """Pairing: the interval is that of the few items that differ, far narrower than of two separate samples."""
    ours = answers(3, 0.5)
    theirs = [1 - value if number < 4 else value for number, value in enumerate(ours)]
    found = paired([items(ours)], [items(theirs)], "t")
    assert found.high - found.low < 0.05
    apart = resampled("t", [items(ours)])[0]
    assert np.quantile(apart, 0.975) - np.quantile(apart, 0.025) > 0.12
    same = paired([items(ours)], [items(ours)], "t")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_the_same_items_give_the_same_interval_and_others_another() -> None:
    one, other = items(answers(1, 0.6)), items(answers(2, 0.5))
    assert paired([one], [other], "t") == paired([one], [other], "t")
    assert paired([one], [other], "t") != paired([one], [other], "u")
    assert paired([one], [other], "t").low == pytest.approx(-paired([other], [one], "t").high)


def test_seeds_are_averaged_within_a_resample() -> None:
    ours, theirs = [items(answers(seed, 0.6)) for seed in (1, 2, 3)], [items(answers(seed, 0.5)) for seed in (4, 5, 6)]
    found = paired(ours, theirs, "t")
    assert found.value == pytest.approx(sum(a.value - b.value for a, b in zip(ours, theirs, strict=True)) / 3)
    singles = [paired([a], [b], "t") for a, b in zip(ours, theirs, strict=True)]
    assert found.high - found.low < min(single.high - single.low for single in singles)
    both = resampled("t", [*ours, *theirs])
    assert both.shape == (6, RESAMPLES)
    spread = both[:3].mean(axis=0) - both[3:].mean(axis=0)
    assert (found.low, found.high) == tuple(np.quantile(spread, [0.025, 0.975]))


def test_an_average_over_tasks_draws_items_within_each() -> None:
    """Two tasks of unlike sizes count alike; the interval is that of independent draws."""
    small, large = (answers(1, 0.6, 50), answers(2, 0.5, 50)), (answers(3, 0.7, 800), answers(4, 0.7, 800))
    tasks = {
        name: ([items(ours)], [items(theirs)]) for name, (ours, theirs) in {"small": small, "large": large}.items()
    }
    found = averaged(tasks)
    apart = {name: paired(*pair, name) for name, pair in tasks.items()}
    assert found.value == pytest.approx((apart["small"].value + apart["large"].value) / 2)
    width = np.sqrt(sum((one.high - one.low) ** 2 for one in apart.values())) / 2
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_other_aggregations_are_of_the_resampled_items() -> None:
    likelihoods = [-1.0, -2.0, -3.0, -4.0] * 20
    spread = resampled("t", [items(likelihoods, aggregation="perplexity")])[0]
    assert spread.mean() == pytest.approx(np.exp(2.5), rel=0.05)
    assert spread.std() == pytest.approx(np.exp(2.5) * np.std(likelihoods) / np.sqrt(80), rel=0.15)


def test_items_that_differ_cannot_be_paired() -> None:
    one = items([0.0, 1.0, 1.0], ["a", "b", "c"])
    for names in (["a", "c", "b"], ["a", "b", "d"]):
        with pytest.raises(DataeffError, match="task 't': 3 and 3 items, not the same ones"):
            paired([one], [items([0.0, 1.0, 1.0], names)], "t")
    with pytest.raises(DataeffError, match="3 and 2 items"):
        paired([one], [items([0.0, 1.0], ["a", "b"])], "t")
