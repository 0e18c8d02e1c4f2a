"""Makes the tokenizer folder: trained on the corpus itself, or a published vocabulary from a pinned package.

- `bpe` and `gpt2` are byte-level BPE in the form of GPT-2: any text goes in and comes out unchanged, no unknown token
  is needed, and a token ends every document;
- `wordpiece` and `bert` are uncased WordPiece in the form of BERT: text is cleaned, lower-cased and stripped of
  accents, words are cut at punctuation and Chinese characters, and the five special tokens frame sentences.

The folder (tokenizer.json, tokenizer_config.json; vocab.txt for WordPiece, which Megatron takes) opens with
transformers' AutoTokenizer without network and is copied into every finished model, which is what lets other tools
evaluate it. The library's own trainers do the work; the same text gives the same folder. `load` opens it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataeff.corpus.archive import members
from dataeff.corpus.fetch import read_manifest
from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.files import atomic_directory, sha256_bytes, sha256_file, write_json, write_manifest
from dataeff.study.specs import TokensSpec
from dataeff.study.types import BertTokenizer, BpeTokenizer, Gpt2Tokenizer, WordPieceTokenizer
from dataeff.tokens.vocabulary import (
    CLASSIFY,
    CONTINUED,
    END_OF_TEXT,
    MASK,
    MAX_WORD_CHARACTERS,
    PAD,
    SEPARATE,
    TOKENIZER_FILE,
    UNKNOWN,
    WORD_PIECE_TOKENS,
    Tokenizer,
    load,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = ["END_OF_TEXT", "TOKENIZER_FILE", "Tokenizer", "build_bert", "build_gpt2", "load", "make", "train"]

GPT2_VOCABULARY, GPT2_MERGES = "encoder.json", "vocab.bpe"
BERT_VOCABULARY = "assets/vocab.json"
# Of the vocab.txt that BERT was published with, all 30,522 lines.
BERT_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
# How the package that holds BERT's vocabulary marks the start of a word.
WORD_START = "▁"
LARGEST_ALPHABET = 1000
_ROLES = {
    "pad_token": PAD,
    "unk_token": UNKNOWN,
    "cls_token": CLASSIFY,
    "sep_token": SEPARATE,
    "mask_token": MASK,
}


def make(spec: TokensSpec, sources: Sequence[Path], out: Path) -> None:
    """The tokenizer of any kind: `sources` are shards to train on, or the manifest of the package that holds it."""
    kind = spec.tokenizer
    if isinstance(kind, BpeTokenizer | WordPieceTokenizer):
        train(spec, sources, out)
        return
    if len(sources) != 1:
        raise DataeffError(
            f"tokenizer.kind: '{kind.kind}' is made from one fetched package; given {len(sources)} files"
        )
    build = build_gpt2 if isinstance(kind, Gpt2Tokenizer) else build_bert
    build(sources[0], out)


def train(spec: TokensSpec, shards: Sequence[Path], out: Path) -> None:
    """Trains on the first `train_bytes` of the shards' text, in order; the same text, the same folder."""
    kind = spec.tokenizer
    if isinstance(kind, Gpt2Tokenizer | BertTokenizer):
        raise DataeffError(f"tokenizer.kind: '{kind.kind}' is not trained; only 'bpe' and 'wordpiece' are")
    texts = _head(shards, kind.train_bytes)
    backend = _train_bpe(kind, texts) if isinstance(kind, BpeTokenizer) else _train_word_pieces(kind, list(texts))
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


