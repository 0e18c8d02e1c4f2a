"""Drives the installed DeepSpeed's DataAnalyzer: map and reduce, as Megatron-DeepSpeed's analyze_data.py calls it.

The metrics are restated from that script's definitions. A sample is a dictionary of `text` (token ids) and
`padding_mask` (1 at real tokens); rows of GPT samples have no padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Metric = Callable[[dict[str, Tensor]], Tensor]


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, text: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any] | None = None) -> None:
        self.text = text.astype(np.int64)
        self.mask = np.ones_like(self.text)
        if lengths is not None:
            self.mask = (np.arange(text.shape[1]) < lengths[:, None]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "text": torch.from_numpy(self.text[index]),
            "padding_mask": torch.from_numpy(self.mask[index]),
            "index": torch.tensor([index]),
        }


def analyze(rows: Rows, metrics: dict[str, Metric], folder: Path, *, total: bool = False, threads: int = 1) -> None:
    """Map and reduce of these metrics; `total`: each is summed up over the samples instead."""
    from deepspeed.runtime.data_pipeline.data_sampling.data_analyzer import DataAnalyzer

    kind = "accumulate_value_over_samples" if total else "single_value_per_sample"
    analyzer = DataAnalyzer(
        rows,
        num_threads=threads,
        batch_size=64,
        metric_names=list(metrics),
        metric_functions=list(metrics.values()),
        metric_types=[kind] * len(metrics),
        metric_dtypes=[torch.int64] * len(metrics),
        save_path=str(folder),
    )
    analyzer.run_map()
    analyzer.run_reduce()


def analyze_all(rows: Rows, names: Sequence[str], bins: int, length: int, folder: Path, threads: int = 1) -> None:
    """Frequencies first, then the metrics that are named."""
    analyze(rows, {"total_vocab_freq": frequency(bins)}, folder, total=True, threads=threads)
    weights = rarities(folder)
    known: dict[str, Metric] = {
        "seqlen": lambda data: torch.count_nonzero(data["padding_mask"], dim=1),
        "vocab_rarity": lambda data: rarity(data, weights),
        "seqlen_vocab_rarity": lambda data: (
            torch.count_nonzero(data["padding_mask"], dim=1)
            * 10 ** (math.ceil(math.log(length * weights.max().item(), 10)) + 1)
            + rarity(data, weights)
        ),
    }
    analyze(rows, {name: known[name] for name in names}, folder, threads=threads)


def frequency(bins: int) -> Metric:
    def count(data: dict[str, Tensor]) -> Tensor:
        weights = data["padding_mask"].reshape(-1).double()
        return torch.bincount(data["text"].reshape(-1), weights, minlength=bins).long()

    return count


def rarities(folder: Path) -> Tensor:
    from deepspeed.runtime.data_pipeline.data_sampling.indexed_dataset import MMapIndexedDataset

    path = folder / "total_vocab_freq" / "total_vocab_freq_metric_value"
    # It unmaps its file when it is collected, under the arrays that it has given out.
    dataset = MMapIndexedDataset(str(path), skip_warmup=True)
    counts = dataset[0].astype(np.int64)
    counts[counts == 0] = 1
    return torch.tensor(-np.log(counts / counts.sum()), dtype=torch.double)


def rarity(data: dict[str, Tensor], weights: Tensor) -> Tensor:
    return torch.sum(data["padding_mask"] * weights[data["text"]], dim=1).long()
