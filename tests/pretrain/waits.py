"""Finds where a host would wait for a graphics card, on a machine without one.

Tensors on torch's `meta` device have shapes and no values: whatever needs a value of one (`float`, `bool`, `nonzero`,
an index by booleans, a copy to the host) is an error there. What remains are copies to the device that the host waits
for; `Copies` records those.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

VALUES = ("aten._local_scalar_dense", "aten.is_nonzero", "aten.nonzero", "aten.masked_select", "aten.equal")


class Copies(TorchDispatchMode):
    """`waited`: the copies from the host to `meta` that are not left to the device's own time; `all`: of how many."""

    def __init__(self) -> None:
        super().__init__()
        self.all = 0
        self.waited: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = {leaf.device.type for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
        name = str(func)
        if "cpu" in given and "meta" in made and ("_to_copy" in name or "copy_" in name):
            self.all += 1
            asynchronous = (kwargs or {}).get("non_blocking", False) or (
                name == "aten.copy_.default" and args[2:] == (True,)
            )
            if not asynchronous:
                self.waited.append(name)
        return found


class Values(TorchDispatchMode):
    """Counts, on a CPU, the operations that hand floating-point numbers of tensors to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = str(func)
        by_booleans = name == "aten.index.Tensor" and any(leaf.dtype == torch.bool for leaf in tensors)
        if by_booleans or (name.startswith(VALUES) and any(leaf.is_floating_point() for leaf in tensors)):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def tell_values() -> None:
    """In a training's process: prints what every step takes to the host, in its passes and beside them."""
    from dataeff.pretrain.engine import Ranks
    from dataeff.pretrain.step import Steps

    step, pass_, sums = Steps.step, Steps.forward_backward, Ranks.sums
    here: Counter[str] = Counter()

    def told_pass(self: Steps, *arguments: Any) -> Any:
        with Values() as values:
            losses = pass_(self, *arguments)
        here["passes"] += 1
        here["in passes"] += values.found.total()
        return losses

    def told_sums(self: Ranks, totals: Tensor) -> list[float]:
        here["sums"] += 1
        return sums(self, totals)

    def told_step(self: Steps, *arguments: Any) -> Any:
        here.clear()
        with Values() as values:
            row = step(self, *arguments)
        beside = values.found.total() - here["in passes"]
        told = {"passes": here["passes"], "in passes": here["in passes"], "sums": here["sums"], "beside": beside}
        print("VALUES", json.dumps(told), flush=True)
        return row

    Steps.step, Steps.forward_backward, Ranks.sums = told_step, told_pass, told_sums  # type: ignore[method-assign,assignment]
