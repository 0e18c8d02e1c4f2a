"""Peak speeds of GPUs in dense bf16 or fp16 matrix products: what a utilisation is a share of.

Vendors print sums with 2:4 sparsity first; these are without it, and with 32-bit accumulation, which training needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataeff.errors import DataeffError


@dataclass(frozen=True)
class Gpu:
    """`peak_teraflops`: dense bf16 (V100: fp16, it has no bf16) with fp32 accumulation, in 10^12 FLOP a second."""

    name: str
    peak_teraflops: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200", 2250.0, "NVIDIA HGX B200 data sheet: 4,500 with sparsity, halved"),
        Gpu("H200", 989.5, "NVIDIA H200 data sheet (SXM): 1,979 with sparsity, halved"),
        Gpu("H100", 989.5, "NVIDIA H100 data sheet (SXM): 1,979 with sparsity, halved"),
        Gpu("H100-PCIe", 756.5, "NVIDIA H100 data sheet (PCIe): 1,513 with sparsity, halved"),
        Gpu("A100", 312.0, "NVIDIA A100 data sheet"),
        Gpu("V100", 125.0, "NVIDIA V100 data sheet (SXM2), fp16"),
        Gpu("L40S", 362.05, "NVIDIA L40S data sheet"),
        Gpu("L4", 121.0, "NVIDIA L4 data sheet: 242 with sparsity, halved"),
        Gpu("RTX-4090", 165.2, "NVIDIA Ada white paper, fp32 accumulation"),
        Gpu("RTX-3090", 71.0, "NVIDIA GA102 white paper, fp32 accumulation"),
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


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
