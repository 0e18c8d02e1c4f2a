"""Copies from the host to a graphics card that the host does not wait for.

A copy from ordinary memory has the host wait until the card has come so far, and the card then waits for the host's
next work. From pinned memory the copy is one more task in the card's queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the host on the device; on a CPU the same tensor."""
    import torch

    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
