"""Masked language modelling as Megatron does it: whole words in runs of one to three, 15% of a sample's pieces.

A word is a piece and the continuing pieces after it; [CLS] and [SEP] belong to none. Words are taken in random order,
each together with the zero, one or two words after it (a run of n words with a chance in proportion to 1/n), unless a
piece of them is taken already or the limit would be passed: then a shorter run is tried, and at last none. Of the
pieces taken 80% become [MASK], 10% stay, 10% become any token of the vocabulary; all of them are to be predicted.

A continuing piece that follows [SEP] (the cut to fit may begin a segment with one) belongs to the word before it, as
in Megatron. What differs is the generator: every row has a key of its own, and all draws are integers from it, so
that masks are the same on every machine and any number of ranks, and others at every visit of a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.keyed import below, word
from dataeff.samples.batch import SampleBatch
from dataeff.tokens.vocabulary import CONTINUED, Tokenizer

IGNORED = -100
"""The label of a piece that is not to be predicted: what torch's cross entropy leaves out by itself."""
SHARE = 0.15
LONGEST_RUN = 3
# Chances of runs of 1, 2 and 3 words in proportion to 1, 1/2 and 1/3, as whole numbers: 6, 3 and 2 of 11.
_RUN_CHANCES, _ONE_WORD, _TWO_WORDS = np.uint64(11), np.uint64(6), np.uint64(9)
_FATES, _MASKED, _KEPT = np.uint64(10), np.uint64(8), np.uint64(9)
_0, _1 = np.uint64(0), np.uint64(1)


@dataclass(frozen=True)
class Masker:
    """The masking for one vocabulary. `word_starts` [vocabulary]: whether a token begins a word."""

    word_starts: NDArray[np.bool_]
    cls_id: int
    sep_id: int
    mask_id: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Masker:
        word_starts = np.ones(tokenizer.vocab_size, dtype=np.bool_)
        for token, index in tokenizer.backend.get_vocab(with_added_tokens=True).items():
            word_starts[index] = not token.startswith(CONTINUED)
        return cls(word_starts, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)

    def mask(
        self, batch: SampleBatch, targets: NDArray[np.integer[Any]], key: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens [n, width] with masks in place, and labels [n, width]: the original where one is to be predicted.

        `targets` [n]: the length that each pair was made for, which limits its masks beside its length in tokens.
        `key` is of the whole batch (seed, purpose, step); its rows get keys below it by their place.
        """
        tokens = batch.tokens.copy()
        labels = np.full_like(tokens, IGNORED)
        special = np.array([self.cls_id, self.sep_id, self.mask_id], dtype=np.int64)
        limits = piece_limits(batch.lengths, targets)
        _mask_rows(np.uint64(key), tokens, batch.lengths, limits, self.word_starts, special, labels)
        return tokens, labels


def piece_limits(lengths: NDArray[np.integer[Any]], targets: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The most pieces that are masked in samples of `lengths` tokens, made for `targets` tokens without the frame.

    15% of the length, rounded (half to even) and at least one, but not above 15% of the target.
    """
    share = np.maximum(1, np.rint(lengths * SHARE))
    limits: NDArray[np.int64] = np.floor(np.minimum(targets * SHARE, share)).astype(np.int64)
    return limits


def mask_key(seed: int, step: int) -> int:
    """The key of the masks of a run's step."""
    return keyed.key(seed, "mask", step)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _mask_rows(key: Any, tokens: Any, lengths: Any, limits: Any, word_starts: Any, special: Any, labels: Any) -> None:
    width = tokens.shape[1]
    places, order = np.empty(width, dtype=np.int64), np.empty(width, dtype=np.int64)
    # Word w is the pieces at places[bounds[w]:bounds[w + 1]].
    bounds = np.empty(width + 1, dtype=np.int64)
    for row in range(tokens.shape[0]):
        words = _find_words(tokens[row], lengths[row], word_starts, special, places, bounds)
        row_key = word(key, np.uint64(row))
        number = _shuffle(row_key, words, order)
        left = limits[row]
        for turn in range(words):
            if left == 0:
                break
            first = order[turn]
            drawn = below(row_key, number, _RUN_CHANCES)
            number += _1
            run = 1 if drawn < _ONE_WORD else 2 if drawn < _TWO_WORDS else LONGEST_RUN
            end = _end_of_run(first, min(run, words - first), bounds, left)
            if end == first or _is_taken(places[bounds[first] : bounds[end]], labels[row]):
                continue
            for place in places[bounds[first] : bounds[end]]:
                number = _hide(row_key, number, place, word_starts.size, special[2], tokens[row], labels[row])
            left -= bounds[end] - bounds[first]


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _find_words(tokens: Any, length: Any, word_starts: Any, special: Any, places: Any, bounds: Any) -> Any:
    """The number of words; fills in the places of their pieces and where each begins among those."""
    words = pieces = 0
    for place in range(length):
        token = tokens[place]
        if token == special[0] or token == special[1]:
            continue
        if words == 0 or word_starts[token]:
            bounds[words] = pieces
            words += 1
        places[pieces] = place
        pieces += 1
    bounds[words] = pieces
    return words


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _shuffle(row_key: Any, words: Any, order: Any) -> Any:
    """A random order of the words; how many numbers of the row's stream that took."""
    for index in range(words):
        order[index] = index
    number = _0
    for index in range(words - 1, 0, -1):
        other = np.int64(below(row_key, number, np.uint64(index + 1)))
        number += _1
        order[index], order[other] = order[other], order[index]
    return number


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _end_of_run(first: Any, run: Any, bounds: Any, left: Any) -> Any:
    """One past the last word of the longest run of at most `run` words that has at most `left` pieces."""
    end = first + run
    while end > first and bounds[end] - bounds[first] > left:
        end -= 1
    return end


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _is_taken(places: Any, labels: Any) -> bool:
    for place in places:  # noqa: SIM110 (no generators in compiled code)
        if labels[place] != IGNORED:
            return True
    return False


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _hide(row_key: Any, number: Any, place: Any, vocabulary: Any, mask_id: Any, tokens: Any, labels: Any) -> Any:
    """Makes one piece something to predict; the next number of the row's stream."""
    labels[place] = tokens[place]
    fate = below(row_key, number, _FATES)
    number += _1
    if fate < _MASKED:
        tokens[place] = mask_id
    elif fate >= _KEPT:
        tokens[place] = np.int64(below(row_key, number, np.uint64(vocabulary)))
        number += _1
    return number
