"""Sentences: where a reader would cut, and nothing of the text lost but white space."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from dataeff.tokens import sentences
from dataeff.tokens.sentences import split_sentences
from tests.tokens.texts import anything, pieces


def test_abbreviations_and_numbers_do_not_end_a_sentence() -> None:
    text = "Dr. Smith measured 3.5 mg, i.e. too much. It was 5 p.m. already! Was it?  \nYes."
    assert split_sentences(text) == [
        "Dr. Smith measured 3.5 mg, i.e. too much.",
        "It was 5 p.m. already!",
        "Was it?",
        "Yes.",
    ]


@given(anything | pieces)
@settings(max_examples=300, deadline=None)
def test_nothing_but_white_space_is_lost(text: str) -> None:
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize("unit", ["a. ", "a", ". ", "\n", "! ", "(A.) ", "...", '" '])
def test_long_texts_of_one_kind(unit: str) -> None:
    text = unit * (300_000 // len(unit))
    assert sum(map(len, split_sentences(text))) >= len(text.strip()) / 2 if text.strip() else True


def test_texts_are_cut_at_a_million_characters() -> None:
    text = "x" * (sentences.PIECE_CHARACTERS + 3)
    assert list(map(len, split_sentences(text))) == [sentences.PIECE_CHARACTERS, 3]
