"""Pairs of held-out text: which documents give them, how many, and always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataeff.families.text_pairs import Pairs, all_pairs, first_pairs
from dataeff.tokens.vocabulary import Tokenizer
from tests.families.pieces import CLS, PAD, SEP, TOKENS, write_tokenizer

WORDS = [token for token in TOKENS if token.startswith("w")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def document(sentences: int, words: int = 5, seed: int = 0) -> str:
    """Capitalised sentences; the full stop is no piece of the vocabulary, so it becomes [UNK]."""
    random = np.random.default_rng(seed)
    return " ".join(" ".join(random.choice(WORDS, words)).capitalize() + "." for _ in range(sentences))


def assert_equal(one: Pairs | None, other: Pairs | None) -> None:
    assert one is not None
    assert other is not None
    for name in ("tokens", "lengths", "types", "swapped"):
        assert np.array_equal(getattr(one.batch, name), getattr(other.batch, name))
    assert np.array_equal(one.targets, other.targets)


def test_pairs_are_framed_and_hold_the_text(tokenizer: Tokenizer) -> None:
    found = all_pairs([document(30), document(8, seed=1)], tokenizer, 32)
    assert found is not None
    tokens = found.batch.tokens
    assert (tokens[:, 0] == CLS).all()
    assert ((tokens == SEP).sum(axis=1) == 2).all()
    assert ((tokens != PAD).sum(axis=1) == found.batch.lengths).all()
    assert found.targets.max() <= 29
    # 38 sentences of 6 pieces (a word is one piece, the full stop another), 5 and 29 tokens to a pair.
    assert 38 * 6 // 35 <= len(tokens) <= 38 // 2


def test_the_same_text_gives_the_same_pairs(tokenizer: Tokenizer) -> None:
    texts = [document(12), document(9, seed=1)]
    assert_equal(all_pairs(texts, tokenizer, 32), all_pairs(texts, tokenizer, 32))


def test_documents_of_one_sentence_and_of_too_long_ones_give_none(tokenizer: Tokenizer) -> None:
    unfit = [document(1), document(2, words=520), "", "\n"]
    assert all_pairs(unfit, tokenizer, 32) is None
    assert all_pairs([], tokenizer, 32) is None
    assert first_pairs(iter(unfit), tokenizer, 32, 4) is None
    fit = [document(12), document(9, seed=1)]
    assert_equal(all_pairs([*unfit, *fit, unfit[1]], tokenizer, 32), all_pairs(fit, tokenizer, 32))


def test_only_so_many_documents_are_read_as_are_needed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    read = []

    def documents() -> object:
        for number in range(1000):
            read.append(number)
            yield document(10, seed=number)

    found = first_pairs(documents(), tokenizer, 32, 6)  # type: ignore[arg-type]
    assert found is not None
    assert len(found.targets) == 6
    assert len(read) == 7  # 60 tokens each, until there are 2 * 6 * 32
