"""The average of a run's weights over its end, exported in place of the last ones (arXiv 2511.18903).

A rate that decays to nothing gives the last samples of a curriculum, the hard ones, the smallest steps. Averaging
calms the weights in another way, so that the rate can stay up. Both kinds are one rule: each new state moves the
average towards itself by its share of all states so far.

- `last`: the plain mean of `count` states; the share of the k-th is 1/k.
- `ema`: every step's state, weighted by decay**(its age in steps), where decay = 1 - 1/T and T is `over` of the
  nominal steps. The share of the k-th state, (1 - decay) / (1 - decay**k), makes the weights sum to one at any k. This
  is the usual correction for an average that starts at zero: the first average is the first state, and no state
  counts for more than its age says, as the first would if the average simply started there.

The sums are in float32 whatever the model trains in, and lie where the weights lie, since `ema` reads all of them at
every step: 4 bytes a weight, from the first averaged step on. They are held by rank 0 alone while every rank has all
weights (ZeRO 0 to 2), and by each rank for its own part of them at ZeRO 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataeff.errors import DataeffError
from dataeff.study.types import Averaging

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataeff.plan import TrainingPlan
    from dataeff.pretrain.engine import Ranks
    from dataeff.study.specs import PretrainSpec
    from dataeff.study.types import Hardware


def averaged_steps(total_steps: int, averaging: Averaging, where: str = "averaging") -> list[int]:
    """The steps, from 1, after which the weights enter the average, in order; the final one is among them.

    `last` cuts the last `over` of the run into `count` equal pieces and takes the step that ends each. Raises a
    DataeffError, which begins with `where`, if a piece would be shorter than a step.
    """
    if averaging.count is None:
        return list(range(1, total_steps + 1))
    window = averaging.over * total_steps
    if window < averaging.count:
        raise DataeffError(
            f"{where}: count is {averaging.count}, but the last {averaging.over} of {total_steps} steps are only "
            f"{int(window)}; lower count, or raise over or train_tokens"
        )
    return [total_steps - int(age * window / averaging.count) for age in reversed(range(averaging.count))]


def time_constant(averaging: Averaging, nominal_steps: int) -> float | None:
    """Steps after which the weight of a state in the exponential average has fallen to 1/e; None for a plain mean."""
    return max(1.0, float(averaging.over * nominal_steps)) if averaging.kind == "ema" else None


def newest_share(states: int, time_constant: float | None) -> float:
    """The weight of the newest of `states` states in their average."""
    if time_constant is None:
        return 1 / states
    decay = 1 - 1 / time_constant
    return (1 - decay) / (1 - decay**states)


def average_files(zero_stage: int, world_size: int) -> list[str]:
    """The files of a resume checkpoint that hold the average. Where each rank has a part, the name says of how many:
    with another number of ranks the parts are others.
    """
    if zero_stage < 3:
        return ["average.pt"]
    return [f"average-{rank}-of-{world_size}.pt" for rank in range(world_size)]


class WeightAverage:
    """What one rank holds of the average; it is told of every optimizer step."""

    def __init__(
        self,
        network: nn.Module,
        averaging: Averaging,
        total_steps: int,
        nominal_steps: int,
        *,
        rank: int = 0,
        file: str = "average.pt",
        where: str = "averaging",
    ) -> None:
        """`where`: what errors begin with, the name of the run; `file`: this rank's in a resume checkpoint."""
        self._network, self._rank, self._file, self._where = network, rank, file, where
        self._kind = averaging.kind
        self._time_constant = time_constant(averaging, nominal_steps)
        steps = averaged_steps(total_steps, averaging, f"{where}: averaging")
        self._first, self._last, self._steps = steps[0], steps[-1], frozenset(steps)
        self.states = 0
        self.weights: dict[str, Tensor] = {}

    @classmethod
    def of_run(
        cls, spec: PretrainSpec, plan: TrainingPlan, network: nn.Module, hardware: Hardware, ranks: Ranks
    ) -> WeightAverage | None:
        """None where the run's weights are not averaged, or this rank has no part in it."""
        files = average_files(hardware.zero_stage, ranks.world_size)
        if spec.averaging is None or ranks.rank >= len(files):
            return None
        return cls(
            network,
            spec.averaging,
            len(plan.steps),
            int(plan.facts["nominal_steps"]),
            rank=ranks.rank,
            file=files[ranks.rank],
            where=spec.run.name,
        )

    def observe(self, step: int) -> None:
        """Takes in the weights as they are after `step` optimizer steps, if this is a step to average."""
        if step not in self._steps:
            return
        self.states += 1
        share = newest_share(self.states, self._time_constant)
        for name, weight in self._own_weights():
            if name in self.weights:
                self.weights[name].lerp_(weight.float(), share)
            else:
                self.weights[name] = weight.float().clone()

    def replace_weights(self) -> None:
        """Puts the average in the place of the network's weights, in their own precision; all holders call it.

        Raises a DataeffError, before anything is replaced, if a number of the average is not finite.
        """
        for name, average in self.weights.items():
            if not bool(average.isfinite().all()):
                raise DataeffError(
                    f"{self._where}: the average of the weights after {self.states} steps from {self._first} to "
                    f"{self._last} is not finite in {name}; lower learning_rate.peak or lengthen warmup_tokens"
                )
        for name, weight in self._own_weights():
            weight.copy_(self.weights[name])
        _drop_gathered(self._network)

    def facts(self) -> dict[str, Any]:
        """For run.json: what was averaged, and over which steps."""
        return {"kind": self._kind, "states": self.states, "first_step": self._first, "last_step": self._last}

    def save(self, folder: Path) -> None:
        """Writes this rank's part into the folder of a resume checkpoint."""
        import torch

        torch.save({"states": self.states, "weights": self.weights}, folder / self._file)

    def load(self, folder: Path, files: Sequence[str] = ()) -> None:
        """Continues from a resume checkpoint whose average lies in `files`; none given: as this rank would save it.

        Parts of other ranks' number are put together and cut anew.
        """
        import torch

        as_saved = not files or self._file in files
        names = [self._file] if as_saved else files
        parts = [torch.load(folder / name, map_location="cpu", weights_only=True, mmap=True) for name in names]
        self.states = parts[0]["states"]
        self.weights = {}
        for name, own, begin in self._own_places():
            if name in parts[0]["weights"]:
                whole = torch.cat([part["weights"][name].flatten() for part in parts])
                cut = whole if as_saved else whole[begin : begin + own.numel()].clone()
                self.weights[name] = cut.reshape(own.shape).to(own.device)

    def _own_weights(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that this rank holds, by name, each tied one once: all of it, or at ZeRO 3 the part, flat and
        without the padding, whose content is nothing.
        """
        for name, own, _ in self._own_places():
            yield name, own

    def _own_places(self) -> Iterator[tuple[str, Tensor, int]]:
        """(name, what this rank holds of it, where that begins in the whole)"""
        parameters: Iterable[tuple[str, Any]] = self._network.named_parameters()
        for name, parameter in parameters:
            part = getattr(parameter, "ds_tensor", None)
            if part is None:
                yield name, parameter.detach(), 0
            else:
                begin = self._rank * part.numel()
                yield name, part.detach()[: max(0, parameter.ds_numel - begin)], begin


def _drop_gathered(network: nn.Module) -> None:
    """Has ZeRO 3 gather the weights again from their parts: it keeps small ones whole beside these between steps."""
    parameters: Iterable[Any] = network.parameters()
    for parameter in parameters:
        if getattr(parameter, "ds_tensor", None) is not None:
            parameter.partition()
