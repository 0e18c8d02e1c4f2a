"""The generators, against numpy's RandomState and the values that the C++ standard names."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from dataeff.samples.mersenne import WORDS, WORDS_64, next32, next64, next_below, next_double, seed32, seed64

seeds = st.integers(0, 2**32 - 1)


def state_of(seed: int) -> np.ndarray:
    state = np.empty(WORDS + 1, dtype=np.uint32)
    seed32(state, seed)
    return state


def test_the_ten_thousandth_value_is_that_of_the_standard() -> None:
    """C++ [rand.predef]: the 10,000th value of a default mt19937 (seed 5489) and mt19937_64."""
    narrow, wide = state_of(5489), np.empty(WORDS_64 + 1, dtype=np.uint64)
    seed64(wide, 5489)
    for _ in range(9_999):
        next32(narrow)
        next64(wide)
    assert (int(next32(narrow)), int(next64(wide))) == (4123659995, 9981545732273789042)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_words_are_numpys(seed: int) -> None:
    """More than two blocks of 624, since words are renewed one by one here and all at once there."""
    state = state_of(seed)
    expected = np.random.RandomState(seed).randint(0, 2**32, size=1500, dtype=np.uint32)
    assert [int(next32(state)) for _ in range(1500)] == expected.tolist()


@given(seeds, st.lists(st.one_of(st.none(), st.integers(2, 2**40)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_draws_are_numpys(seed: int, bounds: list[int | None]) -> None:
    """A bound: randint; none: random()."""
    state, random = state_of(seed), np.random.RandomState(seed)
    for bound in bounds:
        if bound is None:
            assert next_double(state) == random.random()
        else:
            assert next_below(state, bound) == random.randint(bound)


def test_one_choice_takes_no_draw() -> None:
    state = state_of(1)
    assert next_below(state, 1) == 0
    assert next_double(state) == np.random.RandomState(1).random()


def test_it_compiles_into_other_kernels() -> None:
    @njit
    def first(seed: int) -> float:
        state = np.empty(WORDS + 1, dtype=np.uint32)
        seed32(state, seed)
        return next_double(state)

    assert first(7) == np.random.RandomState(7).random()
