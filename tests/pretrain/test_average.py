"""The average of weights, by hand and against numpy; the files that a resume continues it from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dataeff.errors import DataeffError
from dataeff.pretrain.average import WeightAverage, average_files, averaged_steps, newest_share, time_constant
from dataeff.study.types import Averaging


def last(count: int, over: str | int = 1) -> Averaging:
    return Averaging.model_validate({"kind": "last", "over": over, "count": count})


def ema(over: str | int) -> Averaging:
    return Averaging.model_validate({"kind": "ema", "over": over})


class Three(nn.Module):
    """Three numbers, the first of them used by two layers."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, 1, bias=False, dtype=dtype)
        self.middle = nn.Linear(1, 1, dtype=dtype)
        self.output = nn.Linear(1, 1, bias=False, dtype=dtype)
        self.output.weight = self.embedding.weight

    def put(self, *numbers: float) -> None:
        for parameter, number in zip(self.parameters(), numbers, strict=True):
            parameter.data.fill_(number)

    @property
    def numbers(self) -> list[float]:
        return [parameter.item() for parameter in self.parameters()]


def averaged(averaging: Averaging, states: Any, nominal: int | None = None) -> list[float]:
    """The three numbers that a run through these states exports."""
    network = Three()
    average = WeightAverage(network, averaging, len(states), nominal or len(states))
    for step, state in enumerate(states, start=1):
        network.put(*state)
        average.observe(step)
    average.replace_weights()
    return network.numbers


# --- which steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "averaging", "steps"),
    [
        (100, last(6, "1/5"), [84, 87, 90, 94, 97, 100]),
        (100, last(5, "1/5"), [84, 88, 92, 96, 100]),
        (16, last(4, "1/2"), [10, 12, 14, 16]),
        (6, last(6), [1, 2, 3, 4, 5, 6]),
        (10, last(2, "1/5"), [9, 10]),
        (4, ema("1/2"), [1, 2, 3, 4]),
    ],
)
def test_averaged_steps_by_hand(total: int, averaging: Averaging, steps: list[int]) -> None:
    assert averaged_steps(total, averaging) == steps


@given(st.integers(1, 10_000), st.integers(2, 50), st.fractions(min_value="1/100", max_value=1, max_denominator=100))
def test_averaged_steps_are_distinct_equally_spaced_and_end_the_run(total: int, count: int, over: Fraction) -> None:
    if over * total < count:
        with pytest.raises(DataeffError, match=f"count is {count}"):
            averaged_steps(total, last(count, str(over)))
        return
    steps = averaged_steps(total, last(count, str(over)))
    distances = np.diff(steps)
    assert len(steps) == count
    assert steps[-1] == total
    assert distances.min() >= 1
    assert distances.max() - distances.min() <= 1
    assert total - over * total < steps[0]


def test_a_run_too_short_is_refused_in_words() -> None:
    with pytest.raises(DataeffError) as raised:
        averaged_steps(14, last(3, "1/5"), "gpt-mine-100-s1: averaging")
    assert str(raised.value) == (
        "gpt-mine-100-s1: averaging: count is 3, but the last 1/5 of 14 steps are only 2; "
        "lower count, or raise over or train_tokens"
    )
    with pytest.raises(DataeffError, match=r"^gpt-mine-100-s1: averaging: count is 3"):
        WeightAverage(Three(), last(3, "1/5"), 14, 14, where="gpt-mine-100-s1")


# --- what the average is -------------------------------------------------------------------------------------


def test_the_mean_of_the_last_states_by_hand() -> None:
    """Of six steps, the last 2/3 in two pieces: the states after steps 4 and 6."""
    states = [(100, 100, 100)] * 3 + [(1, 2, 3), (100, 100, 100), (3, 6, -3)]
    assert averaged(last(2, "2/3"), states) == [2, 4, 0]


