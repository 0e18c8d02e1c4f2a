"""The fast encoder gives the ids of the tokenizers library, whatever the text; where it cannot, it does not try."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from dataeff.corpus.shard import Document, write_documents
from dataeff.study.specs import TokensSpec
from dataeff.study.types import BpeTokenizer
from dataeff.tokens import byte_pairs
from dataeff.tokens.batch import Batch
from dataeff.tokens.byte_pairs import BytePairEncoder, has_newer_characters, is_gpt2_form
from dataeff.tokens.tokenizer import load, train
from tests.tokens import texts as given_texts

LARGE = 1 << 40
NEWER = byte_pairs.NEWER_CHARACTERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that has learnt long words, and some across a character of Unicode 17."""
    base = tmp_path_factory.mktemp("byte_pairs")
    text = given_texts.long_text(0, 20_000) + f" !{NEWER[0]}!" * 300
    write_documents(base / "00.jsonl", [Document(text, "test")])
    train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=1500)), [base / "00.jsonl"], base / "bpe")
    return base / "bpe"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BytePairEncoder:
    return BytePairEncoder(load(folder), LARGE)


def same(ours: Batch, theirs: Batch) -> bool:
    return all(left.tolist() == right.tolist() for left, right in zip(ours, theirs, strict=True))


@given(given_texts.texts)
@settings(max_examples=400, deadline=None)
def test_ids_are_the_references(encoder: BytePairEncoder, texts: list[str]) -> None:
    assert same(encoder.encode(texts), encoder.reference(texts))


def test_each_text_ends_with_the_end_token_and_empty_ones_are_none(folder: Path, encoder: BytePairEncoder) -> None:
    tokenizer = load(folder)
    texts = ["the first", "", f"a{given_texts.END}b", ""]
    batch = encoder.encode(texts)
    assert batch.document_sizes.tolist() == [1, 0, 1, 0]
    rows = np.split(batch.ids, np.cumsum(batch.sizes)[:-1])
    assert [row.tolist() for row in rows] == [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts if text]
    assert (batch.ids == tokenizer.eos_id).sum() == 2, "spelled out in a document, the end token is plain text"
    assert batch.tokens_per_document().tolist() == [len(rows[0]), 0, len(rows[1]), 0]
    assert encoder.encode(["", ""]).ids.size == encoder.encode([]).ids.size == 0


@pytest.mark.parametrize("unit", ["a", "the ", "\n", " ", "ab1", "é", "漢", "\U0001f600", "e\u0301"])
def test_very_long_texts(encoder: BytePairEncoder, unit: str) -> None:
    """A single word, or run of white space, of 200,000 characters among them."""
    texts = [unit * (200_000 // len(unit))]
    assert same(encoder.encode(texts), encoder.reference(texts))


def test_long_prose(encoder: BytePairEncoder) -> None:
    texts = [given_texts.long_text(seed, 60_000) for seed in range(3)]
    assert same(encoder.encode(texts), encoder.reference(texts))


def test_every_character_is_cut_alike() -> None:
    """Each code point beside a letter, a digit, a mark and a space: both libraries cut words at the same places, but
    for the characters that are sent to the reference. (Their list can go when the tokenizers library knows them.)"""
    from gigatoken.gigatoken_rs import pretokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    cut = ByteLevel(add_prefix_space=False).pre_tokenize_str
    differing = []
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        text = f"a{chr(code)}1{chr(code)}!{chr(code)} {chr(code)}"
        theirs = [text[first:last].encode() for _, (first, last) in cut(text)]
        if list(pretokenizer(text.encode())) != theirs:
            differing.append(chr(code))
    assert differing == [
        chr(code)
        for first, last in zip(NEWER[::2], NEWER[1::2], strict=True)
        for code in range(ord(first), ord(last) + 1)
    ]


def test_newer_characters_would_be_cut_otherwise(encoder: BytePairEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"!{NEWER[0]}!"]
    assert same(encoder.encode(texts), encoder.reference(texts))
    monkeypatch.setattr(byte_pairs, "has_newer_characters", lambda _: False)
    assert not same(encoder.encode(texts), encoder.reference(texts))


def test_the_ranges_of_newer_characters() -> None:
    pairs = list(zip(NEWER[::2], NEWER[1::2], strict=True))
    assert list(NEWER) == sorted(NEWER)
    for first, last in pairs:
        assert has_newer_characters(f"a{first}b")
        assert has_newer_characters(f"a漢{last}")
        assert not has_newer_characters(f"a{chr(ord(first) - 1)}{chr(ord(last) + 1)}")
    assert not has_newer_characters("")


def test_a_process_grown_too_large_starts_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets its words again and again and gives the same ids."""
    monkeypatch.setattr(byte_pairs, "_LOOK_EVERY_CHARACTERS", 500)
    encoder = BytePairEncoder(load(folder), memory_bytes=0)
    first = encoder._fast
    texts = [given_texts.long_text(seed, 300) for seed in range(4)]
    assert same(encoder.encode(texts), encoder.reference(texts))
    assert encoder._fast is not first
    second = encoder._fast
    encoder.encode(["short"])
    assert encoder._fast is second, "not before it has read more"


def test_memory_of_new_words_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text of words that never repeat: the process stays near its limit, and would not without."""
    import psutil

    monkeypatch.setattr(byte_pairs, "_LOOK_EVERY_CHARACTERS", 1 << 18)
    process = psutil.Process()
    limit = process.memory_info().rss + (60 << 20)
    encoder = BytePairEncoder(load(folder), limit)
    chosen = random.Random(0)
    highest = 0
    for _ in range(60):
        text = " ".join(f"{chosen.getrandbits(40):x}" for _ in range(40_000))
        encoder.encode([text[at : at + 4000] for at in range(0, len(text), 4000)])
        highest = max(highest, process.memory_info().rss)
    assert highest < limit + (60 << 20)


# --- other forms of tokenizer -----------------------------------------------------------------------------------

DESCRIPTION_CHANGES: list[dict[str, Any]] = [
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
    {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
    {"pre_tokenizer": None},
    {"normalizer": {"type": "Lowercase"}},
]


@pytest.mark.parametrize("change", DESCRIPTION_CHANGES)
def test_another_form_goes_to_the_reference(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    description = json.loads((folder / "tokenizer.json").read_text())
    assert is_gpt2_form(description)
    changed = {**description, **change}
    assert not is_gpt2_form(changed)
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed))
    encoder = BytePairEncoder(load(tmp_path), LARGE)
    texts = [" The  Cat's 12\n", "é"]
    assert same(encoder.encode(texts), encoder.reference(texts))
    assert encoder.encode(texts).ids.tolist()[:-1] != BytePairEncoder(load(folder), LARGE).encode(texts).ids.tolist()


@pytest.mark.parametrize(
    ("option", "value"), [("dropout", 0.1), ("unk_token", "x"), ("byte_fallback", True), ("ignore_merges", True)]
)
def test_another_model_goes_to_the_reference(folder: Path, option: str, value: Any) -> None:
    description = json.loads((folder / "tokenizer.json").read_text())
    description["model"][option] = value
    assert not is_gpt2_form(description)


def test_further_special_tokens_or_a_smaller_alphabet_go_to_the_reference(folder: Path) -> None:
    description = json.loads((folder / "tokenizer.json").read_text())
    more = [*description["added_tokens"], {"id": 1500, "content": "<x>", "special": True}]
    assert not is_gpt2_form({**description, "added_tokens": more})
    del description["model"]["vocab"]["!"]
    assert not is_gpt2_form(description)
