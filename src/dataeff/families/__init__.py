"""What differs between model families: the model, how a batch is cut, and the loss. Nothing else asks which it is."""

from __future__ import annotations

from types import ModuleType


def family(name: str) -> ModuleType:
    """The module of a family: `build_model`, `cut`, `loss_sum`."""
    from dataeff.families import gpt

    return {"gpt": gpt}[name]
