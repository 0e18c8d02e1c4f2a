"""What a training process is started with beside its command, each by a function: faults, and a look inside."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def _in_passes(wrong: Callable[[Callable[..., dict[str, torch.Tensor]], list[Any]], dict[str, torch.Tensor]]) -> None:
    """Has `wrong` make the passes of steps 5 to 10 (from 1) on the last rank."""
    from dataeff.pretrain.step import Steps

    true = Steps.forward_backward

    def pass_(self: Steps, batch: Any, rows: Any, weight: float, step: int, kept: int) -> dict[str, torch.Tensor]:
        arguments = [self, batch, rows, weight, step, kept]
        if 4 <= step < 10 and self.ranks.rank == self.ranks.world_size - 1:
            return wrong(true, arguments)
        return true(self, batch, rows, weight, step, kept)

    Steps.forward_backward = pass_  # type: ignore[method-assign]


def gradients_are_no_numbers() -> None:
    def wrong(true: Callable[..., dict[str, torch.Tensor]], arguments: list[Any]) -> dict[str, torch.Tensor]:
        arguments[3] *= math.nan
        return true(*arguments)

    _in_passes(wrong)


def losses_are_no_numbers() -> None:
    def wrong(true: Callable[..., dict[str, torch.Tensor]], arguments: list[Any]) -> dict[str, torch.Tensor]:
        return {name: torch.full_like(loss, math.nan) for name, loss in true(*arguments).items()}

    _in_passes(wrong)


def memory_runs_out() -> None:
    def wrong(true: Callable[..., dict[str, torch.Tensor]], arguments: list[Any]) -> dict[str, torch.Tensor]:
        torch.empty(2**50, dtype=torch.uint8)
        return true(*arguments)

    _in_passes(wrong)


def rank_1_reads_for_ever() -> None:
    from dataeff.pretrain.input_files import InputFiles

    true = InputFiles.check

    def check(self: InputFiles) -> None:
        self.__dict__["steps"] = self.__dict__.get("steps", 0) + 1
        if os.environ["RANK"] == "1" and self.__dict__["steps"] == 5:
            time.sleep(600)
        true(self)

    InputFiles.check = check  # type: ignore[method-assign]


def tell_samples_and_kept_tokens() -> None:
    """Writes what this rank trains on to the file `seen-RANK` beside the state: a line per step with the samples' ids,
    and one per pass and layer with the rows and the positions that are kept of them.
    """
    from dataeff.pretrain.step import Steps
    from dataeff.token_drop import TokenDrop

    step_, positions_ = Steps.step, TokenDrop.positions
    places: list[Path] = []

    def tell(line: dict[str, Any]) -> None:
        with (places[0].parent / f"seen-{os.environ.get('RANK', '0')}").open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def step(self: Steps, number: int, ids: Any) -> dict[str, Any]:
        places[:] = [self.state]
        tell({"step": number, "ids": ids.tolist()})
        return step_(self, number, ids)

    def positions(self: TokenDrop, layer: int, length: int, device: Any = None) -> Any:
        found = positions_(self, layer, length, device)
        if found is not None and self._rows_B is not None:
            tell({"step": self._step, "layer": layer, "rows": self._rows_B.tolist(), "kept": found.tolist()})
        return found

    Steps.step, TokenDrop.positions = step, positions  # type: ignore[method-assign]
