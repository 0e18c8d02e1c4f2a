"""Peak speeds of GPUs in dense matrix products: what a utilisation is a share of.

Vendors print sums with 2:4 sparsity first; these are without it, and with 32-bit accumulation, which training needs.
Peaks in fp32 are those of plain fp32, since torch leaves TF32 off: twice the cores times the boost clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dataeff.errors import DataeffError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Gpu:
    """`peak_teraflops`: dense bf16 (V100: fp16, it has no bf16) with fp32 accumulation, in 10^12 FLOP a second;
    `fp32_teraflops`: the same of plain fp32, None where no source is at hand.
    """

    name: str
    peak_teraflops: float
    source: str
    fp32_teraflops: float | None = None

    def peak_of(self, precision: Precision) -> float | None:
        """None where it is not known, or the card lacks the precision."""
        if precision == "fp32":
            return self.fp32_teraflops
        return None if (self.name, precision) == ("V100", "bf16") else self.peak_teraflops


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200", 2250.0, "NVIDIA HGX B200 data sheet: 4,500 with sparsity, halved"),
        Gpu("H200", 989.5, "NVIDIA H200 data sheet (SXM): 1,979 with sparsity, halved", 66.9),
        Gpu("H100", 989.5, "NVIDIA H100 data sheet (SXM): 1,979 with sparsity, halved", 66.9),
        Gpu("H100-PCIe", 756.5, "NVIDIA H100 data sheet (PCIe): 1,513 with sparsity, halved", 51.2),
        Gpu("A100", 312.0, "NVIDIA A100 data sheet", 19.5),
        Gpu("V100", 125.0, "NVIDIA V100 data sheet (SXM2), fp16", 15.7),
        Gpu("L40S", 362.05, "NVIDIA L40S data sheet", 91.6),
        Gpu("L4", 121.0, "NVIDIA L4 data sheet: 242 with sparsity, halved", 30.3),
        Gpu("RTX-4090", 165.2, "NVIDIA Ada white paper, fp32 accumulation", 82.6),
        Gpu("RTX-3090", 71.0, "NVIDIA GA102 white paper, fp32 accumulation", 35.6),
    )
}


DEFAULT_GPU = "H100"
DEFAULT_UTILISATION = 0.40


def find_gpu(name: str | None, peak_teraflops: float | None) -> Gpu:
    """The GPU of this name (however its case, spaces and hyphens are written), or one with a peak of one's own."""
    if peak_teraflops is not None:
        if peak_teraflops <= 0:
            raise DataeffError(f"--peak-tflops {peak_teraflops}: a number above 0 is needed, in 10^12 FLOP a second")
        return Gpu(name or "a GPU", peak_teraflops, "--peak-tflops")
    known = {_plain(gpu): gpu for gpu in GPUS}
    wanted = _plain(name or DEFAULT_GPU)
    if wanted not in known:
        raise DataeffError(f"--gpu: unknown GPU '{name}'; known: {', '.join(GPUS)}; for any other give --peak-tflops")
    return GPUS[known[wanted]]


def gpu_of_driver(name: str) -> Gpu | None:
    """The card that a driver calls so, `NVIDIA H100 80GB HBM3`; None of any other one, also of relatives with another
    peak (`H100 NVL`, `L40`, a part of a card by MIG): a share of a wrong peak would be worse than none.
    """
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    telling = "".join(word for word in words if not _TELLS_NOTHING.fullmatch(word))
    # A100's peak is the same on both boards.
    known = {_plain(gpu): gpu for gpu in GPUS} | {"a100pcie": "A100"}
    return GPUS[known[telling]] if telling in known else None


_TELLS_NOTHING = re.compile(r"nvidia|tesla|geforce|sxm\d?|\d+gb|hbm\d?e?")


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
