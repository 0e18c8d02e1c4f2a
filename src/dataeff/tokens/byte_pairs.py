"""Texts to byte-pair ids for GPT: one sequence per text, each ended by the end-of-text token.

gigatoken does the work, some twenty times as fast as the tokenizers library, which remains the reference. The ids are
the same because whatever the two treat differently goes to the reference:

- a tokenizer in any other form than GPT-2's (another pre-tokenizer, a normalizer, ...);
- a text with one of the characters that became letters or digits in Unicode 17, which gigatoken knows and the
  tokenizers library does not yet: they would cut words differently.

A special token spelled out in a text is plain text: gigatoken is not told of any. It remembers every word it has
seen, so it is started anew when the process has grown too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dataeff.tokens.batch import Batch
from dataeff.tokens.vocabulary import END_OF_TEXT, TOKENIZER_FILE, Tokenizer

# Letters, digits and the like new in Unicode 17, as first and last of each range.
NEWER_CHARACTERS = (
    "\u088f\u088f\u0c5c\u0c5c\u0cdc\u0cdc\ua7ce\ua7cf\ua7d2\ua7d2\ua7d4\ua7d4\ua7f1\ua7f1"
    "\U00010940\U00010959\U00010ec5\U00010ec7\U00011db0\U00011ddb\U00011de0\U00011de9\U00016ea0\U00016eb8"
    "\U00016ebb\U00016ed3\U00016ff2\U00016ff6\U000187f8\U000187ff\U00018d09\U00018d1e\U00018d80\U00018df2"
    "\U0001e6c0\U0001e6de\U0001e6e0\U0001e6e2\U0001e6e4\U0001e6e5\U0001e6e7\U0001e6ed\U0001e6f0\U0001e6f4"
    "\U0001e6fe\U0001e6ff\U0002b73a\U0002b73f\U0002cea2\U0002cead\U000323b0\U00033479"
)
# Where ranges begin and (one further) end, in order: a character lies in one if an odd number of them is not above it.
_BOUNDS = np.array([ord(bound) + at % 2 for at, bound in enumerate(NEWER_CHARACTERS)], dtype=np.uint32)
# Between two looks at the size of the process. A new start costs as much as some 20 million characters.
_LOOK_EVERY_CHARACTERS = 1 << 23


class BytePairEncoder:
    """For one thread; above `memory_bytes` of the whole process, gigatoken's memory of words is given up."""

    def __init__(self, tokenizer: Tokenizer, memory_bytes: int) -> None:
        description = orjson.loads((tokenizer.folder / TOKENIZER_FILE).read_bytes())
        self._tokenizer, self._memory_bytes = tokenizer, memory_bytes
        self._end = np.array([tokenizer.eos_id], dtype=np.uint32)
        self._description: bytes | None = None
        self._unseen = 0
        if is_gpt2_form(description):
            self._description = orjson.dumps({**description, "added_tokens": []})
        self._new_start()

    def encode(self, texts: Sequence[str]) -> Batch:
        if self._description is None:
            return self.reference(texts)
        self._keep_small(sum(map(len, texts)))
        # One look at all of a batch: nearly always, there is none of them.
        newer = has_newer_characters("".join([text for text in texts if not text.isascii()]))
        fast = self._fast.encode
        arrays = [
            np.array(self._tokenizer.encode(text), np.uint32) if newer and has_newer_characters(text) else fast(text)
            for text in texts
        ]
        return self._ended(texts, arrays)

    def reference(self, texts: Sequence[str]) -> Batch:
        """The same by the tokenizers library alone."""
        return self._ended(texts, [np.array(ids, np.uint32) for ids in self._tokenizer.encode_batch(texts)])

    def _ended(self, texts: Sequence[str], arrays: Sequence[NDArray[np.uint32]]) -> Batch:
        """The end-of-text token after each text; none for a text of no characters."""
        rows = [part for text, ids in zip(texts, arrays, strict=True) if text for part in (ids, self._end)]
        sizes = np.array([len(ids) + 1 for text, ids in zip(texts, arrays, strict=True) if text], dtype=np.int32)
        filled = np.array([bool(text) for text in texts], dtype=np.int32)
        return Batch(np.concatenate(rows) if rows else self._end[:0], sizes, filled)

    def _keep_small(self, characters: int) -> None:
        import psutil

        self._unseen += characters
        if self._unseen >= _LOOK_EVERY_CHARACTERS:
            self._unseen = 0
            if psutil.Process().memory_info().rss > self._memory_bytes:
                self._new_start()

    def _new_start(self) -> None:
        self._unseen = 0
        self._fast: Any = None  # before the new one is made: the old one's memory is the point
        if self._description is not None:
            import gigatoken

            self._fast = gigatoken.Tokenizer.from_json(self._description).backend


def has_newer_characters(text: str) -> bool:
    characters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    high = characters[characters >= _BOUNDS[0]]
    return bool((np.searchsorted(_BOUNDS, high, side="right") % 2).any())


def is_gpt2_form(description: dict[str, Any]) -> bool:
    """Whether a tokenizer.json says what gigatoken does as the tokenizers library does: byte-level BPE as GPT-2's."""
    model, words = description["model"], description.get("pre_tokenizer") or {}
    plain_model = model.get("type") == "BPE" and not any(
        model.get(option)
        for option in (
            "dropout",
            "unk_token",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "fuse_unk",
            "byte_fallback",
            "ignore_merges",
        )
    )
    plain_words = (
        words.get("type") == "ByteLevel" and not words.get("add_prefix_space") and words.get("use_regex", True)
    )
    only_end = [token.get("content") for token in description.get("added_tokens") or []] == [END_OF_TEXT]
    alphabet = sum(len(token) == 1 for token in model["vocab"]) >= 256
    return plain_model and plain_words and only_end and alphabet and not description.get("normalizer")
