"""The pacing of a variant that is tuned: which one it is, what its starts are counted in, and the variant with another.

Starts double from the smallest that is worth trying. Of lengths and kept tokens that is 8, and 64 for models of a
billion parameters (DeepSpeed's curriculum tutorial, of sequence lengths; for kept tokens the same is assumed), rounded
up to the pacing's multiple; of percentiles it is 1. Ends stay as the variant has them: the papers' are full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from dataeff.errors import DataeffError, unknown_name
from dataeff.study.types import Pacing, Variant

TOKEN_DROP = "token_drop"
DURATIONS = tuple(Fraction(text) for text in ("1/10", "1/5", "3/10", "2/5", "1/2", "3/5", "7/10", "1"))
_BILLION, _SMALLEST, _SMALLEST_OF_A_BILLION = 1_000_000_000, 8, 64
_LARGEST_SHARE = 64
"""Of the easiest samples, in percent, that a pacing by a metric's own values starts with."""


@dataclass(frozen=True)
class Tuned:
    """One pacing of a variant. `unit`: what a start of 1 is; `full`: the largest end there is (None: no such value).

    `whole`: what fractions of the pacing are fractions of: the sequence length, or 1.
    """

    metric: str
    pacing: Pacing
    unit: Literal["tokens", "percent", "value"]
    full: int | None
    whole: int

    @property
    def end(self) -> int:
        return int(self.pacing.end * self.whole)

    @property
    def start(self) -> int:
        return int(self.pacing.start * self.whole)

    def words(self, start: int) -> str:
        """32 -> '32 tokens'"""
        return f"value {start:,}" if self.unit == "value" else f"{start:,} {self.unit}"

    def share(self, start: int) -> Fraction:
        """A start as the configuration has it."""
        return Fraction(start, self.whole)


def find_pacing(variant: Variant, metric: str | None, sequence_length: int, where: str) -> Tuned:
    """The pacing named, or the only one; `where` is the variant in messages."""
    known = [*variant.curriculum, *([TOKEN_DROP] if variant.token_drop else [])]
    if not known:
        raise DataeffError(f"{where}: it has no pacing to tune: no curriculum and no token_drop; name another variant")
    if metric is None and len(known) > 1:
        raise DataeffError(f"{where}: it has {len(known)} pacings; say which to tune: --metric {' or '.join(known)}")
    name = metric or known[0]
    if name not in known:
        raise unknown_name("pacing", name, known, f"--metric, of {where}")
    if name == TOKEN_DROP:
        assert variant.token_drop is not None
        return Tuned(name, variant.token_drop.pacing, "tokens", sequence_length, sequence_length)
    part = variant.curriculum[name]
    if part.apply != "select":
        return Tuned(name, part.pacing, "tokens", sequence_length, sequence_length)
    if part.by == "percentile":
        return Tuned(name, part.pacing, "percent", 100, 1)
    return Tuned(name, part.pacing, "value", None, 1)


def starts_of(tuned: Tuned, parameters: int, value_at_percent: Callable[[int], int]) -> list[int]:
    """The starts to try, ascending, below the end. `value_at_percent`: of the metric, asked for a pacing by value."""
    if tuned.unit == "value":
        percents = _doubled(1, _LARGEST_SHARE + 1)
        return sorted({value for percent in percents if 0 < (value := value_at_percent(percent)) < tuned.end})
    if tuned.unit == "percent":
        return _doubled(1, tuned.end)
    smallest = _SMALLEST if parameters < _BILLION else _SMALLEST_OF_A_BILLION
    multiple = tuned.pacing.multiple_of
    return _doubled(-(-smallest // multiple) * multiple, tuned.end)


def _doubled(first: int, end: int) -> list[int]:
    found = []
    while first < end:
        found.append(first)
        first *= 2
    return found


def with_pacing(variant: Variant, tuned: Tuned, start: int, over: Fraction) -> Variant:
    """The variant with another start and duration of the tuned pacing; everything else as it is."""
    pacing = Pacing.model_validate({**dict(tuned.pacing), "start": tuned.share(start), "over": over})
    if tuned.metric == TOKEN_DROP:
        assert variant.token_drop is not None
        return variant.model_copy(update={TOKEN_DROP: variant.token_drop.model_copy(update={"pacing": pacing})})
    part = variant.curriculum[tuned.metric].model_copy(update={"pacing": pacing})
    return variant.model_copy(update={"curriculum": {**variant.curriculum, tuned.metric: part}})


def without_pacing(variant: Variant, tuned: Tuned) -> Variant:
    """The variant without the tuned method: what its own fluctuation is compared with."""
    if tuned.metric == TOKEN_DROP:
        return variant.model_copy(update={TOKEN_DROP: None})
    kept = {name: part for name, part in variant.curriculum.items() if name != tuned.metric}
    return variant.model_copy(update={"curriculum": kept})