def test_the_exponential_average_by_hand() -> None:
    """Half of 4 nominal steps: decay 1/2, so the states of three steps weigh 1/7, 2/7 and 4/7."""
    assert averaged(ema("1/2"), [(7, 0, 1), (0, 7, 1), (7, 7, 1)], nominal=4) == pytest.approx([5, 6, 1], rel=1e-6)


def test_the_first_exponential_average_is_the_first_state() -> None:
    assert averaged(ema(1), [(3, 0.1, -2)], nominal=1000) == pytest.approx([3, 0.1, -2], rel=1e-7)


def test_a_time_constant_below_a_step_keeps_the_last_state() -> None:
    assert time_constant(ema("1/10"), 5) == 1
    assert averaged(ema("1/10"), [(1, 2, 3), (4, 5, 6)], nominal=5) == [4, 5, 6]


numbers = st.floats(-100, 100, width=32)
some_states = st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=40)


@given(some_states, st.integers(1, 60))
@settings(deadline=None)
def test_the_exponential_average_is_the_direct_loop(states: list[tuple[float, ...]], nominal: int) -> None:
    """An average that starts at zero, corrected for that at the end, in float64."""
    decay = 1 - 1 / max(1, nominal / 2)
    plain = np.zeros(3)
    for state in states:
        plain = decay * plain + (1 - decay) * np.array(state)
    expected = plain / (1 - decay ** len(states))
    np.testing.assert_allclose(averaged(ema("1/2"), states, nominal), expected, rtol=1e-4, atol=1e-4)


@given(some_states, st.data())
@settings(deadline=None)
def test_the_mean_is_numpy_s(states: list[tuple[float, ...]], data: st.DataObject) -> None:
    averaging = last(data.draw(st.integers(2, len(states))))
    chosen = np.array(states)[np.array(averaged_steps(len(states), averaging)) - 1]
    np.testing.assert_allclose(averaged(averaging, states), chosen.mean(0), rtol=1e-4, atol=1e-4)


@given(
    st.tuples(numbers, numbers, numbers), st.integers(4, 30), st.sampled_from([last(3), last(4), ema("1/3"), ema(1)])
)
@settings(deadline=None)
def test_the_average_of_a_constant_is_the_constant(state: Any, steps: int, averaging: Averaging) -> None:
    assert averaged(averaging, [state] * steps) == list(state)


@given(st.integers(1, 400), st.one_of(st.none(), st.floats(1, 1e6)))
def test_the_weights_of_all_states_sum_to_one(states: int, constant: float | None) -> None:
    """From the shares: a state's weight is its own share of what the newer ones have left."""
    shares = np.array([newest_share(number, constant) for number in range(1, states + 1)])
    left = np.append(np.cumprod((1 - shares)[::-1])[::-1][1:], 1)
    assert shares[0] == 1
    assert (shares * left).sum() == pytest.approx(1, abs=1e-6)


def test_half_precision_weights_are_averaged_in_float32() -> None:
    """In bfloat16, whose step above 1 is 1/128, a sum of these would not move; in float32 the mean is their middle."""
    network = Three(torch.bfloat16)
    average = WeightAverage(network, last(4), 4, 4)
    for step, number in enumerate([1.0, 1.0, 1.0, 1 + 1 / 128], start=1):
        network.put(number, number, 256 * number)
        average.observe(step)
    assert {weight.dtype for weight in average.weights.values()} == {torch.float32}
    assert [weight.item() for weight in average.weights.values()] == [1 + 1 / 512, 1 + 1 / 512, 256.5]
    average.replace_weights()
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}


def test_tied_weights_are_averaged_once_and_stay_tied() -> None:
    network = Three()
    average = WeightAverage(network, last(2), 2, 2)
    for step, number in enumerate((1.0, 3.0), start=1):
        network.put(number, 0, 0)
        average.observe(step)
    assert list(average.weights) == ["embedding.weight", "middle.weight", "middle.bias"]
    average.replace_weights()
    assert network.output.weight is network.embedding.weight
    assert network.output.weight.item() == 2


