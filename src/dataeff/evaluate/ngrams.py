"""Which of many items stand in running text: the n-grams of their words, looked up in one pass over the text.

Words are runs of letters and digits in lower case. An item is found when 13 words in a row of one of its texts stand in
a document, or its longest text as a whole if none has so many. A document is read once, as bytes: a hash of every word,
from these a hash of every n-gram, and of those a look-up in a bitmap and then in a table of the items' own. What the
hashes find is compared word by word before it counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff.keyed import mix

GRAM_WORDS = 13
"""As GPT-3 compared its evaluation sets with its training text (arXiv 2005.14165, appendix C)."""

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_BETWEEN = re.compile(r"[\W_]+")
_ASCII = bytes(ord(chr(code).lower()) if chr(code).isalnum() and code < 128 else 32 for code in range(256))
_NEWLINE = b"\n"

_BASE, _BYTE = np.uint64(0x9E3779B97F4A7C15 | 1), np.uint64(0x100000001B3)
_SEED, _0, _1, _63 = np.uint64(0xCBF29CE484222325), np.uint64(0), np.uint64(1), np.uint64(63)
_6 = np.uint64(6)
_RING = 16
"""Of the last words' running hashes: a power of two above the longest gram."""
_BITS_PER_GRAM = 16


def normalised(text: str) -> bytes:
    """The words of a text in lower case as UTF-8, with spaces between; no other separator is left."""
    if text.isascii():
        return text.encode().translate(_ASCII)
    return _BETWEEN.sub(" ", text.lower()).encode()


class Items:
    """Texts to be found. `found` holds, by item, the words by which it was; items without a word are never found."""

    def __init__(self, items: Sequence[Sequence[str]]) -> None:
        self._texts = [_NEWLINE.join(map(normalised, _compared(texts))) for texts in items]
        self.short = [position for position, text in enumerate(self._texts) if _most_words(text) < GRAM_WORDS]
        self.found: dict[int, str] = {}
        short = set(self.short)
        grams = [_grams_of(text, _most_words(text) if n in short else GRAM_WORDS) for n, text in enumerate(self._texts)]
        self._owners = np.repeat(np.arange(len(grams)), [len(hashes) for hashes, _ in grams])
        self._places = np.concatenate([places for _, places in grams] or [np.empty((0, 2), np.int64)])
        hashes = np.concatenate([hashes for hashes, _ in grams] or [np.empty(0, np.uint64)])
        order = np.argsort(hashes, kind="stable")
        self._owners, self._places = self._owners[order], self._places[order]
        keys, self._first = np.unique(hashes[order], return_index=True)
        self._lengths = np.array(sorted({_most_words(self._texts[n]) for n in short} - {0} | {GRAM_WORDS}), np.int64)
        self._table, self._bits = _table_of(keys)
        self._keys, self._done = keys, np.zeros(len(keys), np.bool_)

    def __len__(self) -> int:
        return len(self._texts)

    def look(self, text: str) -> None:
        """Notes the items that stand in a document."""
        words = normalised(text)
        data = np.frombuffer(words, np.uint8)
        hits = _look(data, self._lengths, self._keys, self._table, self._bits, self._done)
        for slot, begin, end in hits:
            self._compare(int(slot), b" ".join(words[begin:end].split()))

    def _compare(self, slot: int, gram: bytes) -> None:
        """Each item that has a gram of this hash: is it this one?"""
        last = self._first[slot + 1] if slot + 1 < len(self._first) else len(self._owners)
        alike = True
        for entry in range(self._first[slot], last):
            owner = int(self._owners[entry])
            begin, end = self._places[entry]
            if b" ".join(self._texts[owner][begin:end].split()) == gram:
                self.found.setdefault(owner, gram.decode())
            else:
                alike = False
        self._done[slot] = alike


def _compared(texts: Sequence[str]) -> list[str]:
    """The texts of an item that are long enough; the longest one if none is."""
    counted = [(len(normalised(text).split()), text) for text in texts]
    long = [text for count, text in counted if count >= GRAM_WORDS]
    return long or [text for _, text in sorted(counted, key=lambda pair: -pair[0])[:1]]


def _most_words(text: bytes) -> int:
    return max((len(line.split()) for line in text.split(_NEWLINE)), default=0)


