"""What of a run DeepSpeed and Megatron-DeepSpeed cannot do: such a run is refused rather than exported as another one.

Each fault names the field of the variant, its value, why it has no counterpart there, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dataeff.errors import DataeffError
from dataeff.study.types import MetricCurriculum

if TYPE_CHECKING:
    from dataeff.export.subject import Export

WHOLE_PERCENT = 100
_LENGTHS = {
    "window": "Megatron-DeepSpeed's attention sees whole samples",
    "bucket": "Megatron-DeepSpeed's samples are all of one length",
}
_ROUTES = {
    "one_route": "DeepSpeed's random-LTD draws other tokens in each layer",
    "samples": "DeepSpeed's random-LTD drops tokens, no whole samples",
}
_CLOCKS = {
    "layer_tokens": "the LayerToken schedule was never released",
    "raw_tokens": "Megatron-DeepSpeed's learning rate follows the effective tokens",
}


def check_expressible(export: Export) -> None:
    """Raises one DataeffError with everything that the variant asks for and the exported files could not say."""
    faults = list(_faults(export))
    if faults:
        raise DataeffError(f"{export.run.name} cannot be exported to DeepSpeed. " + ". ".join(faults))


def _faults(export: Export) -> Iterator[str]:
    variant = export.plan.variant
    for metric, part in variant.curriculum.items():
        yield from _of_curriculum(f"curriculum.{metric}", part, export.pacing[metric].end)
    if variant.token_drop is not None:
        route, root = variant.token_drop.route, export.pacing["token_drop"].root
        if route != "each_layer":
            yield f"token_drop.route: {route}: {_ROUTES[route]}; export with route: each_layer, or train it here"
        if root != 1:
            yield (
                f"token_drop.pacing.root: {root}: DeepSpeed's random-LTD knows the linear schedule alone; export with "
                f"root: 1"
            )
    if variant.lr_clock != "effective_tokens":
        yield (
            f"lr_clock: {variant.lr_clock}: {_CLOCKS[variant.lr_clock]}; export with lr_clock: effective_tokens, or "
            f"train it here"
        )
    if variant.averaging is not None:
        yield (
            f"averaging: {variant.averaging.kind}: Megatron-DeepSpeed saves the weights of a step, no average; export "
            f"without averaging (and average its checkpoints yourself), or train it here"
        )


def _of_curriculum(where: str, part: MetricCurriculum, end: int) -> Iterator[str]:
    if part.apply in _LENGTHS:
        yield f"{where}.apply: {part.apply}: {_LENGTHS[part.apply]}; export with apply: truncate, or train it here"
    if part.then != "hold":
        yield (
            f"{where}.then: {part.then}: DeepSpeed's sampler stays at its last difficulty; export with then: hold, "
            f"or train it here"
        )
    if part.apply == "select" and part.by == "percentile" and end != WHOLE_PERCENT:
        yield (
            f"{where}.pacing.end: {end} percent: DeepSpeed takes its max_difficulty for 100 percent and would reach "
            f"all samples; only an end of 100 can be exported"
        )
