"""Frequencies, rarity and length metrics against torch, as Megatron-DeepSpeed's analyze_data.py computes them.

Its metric functions run inside DeepSpeed's analyser: a bincount over all samples, accumulated; then -ln of the
shares in double precision, summed per sample and cut to a whole number; padding masked for BERT.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from dataeff.analyze.metrics import (
    MetricContext,
    count_tokens,
    frequency_bins,
    seqlen,
    seqlen_vocab_rarity,
    vocab_rarity,
)
from dataeff.samples import SampleBatch

torch = pytest.importorskip("torch")


def zipf_tokens(samples: int, width: int, vocab_size: int, seed: int) -> np.ndarray:
    """Tokens with a long tail, so that some ids never occur."""
    random = np.random.default_rng(seed)
    return np.minimum(random.zipf(1.3, (samples, width)) - 1, vocab_size - 1).astype(np.int64)


@pytest.mark.parametrize(("length", "vocab_size"), [(1, 128), (256, 4096), (2048, 50_304)])
def test_values_of_whole_samples_are_upstreams(length: int, vocab_size: int) -> None:
    tokens = zipf_tokens(1000, length + 1, vocab_size, seed=length)
    batch = SampleBatch(tokens, np.full(len(tokens), length + 1, dtype=np.int32), None, None)
    bins = frequency_bins(vocab_size)

    frequency = torch.zeros(bins, dtype=torch.long)
    for part in torch.from_numpy(tokens).split(64):
        frequency += torch.bincount(part.reshape(-1), minlength=vocab_size + 1)
    counts = frequency.numpy().copy()
    assert (counts == 0).any()
    assert count_tokens(batch, bins).tolist() == counts.tolist()

    counts[counts == 0] = 1
    weights = torch.tensor(-np.log(counts / counts.sum()), dtype=torch.double)
    sums = torch.stack([weights[torch.from_numpy(row)].sum() for row in tokens])
    values = vocab_rarity(batch, MetricContext.of(length, frequency.numpy()))
    assert values.tolist() == sums.to(torch.long).tolist()


@pytest.mark.parametrize(("length", "vocab_size"), [(8, 128), (512, 30_592)])
def test_values_of_padded_samples_are_upstreams(length: int, vocab_size: int) -> None:
    """[PAD] is token 0, which is also a token that occurs: only the mask tells them apart."""
    tokens = zipf_tokens(1000, length, vocab_size, seed=length)
    lengths = np.random.default_rng(1).integers(3, length + 1, len(tokens)).astype(np.int32)
    mask = np.arange(length) < lengths[:, None]
    tokens[~mask] = 0
    batch = SampleBatch(tokens, lengths, np.zeros_like(tokens, dtype=np.int8), np.zeros(len(tokens), dtype=bool))
    text, padding_mask = torch.from_numpy(tokens), torch.from_numpy(mask.astype(np.int64))

    frequency = torch.bincount(text.view(-1), minlength=vocab_size + 1, weights=padding_mask.view(-1))
    assert count_tokens(batch, frequency_bins(vocab_size)).tolist() == frequency.long().tolist()

    counts = frequency.numpy().astype(np.int64)
    counts[counts == 0] = 1
    weights = torch.tensor(-np.log(counts / counts.sum()), dtype=torch.double)
    context = MetricContext.of(length, frequency.long().numpy())
    real = torch.count_nonzero(padding_mask, dim=1)
    rarity = torch.sum(padding_mask * weights[text], dim=1).to(torch.long)
    coefficient = 10 ** (math.ceil(math.log(length * torch.max(weights).item(), 10)) + 1)
    assert seqlen(batch, context).tolist() == real.tolist()
    assert vocab_rarity(batch, context).tolist() == rarity.tolist()
    assert seqlen_vocab_rarity(batch, context).tolist() == (real * coefficient + rarity).tolist()