def _grams_of(text: bytes, length: int) -> tuple[Hashes, Offsets]:
    """Hashes of the grams of `length` words within the lines of a text, and the bytes (begin, end) of each."""
    if length == 0:
        return np.empty(0, np.uint64), np.empty((0, 2), np.int64)
    found: tuple[Hashes, Offsets] = _all_grams(np.frombuffer(text, np.uint8), length)
    return found


def _table_of(keys: Hashes) -> tuple[NDArray[np.int64], Hashes]:
    """Open addressing: hash -> position in `keys` (-1: free), at most half full; and a bit for every hash."""
    size = 1 << max(4, (2 * len(keys)).bit_length())
    bits = np.zeros(max(1, (_BITS_PER_GRAM << max(4, len(keys).bit_length())) >> 6), np.uint64)
    table = np.full(size, -1, np.int64)
    _fill(keys, table, bits)
    return table, bits


# --- compiled -----------------------------------------------------------------------------------------------


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _fill(keys: Any, table: Any, bits: Any) -> None:
    mask, bit_mask = np.uint64(table.size - 1), np.uint64(bits.size * 64 - 1)
    for position in range(keys.size):
        bit = keys[position] & bit_mask
        bits[bit >> _6] |= _1 << (bit & _63)
        place = (keys[position] >> np.uint64(20)) & mask
        while table[place] >= 0:
            place = (place + _1) & mask
        table[place] = position


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _power(length: Any) -> Any:
    power = _1
    for _ in range(length):
        power *= _BASE
    return power


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _gram(now: Any, before: Any, power: Any, length: Any) -> Any:
    """Of the words between two running hashes; grams of different lengths differ."""
    return mix(now - before * power + np.uint64(length))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _all_grams(data: Any, length: Any) -> Any:
    hashes = np.empty(data.size // 2 + 1, np.uint64)
    places = np.empty((data.size // 2 + 1, 2), np.int64)
    running, begins = np.zeros(_RING, np.uint64), np.zeros(_RING, np.int64)
    power = _power(length)
    words, made, word, begin = 0, 0, _SEED, -1
    for position in range(data.size + 1):
        byte = data[position] if position < data.size else np.uint8(10)
        if byte > 32:
            if begin < 0:
                begin = position
            word = (word ^ np.uint64(byte)) * _BYTE
            continue
        if begin >= 0:
            running[(words + 1) % _RING] = running[words % _RING] * _BASE + mix(word)
            begins[words % _RING] = begin
            words += 1
            if words >= length:
                first = (words - length) % _RING
                hashes[made] = _gram(running[words % _RING], running[first], power, length)
                places[made, 0], places[made, 1] = begins[first], position
                made += 1
            word, begin = _SEED, -1
        if byte == 10:
            words, running[0] = 0, _0
    return hashes[:made].copy(), places[:made].copy()


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _look(data: Any, lengths: Any, keys: Any, table: Any, bits: Any, done: Any) -> Any:
    """(position in keys, begin, end) of each gram of the data that has one of the keys, each key once."""
    mask, bit_mask = np.uint64(table.size - 1), np.uint64(bits.size * 64 - 1)
    powers = np.array([_power(length) for length in lengths])
    running, begins = np.zeros(_RING, np.uint64), np.zeros(_RING, np.int64)
    hits, count = np.empty((16, 3), np.int64), 0
    words, word, begin = 0, _SEED, -1
    for position in range(data.size + 1):
        byte = data[position] if position < data.size else np.uint8(32)
        if byte > 32:
            if begin < 0:
                begin = position
            word = (word ^ np.uint64(byte)) * _BYTE
            continue
        if begin < 0:
            continue
        running[(words + 1) % _RING] = running[words % _RING] * _BASE + mix(word)
        begins[words % _RING] = begin
        words += 1
        word, begin = _SEED, -1
        for which in range(lengths.size):
            length = lengths[which]
            if words < length:
                break
            first = (words - length) % _RING
            wanted = _gram(running[words % _RING], running[first], powers[which], length)
            bit = wanted & bit_mask
            if not (bits[bit >> _6] >> (bit & _63)) & _1:
                continue
            place = (wanted >> np.uint64(20)) & mask
            while table[place] >= 0 and keys[table[place]] != wanted:
                place = (place + _1) & mask
            key = table[place]
            if key < 0 or done[key]:
                continue
            done[key] = True
            if count == hits.shape[0]:
                grown = np.empty((2 * count, 3), np.int64)
                grown[:count] = hits
                hits = grown
            hits[count, 0], hits[count, 1], hits[count, 2] = key, begins[first], position
            count += 1
    return hits[:count]
