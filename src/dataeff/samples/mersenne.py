"""The Mersenne Twister in numba, 32 and 64 bits wide: Megatron draws its sentence pairs with it.

The generators of C++ (std::mt19937, std::mt19937_64) and numpy's RandomState are the same algorithm; what differs is
how numbers are made of its words. A generator is a plain array here, so that one may be made for every sample.
(Matsumoto and Nishimura, 1998; parity with numpy is tested.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

WORDS, MIDDLE = 624, 397
WORDS_64, MIDDLE_64 = 312, 156
_UPPER, _LOWER, _TWIST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
_UPPER_64, _LOWER_64 = np.uint64(0xFFFFFFFF80000000), np.uint64(0x7FFFFFFF)
_TWIST_64 = np.uint64(0xB5026F5AA96619E9)


@njit(nogil=True, inline="never")  # type: ignore[untyped-decorator]
def seed32(state: Any, seed: Any) -> None:
    """`state`: uint32 [625], the words and, last, the number of words used up."""
    state[0] = np.uint32(seed)
    for index in range(1, WORDS):
        before = np.uint64(state[index - 1] ^ (state[index - 1] >> np.uint32(30)))
        state[index] = np.uint32((np.uint64(1812433253) * before + np.uint64(index)) & np.uint64(0xFFFFFFFF))
    state[WORDS] = WORDS


@njit(nogil=True)  # type: ignore[untyped-decorator]
def next32(state: Any) -> Any:
    """The next 32 bits, as np.uint32.

    A word is renewed when its turn comes, not all at once: a sample that draws ten numbers renews ten of 624.
    """
    index = np.int64(state[WORDS])
    if index >= WORDS:
        index = np.int64(0)
    following = index + 1 if index + 1 < WORDS else 0
    far = index + MIDDLE if index + MIDDLE < WORDS else index + MIDDLE - WORDS
    mixed = (state[index] & _UPPER) | (state[following] & _LOWER)
    word = state[far] ^ (mixed >> np.uint32(1))
    if mixed & np.uint32(1):
        word ^= _TWIST
    state[index] = word
    state[WORDS] = np.uint32(index + 1)
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    word ^= word >> np.uint32(18)
    return np.uint32(word)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def next_double(state: Any) -> Any:
    """RandomState.random(): 53 bits of two words, in [0, 1)."""
    high = np.uint64(next32(state) >> np.uint32(5))
    low = np.uint64(next32(state) >> np.uint32(6))
    return (float(high) * 67108864.0 + float(low)) / 9007199254740992.0


@njit(nogil=True)  # type: ignore[untyped-decorator]
def next_below(state: Any, bound: Any) -> Any:
    """RandomState.randint(0, bound): words masked to the bits of bound - 1, drawn again while above it."""
    largest = np.uint64(bound - 1)
    if largest == np.uint64(0):
        return np.int64(0)
    mask = largest
    for shift in (1, 2, 4, 8, 16, 32):
        mask |= mask >> np.uint64(shift)
    while True:
        if largest <= np.uint64(0xFFFFFFFF):
            value = np.uint64(next32(state)) & mask
        else:
            high = np.uint64(next32(state))
            value = ((high << np.uint64(32)) | np.uint64(next32(state))) & mask
        if value <= largest:
            return np.int64(value)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def seed64(state: Any, seed: Any) -> None:
    """`state`: uint64 [313], the words and, last, the number of words used up."""
    state[0] = np.uint64(seed)
    for index in range(1, WORDS_64):
        before = state[index - 1] ^ (state[index - 1] >> np.uint64(62))
        state[index] = np.uint64(6364136223846793005) * before + np.uint64(index)
    state[WORDS_64] = WORDS_64


@njit(nogil=True)  # type: ignore[untyped-decorator]
def next64(state: Any) -> Any:
    """The next 64 bits, as np.uint64."""
    index = np.int64(state[WORDS_64])
    if index >= WORDS_64:
        index = np.int64(0)
    following = index + 1 if index + 1 < WORDS_64 else 0
    far = index + MIDDLE_64 if index + MIDDLE_64 < WORDS_64 else index + MIDDLE_64 - WORDS_64
    mixed = (state[index] & _UPPER_64) | (state[following] & _LOWER_64)
    word = state[far] ^ (mixed >> np.uint64(1))
    if mixed & np.uint64(1):
        word ^= _TWIST_64
    state[index] = word
    state[WORDS_64] = np.uint64(index + 1)
    word ^= (word >> np.uint64(29)) & np.uint64(0x5555555555555555)
    word ^= (word << np.uint64(17)) & np.uint64(0x71D67FFFEDA60000)
    word ^= (word << np.uint64(37)) & np.uint64(0xFFF7EEE000000000)
    word ^= word >> np.uint64(43)
    return word
