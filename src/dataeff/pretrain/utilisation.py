"""How much of a device's peak a run reaches: FLOP a second, MFU and HFU, step by step from its plan.

The operations of a step are the plan's (inquiry/flops.py): matrix products at the step's own rows, length and kept
tokens, as PaLM counts them (arXiv 2204.02311, appendix B), so tokens that are dropped are not counted as work. The
model's utilisation (MFU) leaves recomputed activations out, the hardware's (HFU) counts them. A share needs a peak:
where none is known of the device at the run's precision there is no share, and the reason is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dataeff.inquiry.flops import Count, step_flops
from dataeff.inquiry.gpus import GPUS, Precision, gpu_of_driver

if TYPE_CHECKING:
    import pandas as pd

    from dataeff.study.specs import PretrainSpec

TERA = 1e12


@dataclass(frozen=True)
class Device:
    """What a rank computes on; `unknown`: why there is no peak, where there is none."""

    name: str
    peak_teraflops: float | None
    unknown: str | None = None


def device_of(device: torch.device, precision: Precision) -> Device:
    """This rank's device, by the name that its driver gives."""
    if device.type != "cuda":
        return Device("cpu", None, "no peak is known of a CPU")
    return named_device(torch.cuda.get_device_name(device), precision)


def named_device(name: str, precision: Precision) -> Device:
    """The graphics card of this name, as its driver gives it."""
    gpu = gpu_of_driver(name)
    if gpu is None:
        return Device(name, None, f"'{name}' is none of the cards whose peak is known: {', '.join(GPUS)}")
    peak = gpu.peak_of(precision)
    return Device(name, peak, None if peak is not None else f"no {precision} peak of {gpu.name} is known")


@dataclass(frozen=True)
class Speed:
    """Over some steps, of all ranks together."""

    model_teraflops: float
    hardware_teraflops: float
    mfu: float | None
    hfu: float | None


@dataclass(frozen=True)
class Utilisation:
    """Of a run on `ranks` devices like this one. Operations: [steps]."""

    model_flops: Count
    hardware_flops: Count
    device: Device
    ranks: int

    @classmethod
    def of_run(
        cls, spec: PretrainSpec, table: pd.DataFrame, vocabulary: int, device: Device, ranks: int, *, recompute: bool
    ) -> Utilisation:
        """`table`: the plan's steps; `vocabulary`: the padded size; `recompute`: activation checkpointing."""
        dropping = len(spec.dropped_layers)
        flops = step_flops(
            spec.run.family, spec.model, vocabulary, dropping, table, route=spec.route, recompute=recompute
        )
        return cls(flops.model, flops.hardware, device, ranks)

    def speed(self, first: int, steps: int, seconds: float) -> Speed:
        """Of `steps` steps from the 0-based `first`, which took `seconds`."""
        model, hardware = (
            float(flops[first : first + steps].sum()) / seconds / TERA
            for flops in (self.model_flops, self.hardware_flops)
        )
        return Speed(model, hardware, self._share(model), self._share(hardware))

    def _share(self, teraflops: float) -> float | None:
        peak = self.device.peak_teraflops
        return None if peak is None else teraflops / (peak * self.ranks)

    def facts(self, seconds: float) -> dict[str, Any]:
        """For timings.json; `seconds`: of all steps."""
        speed = self.speed(0, len(self.model_flops), seconds)
        return {
            "device": self.device.name,
            "peak_teraflops": self.device.peak_teraflops,
            "model_flops": float(self.model_flops.sum()),
            "hardware_flops": float(self.hardware_flops.sum()),
            "model_teraflops_per_second": speed.model_teraflops,
            "hardware_teraflops_per_second": speed.hardware_teraflops,
            "mfu": speed.mfu,
            "hfu": speed.hfu,
            **({"mfu_unknown": self.device.unknown} if self.device.unknown else {}),
        }
