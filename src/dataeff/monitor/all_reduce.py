"""A sum over all ranks, as a training makes one after every step: `torchrun ... -m dataeff.monitor.all_reduce`.

Prints one line of JSON from rank 0: the ranks, the backend, each rank's GPU, and the speed of a sum of 64 MB.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta

BYTES = 64 * 2**20
REPEATS = 5


def main() -> None:
    import torch
    from torch import distributed

    on_gpu, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, timeout=timedelta(seconds=60))
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    values = torch.full((BYTES // 4,), float(rank + 1), device=device)
    distributed.all_reduce(values)
    right = bool((values == ranks * (ranks + 1) / 2).all())
    begun = time.monotonic()
    for _ in range(REPEATS):
        distributed.all_reduce(values)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = (time.monotonic() - begun) / REPEATS
    names: list[str | None] = [None] * ranks
    distributed.all_gather_object(names, torch.cuda.get_device_name(device) if on_gpu else "cpu")
    if rank == 0:
        told = {
            "ranks": ranks,
            "backend": backend,
            "devices": names,
            "right": right,
            "bytes_per_second": BYTES / seconds,
        }
        print(json.dumps(told), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
