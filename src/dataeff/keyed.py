"""Randomness as a pure function of a key: (seed, purpose, step, ...), never a generator that is carried along.

Two callers with one key get the same numbers whatever ran before, on any number of ranks and after any resume.
`permute` is a keyed permutation of [0, n) that is evaluated at single positions, so that no shuffled list of
2.5 billion sample ids needs to exist.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.uint64]

_ROUNDS = 6


def key(seed: int, purpose: str, *parts: int) -> int:
    """A 64-bit key from a seed, a purpose and any number of integers; equal inputs, equal key, on every machine."""
    text = ":".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *parts: int) -> np.random.Generator:
    """A fresh numpy generator for this key (Philox: its stream is stable across platforms and numpy versions)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *parts)))


def mix(value: Integers) -> Integers:
    """splitmix64's finaliser: a bijection of 64-bit integers in which every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(positions: NDArray[np.integer], size: int | NDArray[np.integer], keys: int | Integers) -> NDArray[np.int64]:
    """Images of `positions` under the keyed permutation of [0, size); all arguments broadcast.

    A balanced Feistel network over the smallest even number of bits that holds `size`, walked until the image
    falls below `size` (at most 4 walks on average, since the domain is less than 4 times `size`).
    """
    value, sizes, key_array = np.broadcast_arrays(
        np.asarray(positions, dtype=np.uint64),
        np.asarray(size, dtype=np.uint64),
        np.asarray(keys, dtype=np.uint64),
    )
    if value.size and bool((value >= sizes).any()):
        raise ValueError("a position lies outside the permutation's range")
    half_bits = np.maximum(1, (_bit_length(sizes - np.uint64(1)) + np.uint64(1)) // np.uint64(2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    result = value.copy()
    pending = np.ones(value.shape, dtype=bool)
    with np.errstate(over="ignore"):
        while pending.any():
            result[pending] = _feistel(result[pending], half_bits[pending], mask[pending], key_array[pending])
            pending = result >= sizes
    return result.astype(np.int64)


def _bit_length(value: Integers) -> Integers:
    bits = np.zeros(value.shape, dtype=np.uint64)
    for shift in (32, 16, 8, 4, 2, 1):
        large = (value >> bits) >= (np.uint64(1) << np.uint64(shift))
        bits = bits + np.where(large, np.uint64(shift), np.uint64(0))
    return bits + (value > 0).astype(np.uint64)


def _feistel(value: Integers, half_bits: Integers, mask: Integers, keys: Integers) -> Integers:
    left, right = value >> half_bits, value & mask
    for index in range(_ROUNDS):
        round_key = keys + np.uint64(0x9E3779B97F4A7C15 * (index + 1) % 2**64)
        left, right = right, left ^ (mix(right ^ mix(round_key)) & mask)
    return (left << half_bits) | right
