"""Text metrics against values worked out by hand, and on text that is no text."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.analyze.text_metrics import compression_ratio, flesch, mtld, syllables, words

ALL = (compression_ratio, mtld, flesch)


def test_words_are_letters_and_digits_with_inner_apostrophes() -> None:
    text = "Don't stop_here: it’s 3.14, 'quoted' naïve-Bayes!"
    assert words(text) == ["don't", "stop", "here", "it’s", "3", "14", "quoted", "naïve", "bayes"]


# --- compression -------------------------------------------------------------------------------------------------


def test_compression_is_compressed_bytes_per_ten_thousand() -> None:
    text = "été " * 100
    assert compression_ratio(text) == 10_000 * len(zlib.compress(text.encode(), 6)) // 600


def test_redundant_text_is_easier() -> None:
    shuffled = list("the quick brown fox jumps over the lazy dog " * 20)
    random.Random(1).shuffle(shuffled)
    assert compression_ratio("the quick brown fox jumps over the lazy dog " * 20) < compression_ratio("".join(shuffled))


# --- MTLD --------------------------------------------------------------------------------------------------------


def slow_mtld(text: str) -> float:
    """As the paper tells it: the share of distinct words so far; below 0.72 a factor is complete."""

    def one_way(order: list[str]) -> float:
        factors, stretch = 0.0, []
        for word in order:
            stretch.append(word)
            if len(set(stretch)) / len(stretch) < 0.72:
                factors, stretch = factors + 1, []
        if stretch:
            factors += (1 - len(set(stretch)) / len(stretch)) / (1 - 0.72)
        return len(order) / factors

    found = words(text)
    return (one_way(found) + one_way(found[::-1])) / 2


def test_mtld_of_known_texts() -> None:
    # "a a": 1/1, 1/2 < 0.72, a factor every 2 words, either way.
    assert mtld("a a a a a a") == 200
    # 1, 1, 1, 3/4, 3/5: a factor of 5 words; backwards, b a c b a, the same.
    assert mtld("a b c a b") == 500
    # Forwards 1, 1, 2/3: a factor, then c d whole (0 of one): 5 words a factor. Backwards d c a b a: 1, 1, 1, 1, 4/5:
    # (1 - 0.8) / 0.28 = 5/7 of a factor: 7 words a factor. The mean is 6.
    assert mtld("a b a c d") == pytest.approx(600, abs=1)


def test_mtld_of_distinct_words_is_their_number() -> None:
    assert mtld("one") == 100
    assert mtld("one two three") == 300


@given(st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=2, max_size=300))
@settings(max_examples=100, deadline=None)
def test_mtld_is_the_papers(letters: list[str]) -> None:
    if len(set(letters)) < len(letters):
        assert mtld(" ".join(letters)) == pytest.approx(100 * slow_mtld(" ".join(letters)), abs=1)


def test_diverse_text_is_harder() -> None:
    assert mtld("the cat and the dog and the cat and the dog") < mtld(
        "a cat with some dog while another bird sang here"
    )


# --- Flesch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("the", 1), ("cat", 1), ("a", 1), ("table", 2), ("people", 2), ("make", 1), ("makes", 1), ("boxes", 2),
        ("whole", 1), ("jumped", 1), ("wanted", 2), ("happy", 2), ("tree", 1), ("syllable", 3), ("difficulty", 4),
        ("readability", 5), ("tables", 2), ("rhythm", 1), ("42", 1), ("ß", 1),
    ],
)  # fmt: skip
def test_syllables(word: str, count: int) -> None:
    assert syllables(word) == count


def test_flesch_of_known_texts() -> None:
    # 6 words, 1 sentence, 6 syllables; then the same words as 2 sentences.
    assert flesch("The cat sat on the mat.") == int(100 * (1.015 * 6 + 84.6))
    assert flesch("The cat sat. On the mat!") == int(100 * (1.015 * 3 + 84.6))
    # 2 words of 3 and 4 syllables without a stop.
    assert flesch("syllable difficulty") == int(100 * (1.015 * 2 + 84.6 * 7 / 2))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("one two three four", 1),
        ("one two... three four", 2),
        ("one 3.14 two four", 1),
        ("one two\n \nthree four", 2),
        ("one two\nthree four", 1),
        ("... one two! ?! three four.", 2),
    ],
)
def test_sentences(text: str, sentences: int) -> None:
    count = len(words(text))
    total = sum(map(syllables, words(text)))
    assert flesch(text) == int(100 * (1.015 * count / sentences + 84.6 * total / count))


# --- anything goes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t ", "...", "\x00\x00", "\ud800", "�" * 50])
def test_text_without_words_is_easiest(text: str) -> None:
    assert (mtld(text), flesch(text)) == (0, 0)
    assert compression_ratio(text) >= 0


@given(st.one_of(st.text(max_size=400), st.binary(max_size=400).map(lambda data: data.decode(errors="replace"))))
@settings(max_examples=300, deadline=None)
def test_every_text_has_a_value(text: str) -> None:
    for metric in ALL:
        value = metric(text)
        assert type(value) is int
        assert 0 <= value < 2**40
        assert metric(text) == value
