"""Who is named when ranks wait too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.pretrain.watch import PHASES, Place, verdict

PLACES = st.builds(Place, st.integers(1, 3), st.integers(0, len(PHASES) - 1))


@given(PLACES, st.integers(2, 8))
def test_nobody_is_to_blame_where_all_are_at_one_place(place: Place, ranks: int) -> None:
    assert verdict(dict.fromkeys(range(ranks), place), 5) is None


@given(st.lists(st.none() | PLACES, min_size=2, max_size=8))
def test_the_silent_are_named_before_those_behind(places: list[Place | None]) -> None:
    found = verdict(dict(enumerate(places)), 5)
    silent = [rank for rank, place in enumerate(places) if place is None]
    if silent:
        assert found is not None
        assert found[1] == silent
    elif found is not None:
        furthest = max(place for place in places if place is not None)
        assert found[1] == [rank for rank, place in enumerate(places) if place != furthest]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([None, Place(3, 1)], "rank 0 did not answer for 60 seconds: stopped, cut off or dead"),
        ([None, Place(3, 1), None], "ranks 0, 2 did not answer for 60 seconds: stopped, cut off or dead"),
        (
            [Place(3, 1), Place(3, 0)],
            "rank 1 did not come for 60 seconds: rank 1 is still reading its samples at step 3, "
            "others wait training at step 3",
        ),
    ],
)
def test_what_is_said(places: list[Place | None], said: str) -> None:
    found = verdict(dict(enumerate(places)), 60)
    assert found is not None
    assert found[0] == said
