"""Masks against a plain restatement of Megatron's rules, examples worked by hand, and counts over many samples."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff import keyed
from dataeff.families.masking import IGNORED, Masker, mask_key, piece_limits
from dataeff.tokens.vocabulary import MASK as MASK_TOKEN
from tests.families.pieces import (
    CLS,
    FIRST_CONTINUED,
    MASK,
    MASKER,
    PAD,
    SEP,
    VOCABULARY,
    batch_of,
    framed,
    write_tokenizer,
)

WIDTH = 40


class Draws:
    """The stream of one row: integers below a number, in turn."""

    def __init__(self, key: int, row: int) -> None:
        self.key, self.number = keyed.word(np.uint64(key), np.uint64(row)), 0

    def below(self, size: int) -> int:
        drawn = keyed.below(np.uint64(self.key), np.uint64(self.number), np.uint64(size))
        self.number += 1
        return int(drawn)


def words_of(tokens: list[int]) -> list[list[int]]:
    """Places of the pieces of each word: a piece that continues belongs to the word before, whatever is between."""
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if token in (CLS, SEP, PAD):
            continue
        if words and token >= FIRST_CONTINUED:
            words[-1].append(place)
        else:
            words.append([place])
    return words


def restated(tokens: list[int], limit: float, draws: Draws) -> tuple[list[int], list[int]]:
    """One sample, with lists and without arithmetic on places, in Megatron's order of decisions."""
    words = words_of(tokens)
    starts = list(range(len(words)))
    for index in range(len(words) - 1, 0, -1):
        other = draws.below(index + 1)
        starts[index], starts[other] = starts[other], starts[index]
    masked, labels = list(tokens), [IGNORED] * len(tokens)
    taken: set[int] = set()
    for start in starts:
        if len(taken) >= limit:
            break
        runs = [list(chain.from_iterable(words[start : start + count])) for count in (1, 2, 3)]
        length = [1] * 6 + [2] * 3 + [3] * 2
        count = length[draws.below(11)]
        while count and len(taken) + len(runs[count - 1]) > limit:
            count -= 1
        if not count or taken & set(runs[count - 1]):
            continue
        for place in runs[count - 1]:
            taken.add(place)
            labels[place] = tokens[place]
            fate = draws.below(10)
            if fate < 8:
                masked[place] = MASK
            elif fate == 9:
                masked[place] = draws.below(VOCABULARY)
    return masked, labels


