"""Texts to word-piece ids for BERT: a text's sentences, one sequence each, without any special token.

The tokenizers library is the reference; the same ids come faster, since most text is simple and repeats itself:

- sentences of ASCII are cut by word_cutting, all of a batch at once;
- in other sentences, what stands between two spaces hangs on nothing around it, so it is remembered: its ASCII parts
  are cut likewise, and only the rest goes to the reference, since BERT's rules for accents, Chinese and more are long.

A tokenizer in another form than BERT's uncased one goes to the reference as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataeff.tokens.batch import Batch
from dataeff.tokens.index_format import token_type
from dataeff.tokens.sentences import split_sentences
from dataeff.tokens.vocabulary import CONTINUED, MAX_WORD_CHARACTERS, TOKENIZER_FILE, Tokenizer
from dataeff.tokens.word_cutting import WordCutter

# Some 200 bytes each.
MOST_REMEMBERED = 1_000_000


class WordPieceEncoder:
    """For one thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        description = json.loads((tokenizer.folder / TOKENIZER_FILE).read_bytes())
        self._tokenizer = tokenizer
        self._dtype = token_type(tokenizer.vocab_size)
        self._parts: dict[str, bytes] = {}
        self._cutter = None
        if is_bert_form(description):
            self._cutter = WordCutter(tokenizer.backend.get_vocab(), tokenizer.unk_id)

    def encode(self, texts: Sequence[str]) -> Batch:
        if self._cutter is None:
            return self.reference(texts)
        split = [split_sentences(text) for text in texts]
        flat = [sentence for sentences in split for sentence in sentences]
        simple = iter(self._cut([sentence for sentence in flat if sentence.isascii()]))
        others = iter(self._join([sentence.split(" ") for sentence in flat if not sentence.isascii()]))
        return self._batch(split, [next(simple if sentence.isascii() else others) for sentence in flat])

    def _cut(self, texts: Sequence[str]) -> list[bytes]:
        """Ids, as bytes, of ASCII texts."""
        assert self._cutter is not None
        ids, ends = self._cutter(texts)
        data, last = memoryview(ids.astype(self._dtype).tobytes()), 0
        rows = []
        for end in (ends * self._dtype.itemsize).tolist():
            rows.append(bytes(data[last:end]))
            last = end
        return rows

    def _join(self, split: Sequence[Sequence[str]]) -> list[bytes]:
        """Ids, as bytes, of sentences given as what stands between their spaces."""
        if len(self._parts) > MOST_REMEMBERED:
            self._parts.clear()
        new = sorted({part for parts in split for part in parts if part not in self._parts})
        simple = [part for part in new if part.isascii()]
        others = [part for part in new if not part.isascii()]
        self._parts.update(zip(simple, self._cut(simple), strict=True))
        self._parts.update(zip(others, self._refer(others), strict=True))
        return [b"".join([self._parts[part] for part in parts]) for parts in split]

    def _refer(self, texts: Sequence[str]) -> list[bytes]:
        return [np.array(ids, self._dtype).tobytes() for ids in self._tokenizer.encode_batch(texts)]

    def reference(self, texts: Sequence[str]) -> Batch:
        """The same by the tokenizers library alone."""
        split = [split_sentences(text) for text in texts]
        return self._batch(split, self._refer([sentence for sentences in split for sentence in sentences]))

    def _batch(self, split: Sequence[Sequence[str]], rows: Sequence[bytes]) -> Batch:
        """One sequence per sentence that has any token."""
        sizes = np.array([len(row) for row in rows], dtype=np.int64) // self._dtype.itemsize
        filled = np.concatenate([[0], np.cumsum(sizes > 0)])
        ends = np.cumsum([0, *map(len, split)])
        document_sizes = np.diff(filled[ends]).astype(np.int32)
        return Batch(np.frombuffer(b"".join(rows), self._dtype), sizes[sizes > 0].astype(np.int32), document_sizes)


def is_bert_form(description: dict[str, Any]) -> bool:
    """Whether a tokenizer.json says what this module does: WordPiece with BERT's uncased normalisation."""
    model, normal = description["model"], description.get("normalizer") or {}
    return (
        model.get("type") == "WordPiece"
        and model.get("continuing_subword_prefix") == CONTINUED
        and model.get("max_input_chars_per_word") == MAX_WORD_CHARACTERS
        and normal.get("type") == "BertNormalizer"
        and all(normal.get(option) for option in ("clean_text", "handle_chinese_chars", "lowercase"))
        and normal.get("strip_accents") is not False
        and (description.get("pre_tokenizer") or {}).get("type") == "BertPreTokenizer"
        and all(token.get("special") for token in description.get("added_tokens") or [])
    )
