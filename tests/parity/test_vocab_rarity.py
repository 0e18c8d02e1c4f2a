"""Frequencies and vocabulary rarity against torch, as Megatron-DeepSpeed's analyze_data.py computes them.

Its metric functions run inside DeepSpeed's analyser: a bincount over all samples, accumulated; then -ln of the
shares in double precision, summed per sample and cut to a whole number.
"""

from __future__ import annotations

import numpy as np
import pytest

from dataeff.analyze.metrics import count_tokens, frequency_bins, vocab_rarity

torch = pytest.importorskip("torch")


def zipf_tokens(samples: int, length: int, vocab_size: int, seed: int) -> np.ndarray:
    """Tokens with a long tail, so that some ids never occur."""
    random = np.random.default_rng(seed)
    return np.minimum(random.zipf(1.3, (samples, length + 1)) - 1, vocab_size - 1).astype(np.int64)


@pytest.mark.parametrize(("length", "vocab_size"), [(1, 128), (256, 4096), (2048, 50_304)])
def test_values_are_upstreams(length: int, vocab_size: int) -> None:
    tokens = zipf_tokens(300, length, vocab_size, seed=length)
    bins = frequency_bins(vocab_size)

    frequency = torch.zeros(bins, dtype=torch.long)
    for part in torch.from_numpy(tokens).split(64):
        frequency += torch.bincount(part.reshape(-1), minlength=vocab_size + 1)
    counts = frequency.numpy().copy()
    assert (counts == 0).any()
    assert count_tokens(tokens, bins).tolist() == counts.tolist()

    counts[counts == 0] = 1
    weights = torch.tensor(-np.log(counts / counts.sum()), dtype=torch.double)
    sums = torch.stack([weights[torch.from_numpy(row)].sum() for row in tokens])
    assert vocab_rarity(tokens, frequency.numpy()).tolist() == sums.to(torch.long).tolist()
