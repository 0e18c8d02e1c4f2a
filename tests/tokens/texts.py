"""Texts that tokenizers trip over, for tests that two of them give the same ids."""

from __future__ import annotations

import random

from hypothesis import strategies as st

END = "<|endoftext|>"
PIECES = (
    "the of and in 's 'll 'RE I'm don't \t \n \n\n \r\n \x0b \x1c \x85 \u00a0 \u2003 \u200b \u3000 \ufffd \0 \x7f "
    f"{END} <|endof text|> [CLS] [SEP] [MASK] [PAD] [UNK] [ ] ## ##s 1 12 3.14 ² Ⅷ ٣ ½ _ - – … ! ?! ... $ £ 漢 字漢 "
    "한글 é é ü ﬁ ß İ ı ς Σ ǅ ̈ ́ \U0001f600 \U0001f1e6 \u200d \ufe0f ﷺ \u0378 \ue000 \U0010ffff ࢏ "
    "unaffable Wörld U.S.A. e.g."
).split(" ")

anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
pieces = st.lists(st.sampled_from([*PIECES, " ", " ", "a", "Z"]), max_size=25).map("".join)
words = st.lists(st.text("abcdefghijklmnopqrstuvwxyzABC'-", min_size=1, max_size=12), max_size=12).map(" ".join)
texts = st.lists(anything | pieces | words, max_size=6)


def long_text(seed: int, words: int) -> str:
    """Made-up prose of words that repeat as those of a language do, with a few rare characters."""
    chosen = random.Random(seed)
    known = ["".join(chosen.choices("etaoinshrdlu", k=chosen.randrange(1, 11))) for _ in range(3000)]
    parts = [known[min(int(chosen.paretovariate(0.7)), 2999)] for _ in range(words)]
    for at in range(0, words, 12):
        parts[at] = parts[at].capitalize()
        parts[at - 1] += chosen.choice([".", ",", ";", "?", ".\n", " –", "é", " 漢字"])
    return " ".join(parts)
