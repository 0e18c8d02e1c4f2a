"""A variant in plain words, by topic, so that people can tell two of them apart without knowing the keys.

A topic's words are parts: `ends at` -> `1/3 of its peak`. Where two variants have a topic, only the parts in which they
differ are said, as `ends at 1/3 of its peak instead of 1.5e-5`.
"""

from __future__ import annotations

from fractions import Fraction

from dataeff.inquiry.text import rate
from dataeff.pacing import PacingSchedule
from dataeff.plan import peak_learning_rate, schedules
from dataeff.study.specs import PlanSpec
from dataeff.study.types import Averaging, MetricCurriculum, Pacing, TokenDrop, Variant

Words = dict[str, dict[str, str]]

CLOCKS = {
    "effective_tokens": "effective (layer-averaged) tokens",
    "layer_tokens": "tokens summed over the layers (LayerToken)",
    "raw_tokens": "raw tokens",
}
ROUTES = {
    "each_layer": "others in each layer",
    "one_route": "the same in all layers",
    "samples": "whole samples go past a layer",
}
_SHAPES = {1: "linearly", 2: "as the square root of the step"}
_LENGTHS = {
    "truncate": "samples cut to their first {range} tokens",
    "reshape": "samples cut into pieces of {range} tokens",
    "window": "attention window {range} tokens",
    "bucket": "length buckets of up to {range} tokens, one of them a step, each sample of one document",
}


def words_of(spec: PlanSpec, model_dropout: float) -> Words:
    """All that a run's variant says; `model_dropout` is what it trains with unless the variant has its own."""
    variant, pacing = spec.variant, schedules(spec)
    words = {
        metric.replace("_", " "): _curriculum(metric, part, pacing[metric])
        for metric, part in variant.curriculum.items()
    }
    if variant.token_drop is not None:
        words["tokens dropped"] = _token_drop(variant.token_drop, pacing["token_drop"], spec.sequence_length)
    words["learning rate"] = {
        "peak": _peak(variant),
        "follows": CLOCKS[variant.lr_clock],
        "ends at": final_rate(spec),
    }
    words["weights"] = {"": averaged(variant.averaging)}
    words["dropout"] = {"": _dropout(variant, model_dropout)}
    return words


def _peak(variant: Variant) -> str:
    scaled = variant.lr_scaling == "inverse_data"
    words = "times 1 / data" if scaled else "that of 100% data at any data fraction"
    return words if variant.peak_lr == 1 else f"{words}, times {variant.peak_lr}"


def differing_words(a: Words, b: Words) -> list[tuple[str, str]]:
    """(topic, what of it differs) of each topic in which two variants differ."""
    found = []
    for topic in dict.fromkeys([*a, *b]):
        ours, theirs = a.get(topic, {}), b.get(topic, {})
        if not ours or not theirs:
            found.append((topic, f"only B: {_whole(theirs)}" if theirs else f"only A: {_whole(ours)}"))
        elif set(ours) != set(theirs):
            found.append((topic, f"{_whole(theirs)}; instead of: {_whole(ours)}"))
        elif ours != theirs:
            parts = [
                f"{_said(name, theirs[name])} instead of {ours[name]}" for name in ours if ours[name] != theirs[name]
            ]
            found.append((topic, "; ".join(parts)))
    return found


def _whole(parts: dict[str, str]) -> str:
    return ", ".join(_said(name, value) for name, value in parts.items())


def _said(name: str, value: str) -> str:
    return f"{name} {value}".strip()


def _curriculum(metric: str, part: MetricCurriculum, schedule: PacingSchedule) -> dict[str, str]:
    values = f"{schedule.start}..{schedule.end}"
    if part.apply != "select":
        return {"": _LENGTHS[part.apply].format(range=values), **_pacing(part.pacing)}
    name = metric.replace("_", " ")
    what = f"the lowest {values}% of the samples" if part.by == "percentile" else f"samples of at most {values}"
    then = "all samples alike" if part.then == "uniform" else "held there"
    return {"": f"{what} by {name}", **_pacing(part.pacing), "after that": then}


def _pacing(pacing: Pacing) -> dict[str, str]:
    return {
        "in multiples of": str(pacing.multiple_of),
        "growing": _SHAPES.get(pacing.root, f"as root {pacing.root} of the step"),
        "over": f"{percent(pacing.over)} of the nominal steps",
    }


def _token_drop(drop: TokenDrop, schedule: PacingSchedule, length: int) -> dict[str, str]:
    return {
        "": ROUTES[drop.route],
        "in all layers but": f"the first {drop.keep_first} and the last {drop.keep_last}",
        "keeping": f"{schedule.start}..{schedule.end} of {length} tokens",
        **_pacing(drop.pacing),
    }


def final_rate(spec: PlanSpec) -> str:
    """The last learning rate: a part of the peak, or the scale's minimum."""
    share = spec.variant.final_lr
    if share is None:
        return rate(spec.learning_rate.minimum)
    if share == 1:
        return f"its peak ({rate(peak_learning_rate(spec))})"
    return f"{share} of its peak ({rate(peak_learning_rate(spec) * float(share))})"


def averaged(averaging: Averaging | None) -> str:
    """Which weights a run exports."""
    if averaging is None:
        return "those after the last step"
    if averaging.count is None:
        return f"exponential average over {percent(averaging.over)} of the nominal steps"
    return f"mean of {averaging.count} states over the last {percent(averaging.over)} of the steps"


def _dropout(variant: Variant, model_dropout: float) -> str:
    return f"{model_dropout:g} (the model's)" if variant.dropout is None else f"{variant.dropout:g} (the variant's)"


def percent(share: Fraction) -> str:
    """48/125 -> '38.4%'; a share that takes many digits stays a fraction."""
    text = f"{float(100 * share):g}"
    return f"{text}%" if Fraction(text) == 100 * share else str(share)