def _train_bpe(kind: BpeTokenizer, texts: Iterator[str]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    _byte_level(backend)
    trainer = trainers.BpeTrainer(
        vocab_size=kind.vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_word_pieces(kind: WordPieceTokenizer, texts: list[str]) -> tokenizers.Tokenizer:
    """The library numbers the characters that continue words in an order of chance, and ties hang on the numbers.

    So all of them are given beforehand, as if they were special tokens; the tokenizer is then made anew from the
    vocabulary, in which they are not.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, trainers

    backend = _word_pieces({token: id for id, token in enumerate(WORD_PIECE_TOKENS)})
    alphabet, continuing = _alphabet(backend, texts, min(LARGEST_ALPHABET, kind.vocab_size // 4))
    given = [*WORD_PIECE_TOKENS, *(CONTINUED + character for character in continuing)]
    learner = Backend(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=MAX_WORD_CHARACTERS))
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=kind.vocab_size,
        special_tokens=given,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUED,
        show_progress=False,
    )
    learner.train_from_iterator(iter(texts), trainer)
    return _word_pieces(learner.get_vocab())


def _alphabet(backend: tokenizers.Tokenizer, texts: Sequence[str], size: int) -> tuple[list[str], list[str]]:
    """The most frequent characters of the texts' words, and those of them that ever stand inside a word."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for text in texts:
        normal = backend.normalizer.normalize_str(text)
        words = {word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)}
        counts.update(normal)
        for word in words:
            inside.update(word[1:])
    ranked = sorted((character for character in counts if not character.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(ranked[:size])
    return alphabet, [character for character in alphabet if character in inside]


def build_gpt2(manifest: Path, out: Path) -> None:
    """GPT-2's tokenizer from the encoder.json and vocab.bpe inside the one package file that the manifest names."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    archive = _package(manifest)
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


def build_bert(manifest: Path, out: Path) -> None:
    """BERT's uncased tokenizer from the vocabulary inside the one package file that the manifest names.

    The package holds the vocabulary in a form of its own; turned back, it must be BERT's to the byte.
    """
    archive = _package(manifest)
    contents = [member.stream.read() for member in members(archive, [f"*{BERT_VOCABULARY}"])]
    try:
        tokens = [bert_token(piece) for piece in json.loads(contents[0])]
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise DataeffError(
            f"{archive}: no BERT vocabulary ({error!r}); a list in {BERT_VOCABULARY} is needed"
        ) from None
    digest = sha256_bytes(_vocabulary_lines(tokens))
    if digest != BERT_SHA256:
        raise DataeffError(
            f"{archive}: its {BERT_VOCABULARY} gives a vocabulary of {len(tokens)} tokens with sha256 {digest}; BERT's "
            f"uncased one has {BERT_SHA256}: pin the package that holds it"
        )
    _save(_word_pieces({token: id for id, token in enumerate(tokens)}), out)


def bert_token(piece: str) -> str:
    """The package marks a word's start and leaves its continuations bare; BERT marks the continuations."""
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        return piece
    if piece == WORD_START:
        return "[unused0]"
    return piece[len(WORD_START) :] if piece.startswith(WORD_START) else CONTINUED + piece


def _package(manifest: Path) -> Path:
    """The one file that a manifest names, as it was fetched."""
    files = read_manifest(manifest).files
    if len(files) != 1:
        raise DataeffError(f"{manifest}: it names {len(files)} files; one package file is needed: fetch it again")
    archive = Path(files[0].path)
    if not archive.is_file() or sha256_file(archive) != files[0].sha256:
        raise DataeffError(f"{archive}: missing, or not the file that {manifest} describes; fetch it again")
    return archive


def _byte_level(backend: Any) -> None:
    """GPT-2's own pre-tokenizer: words with their leading space, as bytes."""
    from tokenizers import decoders, pre_tokenizers

    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()


def _word_pieces(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """BERT's uncased normalisation, cutting of words, and frame of sentences around a vocabulary."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    backend = Backend(
        models.WordPiece(
            vocabulary,
            unk_token=UNKNOWN,
            max_input_chars_per_word=MAX_WORD_CHARACTERS,
            continuing_subword_prefix=CONTINUED,
        )
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUED)
    backend.add_special_tokens(list(WORD_PIECE_TOKENS))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLASSIFY}:0 $A:0 {SEPARATE}:0",
        pair=f"{CLASSIFY}:0 $A:0 {SEPARATE}:0 $B:1 {SEPARATE}:1",
        special_tokens=[(token, vocabulary[token]) for token in (CLASSIFY, SEPARATE)],
    )
    return backend


def _save(backend: tokenizers.Tokenizer, out: Path) -> None:
    """The folder. The class named in it is one that transformers 4 and 5 both know; a length limit is the model's."""
    vocabulary = backend.get_vocab()
    with atomic_directory(out) as folder:
        backend.save(str(folder / TOKENIZER_FILE))
        if UNKNOWN in vocabulary:
            (folder / "vocab.txt").write_bytes(_vocabulary_lines(sorted(vocabulary, key=vocabulary.__getitem__)))
            config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **_ROLES}
        else:
            config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
        write_json(folder / "tokenizer_config.json", {**config, "clean_up_tokenization_spaces": False})
        write_manifest(folder)


def _vocabulary_lines(tokens: Sequence[str]) -> bytes:
    return "".join(f"{token}\n" for token in tokens).encode()
