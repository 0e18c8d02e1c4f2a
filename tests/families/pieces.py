"""A vocabulary of 64 pieces and samples made of it, for tests of masking and of BERT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from dataeff.families.masking import Masker
from dataeff.samples.batch import SampleBatch
from dataeff.tokens.vocabulary import WORD_PIECE_TOKENS, Tokenizer, load

PAD, UNKNOWN, CLS, SEP, MASK = range(5)
VOCABULARY = 64
FIRST_CONTINUED = 44
"""Ids 5 to 43 begin a word (or are one), from here on they continue one."""
TOKENS = [
    *WORD_PIECE_TOKENS,
    *(f"w{chr(97 + index % 26)}{index // 26}" for index in range(FIRST_CONTINUED - 5)),
    *(f"##{chr(97 + index)}" for index in range(VOCABULARY - FIRST_CONTINUED)),
]
MASKER = Masker(np.arange(VOCABULARY) < FIRST_CONTINUED, CLS, SEP, MASK)


def write_tokenizer(folder: Path) -> Tokenizer:
    """A WordPiece tokenizer of these pieces, in BERT's form."""
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: index for index, token in enumerate(TOKENS)},
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    description = {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": token, **flags} for index, token in enumerate(WORD_PIECE_TOKENS)],
        "normalizer": {"type": "BertNormalizer", **normalizer},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": model,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return load(folder)


def framed(*segments: list[int], width: int) -> list[int]:
    """[CLS] segment [SEP] segment [SEP] and padding."""
    row = [CLS, *(token for segment in segments for token in [*segment, SEP])]
    assert len(row) <= width
    return row + [PAD] * (width - len(row))


def batch_of(rows: list[list[int]]) -> SampleBatch:
    tokens = np.array(rows, dtype=np.int64)
    return SampleBatch(tokens, (tokens != PAD).sum(axis=1).astype(np.int32))
