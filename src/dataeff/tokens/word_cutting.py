"""BERT's cutting of ASCII text into word pieces, as one compiled walk over its bytes.

Control characters vanish, white space and each punctuation mark end a word, letters get small; a word is cut into the
longest pieces of the vocabulary, from its start on. The pieces lie in a tree: a step down per character, once from the
root of pieces that start words and once from that of pieces that continue them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff.tokens.vocabulary import CONTINUED, MAX_WORD_CHARACTERS

_STARTS, _CONTINUES = 0, 1
_SPACE, _GONE = 0, 1
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MARKS = frozenset(_PUNCTUATION)
_FIRST_MARK = 2
_FIRST_LETTER = _FIRST_MARK + len(_PUNCTUATION)


def _codes() -> NDArray[np.uint8]:
    """For each byte of ASCII: white space, a control character, or the number of a mark or of a (small) letter."""
    codes = np.full(128, _GONE, dtype=np.uint8)
    codes[[ord(character) for character in " \t\n\r"]] = _SPACE
    for number, character in enumerate(_PUNCTUATION + _LETTERS, start=_FIRST_MARK):
        codes[[ord(character), ord(character.upper())]] = number
    return codes


class WordCutter:
    """ASCII texts to ids. `vocabulary` is WordPiece's; `unknown` the id of a word that it does not cover."""

    def __init__(self, vocabulary: Mapping[str, int], unknown: int) -> None:
        self._codes = _codes()
        self._unknown = unknown
        self._steps, self._ids = self._tree(vocabulary)
        self._cut = _compiled()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Ids of all texts in a row, and where those of each text end."""
        data = np.frombuffer("".join(texts).encode("ascii"), dtype=np.uint8)
        text_ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
        out = np.empty(len(data), dtype=np.int32)
        ends = np.empty(len(texts), dtype=np.int64)
        count = self._cut(data, text_ends, self._codes, self._steps, self._ids, self._unknown, out, ends)
        return out[:count], ends

    def _tree(self, vocabulary: Mapping[str, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """steps [nodes, codes]: the next node (0: none); ids [nodes]: of the piece that ends there (-1: none)."""
        width, codes_of = _FIRST_LETTER + len(_LETTERS), self._codes.tobytes() + bytes(128)
        steps: dict[int, int] = {}
        ids = [-1, -1]
        for token, id in vocabulary.items():
            node = _CONTINUES if token.startswith(CONTINUED) else _STARTS
            piece = token.removeprefix(CONTINUED) if node == _CONTINUES else token
            if not _is_in_words(piece, alone=node == _STARTS):
                continue
            for code in piece.encode().translate(codes_of):
                place = node * width + code
                node = steps.get(place, 0)
                if not node:
                    node = steps[place] = len(ids)
                    ids.append(-1)
            ids[node] = id
        table = np.zeros(len(ids) * width, dtype=np.int32)
        table[list(steps)] = list(steps.values())
        return table.reshape(-1, width), np.array(ids, dtype=np.int32)


def _is_in_words(piece: str, *, alone: bool) -> bool:
    """Whether ASCII has words with this piece: small letters and digits, or one mark that is a word."""
    return piece.isascii() and ((piece.isalnum() and piece == piece.lower()) or (alone and piece in _MARKS))


@cache
def _compiled() -> Callable[..., int]:
    """The compiled walk: taken from numba's cache of compiled code, where there is a folder for it."""
    from numba import njit

    try:
        compiled: Callable[..., int] = njit(nogil=True, cache=True)(_cut)
    except RuntimeError:  # no folder that can be written
        compiled = njit(nogil=True)(_cut)
    return compiled


def _cut(data: Any, text_ends: Any, codes: Any, steps: Any, ids: Any, unknown: int, out: Any, ends: Any) -> int:
    """Fills in `out` and `ends`; the number of ids. `word` holds the codes of the word read so far."""
    word = np.empty(MAX_WORD_CHARACTERS, dtype=np.uint8)
    count = position = 0
    for text in range(text_ends.size):
        length = 0
        while position <= text_ends[text]:
            at_end = position == text_ends[text]
            code = _SPACE if at_end else codes[data[position]]
            if not at_end:
                position += 1
            if code == _GONE:
                continue
            if code >= _FIRST_LETTER:
                if length < MAX_WORD_CHARACTERS:
                    word[length] = code
                length += 1
                continue
            # A word ends here, and a punctuation mark is one more.
            for turn in range(2):
                if turn == 1:
                    if code == _SPACE:
                        break
                    word[0] = code
                    length = 1
                first, done = count, 0
                root = _STARTS
                while done < length:
                    node, reached = root, done
                    id = -1
                    at = done
                    while length <= MAX_WORD_CHARACTERS and at < length:
                        node = steps[node, word[at]]
                        if node == 0:
                            break
                        at += 1
                        if ids[node] >= 0:
                            id = ids[node]
                            reached = at
                    if id < 0:
                        out[first] = unknown
                        count = first + 1
                        break
                    out[count] = id
                    count += 1
                    done, root = reached, _CONTINUES
                length = 0
            if at_end:
                break
        ends[text] = count
    return count
