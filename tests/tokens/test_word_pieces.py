"""The fast encoder gives the ids of the tokenizers library, sentence by sentence, whatever the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dataeff.corpus.shard import Document, write_documents
from dataeff.study.specs import TokensSpec
from dataeff.study.types import WordPieceTokenizer
from dataeff.tokens import word_pieces
from dataeff.tokens.batch import Batch
from dataeff.tokens.sentences import split_sentences
from dataeff.tokens.tokenizer import load, train
from dataeff.tokens.word_pieces import WordPieceEncoder, is_bert_form
from tests.tokens import texts as given_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("word_pieces")
    text = given_texts.long_text(0, 20_000) + " Unaffable, unable; 12 of 1234 (naive) [sep]. A's b-c." * 30
    write_documents(base / "00.jsonl", [Document(text, "test")])
    kind = WordPieceTokenizer(kind="wordpiece", vocab_size=700)
    train(TokensSpec(tokenizer=kind), [base / "00.jsonl"], base / "wordpiece")
    return base / "wordpiece"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> WordPieceEncoder:
    return WordPieceEncoder(load(folder))


def same(ours: Batch, theirs: Batch) -> bool:
    return all(left.tolist() == right.tolist() for left, right in zip(ours, theirs, strict=True))


@given(given_texts.texts)
@settings(max_examples=400, deadline=None)
def test_ids_are_the_references(encoder: WordPieceEncoder, texts: list[str]) -> None:
    assert same(encoder.encode(texts), encoder.reference(texts))


@pytest.mark.parametrize("length", [99, 100, 101, 300])
@pytest.mark.parametrize("letter", ["e", "é", "漢", "\x00e"])
def test_words_of_more_than_a_hundred_characters_are_unknown(
    folder: Path, encoder: WordPieceEncoder, length: int, letter: str
) -> None:
    texts = [f"the {letter * length}, the"]
    assert same(encoder.encode(texts), encoder.reference(texts))
    unknown = load(folder).unk_id in encoder.encode(texts).ids
    assert unknown == (length > 100 and letter != "漢"), "each Chinese character is a word"


def test_long_prose(encoder: WordPieceEncoder) -> None:
    texts = [given_texts.long_text(seed, 30_000) for seed in range(3)]
    batch = encoder.encode(texts)
    assert same(batch, encoder.reference(texts))
    assert batch.document_sizes.min() > 100, "sentences"


def test_one_sequence_per_sentence_and_none_for_the_empty(folder: Path, encoder: WordPieceEncoder) -> None:
    tokenizer = load(folder)
    texts = ["One is here. Two are there! \x00 ", "", " \n\t", "\x01", f"No end{given_texts.END} [CLS] [MASK]"]
    batch = encoder.encode(texts)
    sentences = [sentence for text in texts for sentence in split_sentences(text)]
    rows = [row.tolist() for row in np.split(batch.ids, np.cumsum(batch.sizes)[:-1])]
    assert rows == [ids for ids in tokenizer.encode_batch(sentences) if ids]
    assert batch.document_sizes.tolist() == [2, 0, 0, 0, 1]
    specials = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id}
    assert not specials & set(batch.ids.tolist()), "no special token is added, and those spelled out are plain text"
    assert encoder.encode([]).ids.size == 0


def test_what_is_remembered_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_pieces, "MOST_REMEMBERED", 20)
    encoder = WordPieceEncoder(load(folder))
    for seed in range(5):
        texts = [given_texts.long_text(seed, 200)]
        assert same(encoder.encode(texts), encoder.reference(texts))
        assert len(encoder._parts) < 20 + 400


@pytest.mark.parametrize(
    "change",
    [
        {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "lowercase": False,
            }
        },
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)
def test_another_form_goes_to_the_reference(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    description = json.loads((folder / "tokenizer.json").read_text())
    assert is_bert_form(description)
    if change.get("normalizer"):
        change["normalizer"]["strip_accents"] = None
    assert not is_bert_form({**description, **change})
    (tmp_path / "tokenizer.json").write_text(json.dumps({**description, **change}))
    encoder = WordPieceEncoder(load(tmp_path))
    texts = ["The Cat's 12, é. B?!"]
    assert same(encoder.encode(texts), encoder.reference(texts))
