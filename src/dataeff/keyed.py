"""Randomness as a pure function of a key: (seed, purpose, step, ...), never a generator that is carried along.

Two callers with one key get the same numbers whatever ran before, on any number of ranks and after any resume.
`word` is the n-th number of the stream of a key and `below` one of a range, without bias; `permuted` is a keyed
permutation of [0, n) that is evaluated at single positions, so that no shuffled list of 2.5 billion sample ids needs
to exist. These three are compiled, for use in compiled loops, and integers throughout: equal on every machine.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Integers = NDArray[np.uint64]

_ROUNDS = 6
# Constants of the compiled functions: a plain integer beside a uint64 would make numba calculate in floats.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF, _LOW_HALF = np.uint64(32), np.uint64(0xFFFFFFFF)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)
_0, _1, _2 = np.uint64(0), np.uint64(1), np.uint64(2)


def key(seed: int, purpose: str, *parts: int) -> int:
    """A 64-bit key from a seed, a purpose and any number of integers; equal inputs, equal key, on every machine."""
    text = ":".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *parts: int) -> np.random.Generator:
    """A fresh numpy generator for this key (Philox: its stream is stable across platforms and numpy versions)."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *parts)))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def mix(value: Any) -> Any:
    """splitmix64's finaliser: a bijection of 64-bit integers in which every input bit reaches every output bit.

    `value`: uint64, one or an array.
    """
    value = (value ^ (value >> _30)) * _FIRST
    value = (value ^ (value >> _27)) * _SECOND
    return value ^ (value >> _31)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def word(key: Any, number: Any) -> Any:
    """Number `number` (from 0) of splitmix64's stream from the seed `key`; both and the result are uint64.

    As uniform bits, and as the key of a stream below this one: word(word(key, step), slot).
    """
    return mix(key + (number + _1) * _GOLDEN)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def below(key: Any, number: Any, size: Any) -> Any:
    """A uniform uint64 in [0, size), exactly: the high half of word * size, drawn again where that would favour some.

    D. Lemire, Fast Random Integer Generation in an Interval (2019): of the 2**64 words, 2**64 mod size are refused.
    """
    drawn = word(key, number)
    low = drawn * size
    if low < size:
        refused = (_0 - size) % size
        while low < refused:
            drawn = word(drawn, number)
            low = drawn * size
    return _high_half(drawn, size)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _high_half(one: Any, other: Any) -> Any:
    """The upper 64 of the 128 bits of a product, from four products of halves."""
    upper, lower = one >> _HALF, one & _LOW_HALF
    other_upper, other_lower = other >> _HALF, other & _LOW_HALF
    first, second = upper * other_lower, lower * other_upper
    carried = ((lower * other_lower) >> _HALF) + (first & _LOW_HALF) + (second & _LOW_HALF)
    return upper * other_upper + (first >> _HALF) + (second >> _HALF) + (carried >> _HALF)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def permuted(position: Any, size: Any, key: Any) -> Any:
    """The image of one position under the keyed permutation of [0, size); all uint64.

    A balanced Feistel network over the smallest even number of bits that holds `size`, walked until the image
    falls below `size` (at most 4 walks on average, since the domain is less than 4 times `size`).
    """
    half_bits = _1
    while half_bits < _HALF and (_1 << (half_bits * _2)) < size:
        half_bits += _1
    mask = (_1 << half_bits) - _1
    value = position
    while True:
        left, right = value >> half_bits, value & mask
        for index in range(_ROUNDS):
            left, right = right, left ^ (mix(right ^ word(key, np.uint64(index))) & mask)
        value = (left << half_bits) | right
        if value < size:
            return value


def permute(positions: NDArray[np.integer], size: int | NDArray[np.integer], keys: int | Integers) -> NDArray[np.int64]:
    """Images of `positions` under the keyed permutation of [0, size); all arguments broadcast."""
    value, sizes, key_array = np.broadcast_arrays(
        np.asarray(positions, dtype=np.uint64),
        np.asarray(size, dtype=np.uint64),
        np.asarray(keys, dtype=np.uint64),
    )
    if value.size and bool((value >= sizes).any()):
        raise ValueError("a position lies outside the permutation's range")
    result = np.empty(value.size, dtype=np.int64)
    _permute(value.flatten(), sizes.flatten(), key_array.flatten(), result)
    return result.reshape(value.shape)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _permute(positions: Any, sizes: Any, keys: Any, out: Any) -> None:
    for index in range(out.size):
        out[index] = permuted(positions[index], sizes[index], keys[index])
