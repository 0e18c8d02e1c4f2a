"""Cleaning has one clean form per text, drops what is no text, and leaves words alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.corpus.clean import Rejected, clean_document, clean_text, text_digest

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text("ab \t\n\r\f\x00\u0301\u00e9\u2028")


@given(TEXTS)
def test_clean_text_is_in_its_one_form(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert "\r" not in clean
    assert "\n\n\n\n" not in clean
    assert not any(line != line.rstrip() for line in clean.split("\n"))
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in clean)


@given(st.lists(st.text("abcé", min_size=1), min_size=1))
def test_words_and_indentation_stay(words: list[str]) -> None:
    text = "\n".join("    " + word for word in words)
    assert clean_text(text) == text


def test_examples() -> None:
    assert clean_text("\ufeffa  \r\nb\x00c\r\n\n\n\n\n\nd\n") == "a\nbc\n\n\nd"
    assert clean_text("cafe\u0301") == "café"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"caf\xe9 is Latin-1 here", "not_utf8"),
        ("half a pair \ud800", "not_utf8"),
        (b"", "empty"),
        (" \r\n\x00 \n", "empty"),
        ("abcd", "short"),
    ],
)
def test_why_a_document_is_dropped(raw: str | bytes, reason: str) -> None:
    assert clean_document(raw, min_characters=5) == Rejected(reason)  # type: ignore[arg-type]


def test_long_enough_documents_pass() -> None:
    assert clean_document(b"abcde\n", min_characters=5) == "abcde"


def test_digests_ignore_case_and_space_only() -> None:
    assert text_digest("The  cat\nsat") == text_digest("the cat sat ")
    assert text_digest("the cat sat") != text_digest("the cat sat.")
