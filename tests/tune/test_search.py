"""The search alone: bounded whatever it is told, and right where stability is monotone."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.tune.pacings import DURATIONS
from dataeff.tune.search import Candidate, Found, most_candidates, search

LISTS = st.tuples(
    st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True).map(sorted),
    st.lists(st.fractions(Fraction(1, 50), 1), min_size=1, max_size=20, unique=True).map(sorted),
)


@given(LISTS, st.integers(0, 40), st.randoms(use_true_random=False))
def test_it_never_tries_more_than_the_bound_and_chooses_only_what_it_saw_stable(lists, bound, random) -> None:
    starts, durations = lists
    tried: dict[Candidate, bool] = {}

    def oracle(candidate: Candidate) -> bool:
        assert candidate not in tried
        tried[candidate] = random.random() < 0.5
        return tried[candidate]

    found = search(starts, durations, bound, oracle)
    assert len(tried) <= min(bound, most_candidates(starts, durations))
    if found.candidate is None:
        assert not any(tried.values())
        assert found.complete == (len(tried) == len(starts))
    else:
        assert tried[found.candidate]


@given(LISTS, st.lists(st.integers(-1, 20), min_size=12, max_size=12).map(sorted))
def test_with_monotone_stability_it_finds_the_smallest_start_and_the_largest_duration(lists, longest) -> None:
    """`longest`: by start, the index of the longest stable duration; it never falls with a larger start."""
    starts, durations = lists
    limit = dict(zip(starts, longest, strict=False))
    tried: list[Candidate] = []

    def oracle(candidate: Candidate) -> bool:
        tried.append(candidate)
        return durations.index(candidate.over) <= limit[candidate.start]

    found = search(starts, durations, most_candidates(starts, durations), oracle)
    assert found.complete
    stable = [start for start in starts if limit[start] >= 0]
    if not stable:
        assert found.candidate is None
        assert [candidate.start for candidate in tried] == starts
    else:
        over = durations[min(limit[stable[0]], len(durations) - 1)]
        assert found.candidate == Candidate(stable[0], over)


def test_the_most_that_it_may_try_is_tried_in_the_worst_case() -> None:
    """Else the time stated before a search would be too long."""
    tried: list[Candidate] = []

    def only_the_last_start(candidate: Candidate) -> bool:
        tried.append(candidate)
        return candidate.start == 64

    found = search([8, 16, 32, 64], DURATIONS, 100, only_the_last_start)
    assert found == Found(Candidate(64, Fraction(1)), complete=True)
    assert len(tried) == most_candidates([8, 16, 32, 64], DURATIONS) == 4 + 3


def test_the_bound_in_the_middle_of_the_durations_keeps_the_best_so_far() -> None:
    found = search([8], DURATIONS, 2, lambda candidate: True)
    assert found == Found(Candidate(8, Fraction(1, 2)), complete=False)
    assert search([8, 16], DURATIONS, 1, lambda candidate: False) == Found(None, complete=False)
    assert search([8], DURATIONS[:1], 1, lambda candidate: True) == Found(Candidate(8, DURATIONS[0]), complete=True)


@pytest.mark.parametrize(
    ("starts", "durations"), [([], DURATIONS), ([8], []), ([16, 8], DURATIONS), ([8, 8], DURATIONS)]
)
def test_lists_that_do_not_ascend_are_a_mistake_of_the_caller(starts, durations) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        search(starts, durations, 5, lambda candidate: True)
