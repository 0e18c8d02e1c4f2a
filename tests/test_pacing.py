import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.pacing import PacingSchedule
from dataeff.study.types import Pacing


def resolve(floor_at_start: bool = True, unit: int = 2048, steps: int = 1000, **fields: object) -> PacingSchedule:
    pacing = Pacing.model_validate({"start": "5/128", "end": 1, "over": 1, **fields})
    return PacingSchedule.resolve(pacing, unit=unit, nominal_steps=steps, floor_at_start=floor_at_start, where="here")


@given(
    start=st.integers(1, 99),
    root=st.integers(1, 3),
    multiple=st.integers(1, 16),
    steps=st.integers(1, 2000),
)
def test_values_never_decrease_and_stay_in_range(start: int, root: int, multiple: int, steps: int) -> None:
    schedule = PacingSchedule(start, 128, steps, root, multiple, -(-start // multiple) * multiple)
    values = schedule.at(np.arange(3 * steps))
    assert (np.diff(values) >= 0).all()
    assert values[0] >= start
    assert values.max() <= 128
    assert ((values % multiple == 0) | (values == 128)).all()
    assert values[-1] == 128 or 128 % multiple


def test_linear_pacing_by_hand() -> None:
    schedule = resolve(multiple_of=8)
    assert (schedule.start, schedule.end, schedule.total_steps) == (80, 2048, 1000)
    # 80 + 1968 * 500 / 1000 = 1064; 80 + 1968 * 3 / 1000 = 85.9 -> 85 -> 80
    assert schedule.at(np.array([0, 3, 500, 999, 1000, 5000])).tolist() == [80, 80, 1064, 2040, 2048, 2048]


def test_square_root_pacing_by_hand() -> None:
    schedule = resolve(unit=1, start=1, end=100, root=2)
    # sqrt(250 / 1000) * 99 + 1 = 50.5
    assert schedule.at(np.array([0, 250, 1000])).tolist() == [1, 50, 100]


def test_duration_is_a_fraction_of_the_nominal_steps() -> None:
    assert resolve(over="0.384", steps=220).total_steps == 84


def test_a_kept_token_start_that_rounds_to_zero_is_refused() -> None:
    with pytest.raises(DataeffError, match=r"here: start 8 rounds down to 0 with multiple_of 16; raise start"):
        resolve(floor_at_start=False, start="1/256", multiple_of=16)


def test_a_start_of_nothing_is_refused() -> None:
    with pytest.raises(DataeffError, match="start is 0 in whole units"):
        resolve(start=0)