pieces = st.lists(st.integers(5, VOCABULARY - 1), min_size=1, max_size=(WIDTH - 3) // 2)
rows = st.lists(st.tuples(pieces, pieces), min_size=1, max_size=4)


@given(rows, st.integers(0, 2**64 - 1), st.integers(2, WIDTH - 3))
@settings(max_examples=150, deadline=None)
def test_masks_are_megatrons(segments: list[tuple[list[int], list[int]]], key: int, target: int) -> None:
    samples = [framed(*pair, width=WIDTH) for pair in segments]
    batch = batch_of(samples)
    found, labels = MASKER.mask(batch, np.full(len(samples), target), key)
    for row, tokens in enumerate(samples):
        limit = min(0.15 * target, max(1, round(0.15 * int(batch.lengths[row]))))
        expected = restated(tokens, limit, Draws(key, row))
        assert (found[row].tolist(), labels[row].tolist()) == expected
    assert batch.tokens.tolist() == samples  # what it was given is left alone


@given(rows, st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_only_whole_words_and_never_a_special_token(segments: list[tuple[list[int], list[int]]], key: int) -> None:
    samples = [framed(*pair, width=WIDTH) for pair in segments]
    batch = batch_of(samples)
    found, labels = MASKER.mask(batch, np.full(len(samples), WIDTH - 3), key)
    hidden = labels != IGNORED
    assert not hidden[np.isin(batch.tokens, (CLS, SEP, PAD))].any()
    assert (labels[hidden] == batch.tokens[hidden]).all()
    assert (found[~hidden] == batch.tokens[~hidden]).all()
    assert (hidden.sum(axis=1) <= piece_limits(batch.lengths, np.full(len(samples), WIDTH - 3))).all()
    for row, tokens in enumerate(samples):
        for word in words_of(tokens):
            assert len(set(hidden[row, word])) == 1


def test_limits_worked_by_hand() -> None:
    """Lengths 3, 9, 10, 11, 30, 512 with their own targets: 0.45 -> 1, 1.35 -> 1, 1.5 -> 2, 1.65 -> 2, 4.5 -> 4, 77.

    The target bounds it: of 6 it leaves 0.9, so none; of 7 it leaves 1.05, of 509 it leaves 76.35.
    """
    lengths = np.array([3, 9, 10, 11, 30, 512])
    assert piece_limits(lengths, np.full(6, 1000)).tolist() == [1, 1, 2, 2, 4, 77]
    assert piece_limits(lengths, lengths - 3).tolist() == [0, 0, 1, 1, 4, 76]


def test_a_sample_in_which_only_one_word_fits() -> None:
    """9 tokens: one piece may be masked, and only the word 7 has no more than that."""
    tokens = framed([5, 50, 51], [7, 6, 50], width=12)
    for step in range(20):
        found, labels = MASKER.mask(batch_of([tokens]), np.array([20]), mask_key(1, step))
        assert labels[0].tolist() == [IGNORED] * 5 + [7] + [IGNORED] * 6
        assert found[0, :5].tolist() == tokens[:5]
        assert found[0, 6:].tolist() == tokens[6:]


def test_a_piece_that_continues_across_the_separator_goes_with_its_word() -> None:
    """Limit 2: 5 and its 50 behind [SEP] are the one word of two pieces, masked together or not at all."""
    tokens = framed([9, 5], [50, 6, 7, 8, 10], width=12)
    together = set()
    for step in range(200):
        _, labels = MASKER.mask(batch_of([tokens]), np.array([20]), mask_key(1, step))
        hidden = labels[0] != IGNORED
        assert hidden[2] == hidden[4]
        together.add(bool(hidden[2]))
    assert together == {True, False}


def many(rows: int = 2000, width: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, masked, labels) of full samples of words of one to three pieces."""
    random = np.random.default_rng(5)
    tokens = random.integers(5, VOCABULARY, size=(rows, width))
    tokens[:, 0], tokens[:, 60], tokens[:, -1] = CLS, SEP, SEP
    found, labels = MASKER.mask(batch_of(tokens.tolist()), np.full(rows, width - 3), mask_key(7, 3))
    return tokens, found, labels


def test_fifteen_percent_are_masked_by_80_10_10() -> None:
    """18 of 128 pieces (15% of 125 is 18.75): 36,000 of which 80%, 10%, 10%, each within five standard deviations.

    A random token is the piece itself or [MASK] once in 64, which moves 10% of 1/64 from one share to another.
    """
    tokens, found, labels = many()
    hidden = labels != IGNORED
    # Now and then only words of more pieces than are left remain.
    assert 17.9 < hidden.sum(axis=1).mean() <= 18
    count, chance = hidden.sum(), 0.1 / VOCABULARY
    for share, expected in (
        ((found == MASK)[hidden].mean(), 0.8 + chance),
        ((found == tokens)[hidden].mean(), 0.1 + chance),
        (((found != MASK) & (found != tokens))[hidden].mean(), 0.1 - 2 * chance),
    ):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    replaced = found[hidden & (found != MASK) & (found != tokens)]
    assert set(replaced.tolist()) == set(range(VOCABULARY)) - {MASK}  # any token, special ones too


def test_every_place_is_masked_equally_often() -> None:
    """Up to the ends of a segment, whose words have fewer neighbours to be masked with."""
    _, _, labels = many()
    share = (labels != IGNORED)[:, 5:55].mean(axis=0)
    assert abs(share - share.mean()).max() < 5 * np.sqrt(share.mean() * (1 - share.mean()) / len(labels))


def test_masks_are_keyed_by_seed_step_and_row() -> None:
    tokens = batch_of([framed(list(range(5, 22)), list(range(22, 39)), width=WIDTH)] * 8)
    targets = np.full(8, WIDTH - 3)
    first = MASKER.mask(tokens, targets, mask_key(1, 5))[1]
    assert (MASKER.mask(tokens, targets, mask_key(1, 5))[1] == first).all()
    for key in (mask_key(1, 6), mask_key(2, 5)):
        assert (MASKER.mask(tokens, targets, key)[1] != first).any(axis=1).all()
    assert len({tuple(row) for row in first.tolist()}) == 8


def test_word_starts_come_from_the_tokenizer(tmp_path: Path) -> None:
    made = Masker.of(write_tokenizer(tmp_path))
    assert (made.word_starts == MASKER.word_starts).all()
    assert (made.cls_id, made.sep_id, made.mask_id) == (CLS, SEP, MASK)
    assert write_tokenizer(tmp_path).backend.id_to_token(MASK) == MASK_TOKEN


@pytest.mark.slow
def test_a_large_batch_takes_little_time() -> None:
    """1,024 samples of 512 tokens in well under a second: a step on them takes many."""
    import time

    tokens, _, _ = many(1024, 512)
    batch = batch_of(tokens.tolist())
    begun = time.monotonic()
    MASKER.mask(batch, np.full(1024, 509), 1)
    assert time.monotonic() - begun < 0.5
