"""Difficulties that are read off a sample's text: how well it compresses, how diverse its words, how long they are.

The three that arXiv 2506.11300 found to be the best signals for pretraining. Each is one integer that is larger for
harder text, so that a curriculum from easy to hard begins with repetitive, plain text. All are defined for every
text, and are 0 for one without words (or bytes).

Words are runs of letters and digits, apostrophes inside included, in lower case.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from dataeff.tokens.tokenizer import Tokenizer

COMPRESSION_LEVEL = 6
"""zlib's own default; part of the metric's definition."""
MTLD_PERCENT = 72
"""A factor ends where its share of distinct words falls below this (McCarthy & Jarvis 2010)."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# A sentence ends at stops that no word goes on behind (so not inside 3.14), or at an empty line.
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?![^\W_])|\n\s*\n")
_VOWELS = re.compile(r"[aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýÿœ]+")
_SILENT_END = re.compile(r"(?<=[^aeiouy])(?:(?<![^aeiouy]l)e|(?<![cghsxz])(?<![^aeiouy]l)es|(?<![dt])ed)$")


def text_decoder(tokenizer: Tokenizer) -> Callable[[Sequence[int]], str]:
    """Token ids to the text that they came from. What ends a document or a part of a sentence pair becomes an empty
    line, so that no sentence goes on across it; what else frames the text is left out.
    """
    if tokenizer.form == "byte_pairs":
        end, frame = tokenizer.eos_id, frozenset[int]()
    else:
        end, frame = tokenizer.sep_id, frozenset((tokenizer.cls_id, tokenizer.mask_id, tokenizer.pad_id))

    def decode(ids: Sequence[int]) -> str:
        kept = [id for id in ids if id not in frame] if frame else list(ids)
        texts, start = [], 0
        for _ in range(kept.count(end)):
            stop = kept.index(end, start)
            texts.append(tokenizer.decode(kept[start:stop]))
            start = stop + 1
        return "\n\n".join([*texts, tokenizer.decode(kept[start:])])

    return decode


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def compression_ratio(text: str) -> int:
    """Compressed bytes per 10,000 bytes of the text as UTF-8: redundant text is easy, dense text is hard.

    Below about 100 bytes the format's own 11 bytes are felt, and the value may exceed 10,000.
    """
    data = text.encode(errors="replace")
    return len(zlib.compress(data, COMPRESSION_LEVEL)) * 10_000 // len(data) if data else 0


def mtld(text: str) -> int:
    """Measure of textual lexical diversity x 100: the mean number of words that keep up a share of distinct words of
    0.72, read forwards and backwards (McCarthy & Jarvis 2010). Diverse text is hard.

    What is left at the end counts as the part of a factor that its share of distinct words has fallen towards 0.72.
    Where no word occurs twice there is no factor, and the value is that of the whole text as one.
    """
    numbers: dict[str, int] = {}
    ids = np.array(array("q", [numbers.setdefault(word, len(numbers)) for word in words(text)]), dtype=np.int64)
    if not len(ids):
        return 0
    if len(numbers) == len(ids):
        return 100 * len(ids)
    seen = np.zeros(len(numbers), dtype=np.int64)
    both = 0.5 * (len(ids) / _factors(ids, seen) + len(ids) / _factors(ids[::-1], seen))
    return int(100 * both)


def flesch(text: str) -> int:
    """(206.835 - Flesch's reading ease) x 100 = 100 * (1.015 * words / sentences + 84.6 * syllables / words).

    Reading ease is high for easy text; its distance from the top of its scale is what is hard, and never negative.
    Sentences: the stretches between sentence ends that hold a word. Syllables: see `syllables`.
    """
    found = words(text)
    if not found:
        return 0
    sentences = sum(1 for stretch in _SENTENCE_END.split(text) if _WORD.search(stretch))
    return int(100 * (1.015 * len(found) / sentences + 84.6 * sum(map(syllables, found)) / len(found)))


@lru_cache(maxsize=1 << 17)
def syllables(word: str) -> int:
    """Groups of vowels (y is one) of a word in lower case, less a silent ending; at least 1.

    Silent are -e, -es and -ed behind a consonant; not -le(s) behind a consonant (table), -es behind c, g, h, s, x or z
    (boxes), -ed behind d or t (wanted).
    """
    return max(1, len(_VOWELS.findall(word)) - (1 if _SILENT_END.search(word) else 0))


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _factors(ids: Any, seen: Any) -> float:
    """Factors of the words `ids` in this order, the last one in part; above 0 if a word occurs twice."""
    seen[:] = 0
    factors, begun, distinct, count = 0.0, 1, 0, 0
    for id in ids:
        count += 1
        if seen[id] != begun:
            seen[id] = begun
            distinct += 1
        if 100 * distinct < MTLD_PERCENT * count:
            factors += 1
            begun, distinct, count = begun + 1, 0, 0
    if count:
        factors += (1 - distinct / count) / (1 - MTLD_PERCENT / 100)
    return factors