def test_the_network_itself_is_left_alone_until_the_end() -> None:
    network = Three()
    average = WeightAverage(network, last(2), 2, 2)
    network.put(1, 2, 3)
    average.observe(1)
    network.put(5, 6, 7)
    average.observe(2)
    assert network.numbers == [5, 6, 7]


def test_nothing_is_held_before_the_first_averaged_step() -> None:
    average = WeightAverage(Three(), last(2, "1/5"), 10, 10)
    for step in range(1, 9):
        average.observe(step)
    assert average.weights == {}
    average.observe(9)
    assert len(average.weights) == 3


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_an_average_that_is_no_number_is_refused_and_replaces_nothing(number: float) -> None:
    network = Three()
    average = WeightAverage(network, last(2, "1/2"), 4, 4, where="gpt-mine-100-s1")
    for step in range(1, 5):
        network.put(1, number if step == 3 else 1, 1)
        average.observe(step)
    with pytest.raises(DataeffError) as raised:
        average.replace_weights()
    assert str(raised.value) == (
        "gpt-mine-100-s1: the average of the weights after 2 steps from 3 to 4 is not finite in middle.weight; lower "
        "learning_rate.peak or lengthen warmup_tokens"
    )
    assert network.numbers == [1, 1, 1]


# --- parts of ranks, and files -------------------------------------------------------------------------------


def test_files_of_the_ranks() -> None:
    """While every rank has all weights, rank 0 alone keeps the average."""
    assert [average_files(stage, 4) for stage in (0, 1, 2)] == [["average.pt"]] * 3
    assert average_files(3, 2) == ["average-0-of-2.pt", "average-1-of-2.pt"]


class Partitioned:
    """A network whose one parameter of five numbers is split over three ranks, as ZeRO 3 does: two numbers each, the
    third rank's second one being padding.
    """

    def __init__(self, part: list[float]) -> None:
        self.whole = nn.Parameter(torch.empty(0))
        self.whole.ds_tensor = torch.tensor(part)  # type: ignore[attr-defined]
        self.whole.ds_numel = 5  # type: ignore[attr-defined]
        self.whole.partition = lambda: None  # type: ignore[attr-defined]

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [("whole", self.whole)]

    def parameters(self) -> list[nn.Parameter]:
        return [self.whole]


@pytest.mark.parametrize(("rank", "length"), [(0, 2), (1, 2), (2, 1)])
def test_a_rank_averages_its_own_part_without_the_padding(rank: int, length: int) -> None:
    network = Partitioned([2.0, 4.0 if rank < 2 else float("nan")])
    average = WeightAverage(network, last(2), 2, 2, rank=rank)  # type: ignore[arg-type]
    average.observe(1)
    network.whole.ds_tensor.add_(2)  # type: ignore[attr-defined]
    average.observe(2)
    average.replace_weights()
    assert average.weights["whole"].tolist() == [3.0, 5.0][:length]
    assert network.whole.ds_tensor[:length].tolist() == [3.0, 5.0][:length]  # type: ignore[attr-defined]


@pytest.mark.parametrize("averaging", [last(3), last(2, "1/5"), ema("1/2")])
@pytest.mark.parametrize("interrupted", [1, 5, 9])
def test_continued_from_a_file_the_average_is_the_same(tmp_path: Path, averaging: Averaging, interrupted: int) -> None:
    """Also from one of before the first averaged step."""
    states = np.random.default_rng(1).normal(size=(10, 3))
    network = Three()
    average = WeightAverage(network, averaging, 10, 10)
    for step, state in enumerate(states, start=1):
        network.put(*state)
        average.observe(step)
        if step == interrupted:
            average.save(tmp_path)
            average = WeightAverage(network, averaging, 10, 10)
            average.load(tmp_path)
    average.replace_weights()
    assert network.numbers == averaged(averaging, states)
