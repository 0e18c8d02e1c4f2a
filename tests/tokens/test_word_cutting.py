"""The compiled walk cuts ASCII as the tokenizers library does: every control character, mark and unknown word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.tokens.tokenizer import _word_pieces
from dataeff.tokens.vocabulary import WORD_PIECE_TOKENS
from dataeff.tokens.word_cutting import WordCutter

# Some letters and marks neither start nor continue a word; some words are only to be cut by taking the longest piece.
PIECES = (
    *"abcdeghimnopqrstuvwx0123456789.,!?-()[]'#",
    *(f"##{letter}" for letter in "abcdefghilmnopqrstuvwxy012345678"),
    *("un", "una", "##aff", "##able", "##ab", "the", "there", "##re", "##s", "12", "##12", "é", "##é", "sep", "###"),
)
VOCABULARY = {token: number for number, token in enumerate(dict.fromkeys((*WORD_PIECE_TOKENS, *PIECES)))}


def cut(texts: list[str]) -> list[list[int]]:
    ids, ends = WordCutter(VOCABULARY, VOCABULARY["[UNK]"])(texts)
    return [row.tolist() for row in np.split(ids, ends)][: len(texts)]


def reference(texts: list[str]) -> list[list[int]]:
    backend = _word_pieces(VOCABULARY)
    backend.encode_special_tokens = True
    return [encoding.ids for encoding in backend.encode_batch(texts, add_special_tokens=False)]


@given(
    st.lists(
        st.text(st.characters(max_codepoint=127), max_size=60)
        | st.text("unaffableUNAFFABLEthers12 .#\x00\t", max_size=200),
        max_size=8,
    )
)
@settings(max_examples=500, deadline=None)
def test_ids_are_the_references(texts: list[str]) -> None:
    assert cut(texts) == reference(texts)


def test_every_pair_of_characters() -> None:
    characters = [chr(code) for code in range(128)]
    texts = [f"a{left}{right}a" for left in characters for right in characters]
    assert cut(texts) == reference(texts)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 102, 1000])
@pytest.mark.parametrize("letter", ["a", "f", "A\x00"])
def test_long_words(length: int, letter: str) -> None:
    texts = ["the", letter * length, f"the {letter * length}.the", "the"]
    assert cut(texts) == reference(texts)


def test_the_longest_piece_is_taken() -> None:
    names = list(VOCABULARY)
    assert [names[id] for id in cut(["unaffable"])[0]] == ["una", "##f", "##f", "##able"]
    assert [names[id] for id in cut(["THERES therez z"])[0]] == ["there", "##s", "[UNK]", "[UNK]"]


def test_nothing_in_nothing_out() -> None:
    assert cut([]) == []
    assert cut(["", " ", "\x00"]) == [[], [], []]
