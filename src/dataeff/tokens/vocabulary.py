"""The tokenizer that a folder holds: text to token ids and back, and the numbers of its special tokens.

A special token spelled out in a text is plain text: no document can end another or mask a word. The encoders of
whole shards (byte_pairs, word_pieces) are faster ways to the same ids; this one, of the tokenizers library, is the
reference they are held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dataeff.errors import DataeffError

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = WORD_PIECE_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUED = "##"
MAX_WORD_CHARACTERS = 100
TOKENIZER_FILE = "tokenizer.json"
# Megatron's default for --make-vocab-size-divisible-by.
PADDED_MULTIPLE = 128


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to token ids; `eos_id` is for byte pairs (GPT), the others for word pieces (BERT)."""

    folder: Path
    backend: tokenizers.Tokenizer
    form: Literal["byte_pairs", "word_pieces"]
    vocab_size: int
    special_ids: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def padded_vocab_size(self, multiple: int = PADDED_MULTIPLE) -> int:
        """Rows of the embedding matrix: the vocabulary rounded up, as Megatron pads it."""
        return -(-self.vocab_size // multiple) * multiple

    @property
    def eos_id(self) -> int:
        return self._special(END_OF_TEXT)

    @property
    def pad_id(self) -> int:
        return self._special(PAD)

    @property
    def unk_id(self) -> int:
        return self._special(UNKNOWN)

    @property
    def cls_id(self) -> int:
        return self._special(CLASSIFY)

    @property
    def sep_id(self) -> int:
        return self._special(SEPARATE)

    @property
    def mask_id(self) -> int:
        return self._special(MASK)

    def _special(self, token: str) -> int:
        if token not in self.special_ids:
            wanted = "'bpe' or 'gpt2'" if token == END_OF_TEXT else "'wordpiece' or 'bert'"
            raise DataeffError(f"{self.folder}: this tokenizer has no {token}; use one of the kinds {wanted}")
        return self.special_ids[token]


def load(folder: Path) -> Tokenizer:
    import tokenizers

    path = Path(folder) / TOKENIZER_FILE
    if not path.is_file():
        raise DataeffError(f"{path}: no such file; make the tokenizer with `dataeff tokens train`")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every fault of the file
        raise DataeffError(f"{path}: not a tokenizer ({error}); delete its folder and make it again") from None
    form: Literal["byte_pairs", "word_pieces"] = "byte_pairs"
    if isinstance(backend.model, tokenizers.models.WordPiece):
        form = "word_pieces"
    vocabulary = backend.get_vocab(with_added_tokens=True)
    if max(vocabulary.values(), default=-1) >= len(vocabulary):
        raise DataeffError(
            f"{path}: token id {max(vocabulary.values())} among {len(vocabulary)} tokens; ids must run from 0 without "
            f"gaps: make the tokenizer again"
        )
    special_ids = {}
    for token in WORD_PIECE_TOKENS if form == "word_pieces" else (END_OF_TEXT,):
        if token not in vocabulary:
            use = "ends every document" if token == END_OF_TEXT else "BERT's sentence pairs need"
            raise DataeffError(f"{path}: it has no token {token}, which {use}; use a tokenizer that has")
        special_ids[token] = vocabulary[token]
    backend.encode_special_tokens = True
    return Tokenizer(Path(folder), backend, form, len(vocabulary), special_ids)
