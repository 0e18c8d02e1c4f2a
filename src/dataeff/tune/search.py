"""The search for a pacing: the smallest start, then the largest duration, that do not make the validation fluctuate.

Pure: a function says of a candidate whether it is stable, by training it or otherwise. Starts are tried one after
the other, smallest first, with the shortest duration, the mildest that there is. With the first stable one, the
largest stable duration is found by bisection. Where stability is monotone (a larger start and a shorter duration are
never less stable) these are the smallest start and the largest duration of all; where it is not, they are stable all
the same, since nothing is chosen that was not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Candidate:
    """`start` in whole units of the pacing (tokens, percent, values); `over` as a share of the nominal steps."""

    start: int
    over: Fraction


@dataclass(frozen=True)
class Found:
    """`candidate` is None where no start was stable; `complete` is false where the bound ended the search first."""

    candidate: Candidate | None
    complete: bool


def most_candidates(starts: Sequence[int], durations: Sequence[Fraction]) -> int:
    """How many candidates a search tries at most: every start, and half of the remaining durations at a time."""
    return len(starts) + (len(durations) - 1).bit_length()


def search(
    starts: Sequence[int], durations: Sequence[Fraction], bound: int, is_stable: Callable[[Candidate], bool]
) -> Found:
    """The stable candidate with the smallest start and then the largest duration, of at most `bound` tried.

    `starts` and `durations` ascend; at least one of each.
    """
    if not starts or not durations or list(starts) != sorted(set(starts)) or list(durations) != sorted(set(durations)):
        raise ValueError("starts and durations must ascend, with at least one of each")
    for tried, start in enumerate(starts):
        if tried >= bound:
            return Found(None, complete=False)
        if is_stable(Candidate(start, durations[0])):
            return _longest(start, durations, bound - tried - 1, is_stable)
    return Found(None, complete=True)


def _longest(start: int, durations: Sequence[Fraction], left: int, is_stable: Callable[[Candidate], bool]) -> Found:
    """Bisection between a duration that is stable and one that is not; the first is known to be, `end` is not tried."""
    stable, end = 0, len(durations)
    while end - stable > 1 and left > 0:
        middle = (stable + end) // 2
        left -= 1
        if is_stable(Candidate(start, durations[middle])):
            stable = middle
        else:
            end = middle
    return Found(Candidate(start, durations[stable]), complete=end - stable == 1)
