"""A shard's documents become its sequences, for GPT and for BERT; failures leave one message and no files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from dataeff import progress
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.study.specs import TokensSpec
from dataeff.study.types import BpeTokenizer, WordPieceTokenizer
from dataeff.tokens import byte_pairs, reading
from dataeff.tokens.encode import encode
from dataeff.tokens.indexed_dataset import IndexedDataset
from dataeff.tokens.sentences import split_sentences
from dataeff.tokens.tokenizer import load, train
from dataeff.tokens.workers import Counts
from tests.tokens.texts import long_text

TEXTS = [
    "The first text. It goes on!",
    "",
    "Another: wörld 漢字 <|endoftext|> !",
    "x",
    "",
    "The last text, the longest.",
]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    text = " ".join(f"The {n}th text of {n * n} words." for n in range(200)) + long_text(0, 5000)
    write_documents(folder / "00.jsonl", [Document(text, "test")])
    train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=300)), [folder / "00.jsonl"], folder / "bpe")
    kind = WordPieceTokenizer(kind="wordpiece", vocab_size=320)
    train(TokensSpec(tokenizer=kind), [folder / "00.jsonl"], folder / "wordpiece")
    return folder


def shard(folder: Path, texts: list[str], name: str = "00.jsonl.zst") -> Path:
    write_documents(folder / name, [Document(text, "ab"[number % 2]) for number, text in enumerate(texts)])
    return folder / name


def sequences(prefix: Path) -> list[list[int]]:
    dataset = IndexedDataset(prefix)
    return [dataset[number].tolist() for number in range(len(dataset))]


def no_files(folder: Path) -> bool:
    return not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 21])
def test_byte_pairs_are_one_sequence_per_document(
    tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(reading.line_blocks, "__defaults__", (block_bytes,))
    result = encode(shard(tmp_path, TEXTS), tokenizers / "bpe", tmp_path / "tokens" / "00")
    encoder, dataset = load(tokenizers / "bpe"), IndexedDataset(tmp_path / "tokens" / "00")
    filled = [text for text in TEXTS if text]
    assert sequences(tmp_path / "tokens" / "00") == [[*encoder.encode(text), encoder.eos_id] for text in filled]
    assert (dataset.tokens == encoder.eos_id).sum() == len(filled)
    assert [encoder.decode(dataset[number][:-1]) for number in range(len(dataset))] == filled
    assert dataset.document_index.tolist() == list(range(5))
    assert result == Counts(4, 2, sum(map(len, filled)), 4, dataset.token_count)


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 21])
def test_word_pieces_are_one_sequence_per_sentence(
    tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(reading.line_blocks, "__defaults__", (block_bytes,))
    result = encode(shard(tmp_path, TEXTS), tokenizers / "wordpiece", tmp_path / "00")
    encoder, dataset = load(tokenizers / "wordpiece"), IndexedDataset(tmp_path / "00")
    split = [split_sentences(text) for text in TEXTS if text]
    assert sequences(tmp_path / "00") == encoder.encode_batch([sentence for part in split for sentence in part])
    assert dataset.document_index.tolist() == np.cumsum([0, *map(len, split)]).tolist()
    assert result == Counts(4, 2, sum(map(len, TEXTS)), len(dataset), dataset.token_count)
    assert len(dataset) > 4


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_processes_change_nothing(tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(reading.line_blocks, "__defaults__", (1 << 16,))
    texts = [long_text(seed, 40 * seed) for seed in range(50)] * 5
    path = shard(tmp_path, texts)
    one = encode(path, tokenizers / kind, tmp_path / "one", processes=1)
    assert encode(path, tokenizers / kind, tmp_path / "two", processes=2) == one
    for suffix in (".bin", ".idx", ".json"):
        assert (tmp_path / f"two{suffix}").read_bytes() == (tmp_path / f"one{suffix}").read_bytes()
    assert sum(map(len, texts)) > 8 << 16, "several blocks"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_facts_per_domain(tokenizers: Path, tmp_path: Path, kind: str) -> None:
    encode(shard(tmp_path, TEXTS), tokenizers / kind, tmp_path / "00")
    facts = json.loads((tmp_path / "00.json").read_text())
    encoder = load(tokenizers / kind)
    assert (facts["shard"], facts["vocab_size"], facts["token_type"]) == ("00.jsonl.zst", encoder.vocab_size, "uint16")
    assert facts["sequence"] == {"bpe": "document", "wordpiece": "sentence"}[kind]
    for number, domain in enumerate("ab"):
        texts = TEXTS[number::2]
        filled = [text for text in texts if text]
        split = [split_sentences(text) if kind == "wordpiece" else [text] for text in filled]
        lengths = [len(encoder.encode(part)) + (kind == "bpe") for parts in split for part in parts]
        assert facts["domains"][domain] == {
            "documents": len(filled),
            "empty_documents": len(texts) - len(filled),
            "characters": sum(map(len, filled)),
            "sequences": len(lengths),
            "tokens": sum(lengths),
        }
    for count in ("documents", "empty_documents", "characters", "sequences", "tokens"):
        assert facts[count] == sum(facts["domains"][domain][count] for domain in "ab")


def test_files_of_ones_own(tokenizers: Path, tmp_path: Path) -> None:
    """Text under another key, no domain."""
    path = tmp_path / "mine.jsonl"
    path.write_text('{"content": "The text.", "id": 3}\n{"content": "x"}')
    encode(path, tokenizers / "bpe", tmp_path / "mine", text_key="content")
    encoder = load(tokenizers / "bpe")
    assert sequences(tmp_path / "mine") == [[*encoder.encode(text), encoder.eos_id] for text in ("The text.", "x")]
    assert list(json.loads((tmp_path / "mine.json").read_text())["domains"]) == [""]
    with pytest.raises(DataeffError, match=r'mine\.jsonl:1: .* this one has no "text"'):
        encode(path, tokenizers / "bpe", tmp_path / "other")


def test_an_empty_shard_makes_an_empty_pair(tokenizers: Path, tmp_path: Path) -> None:
    assert encode(shard(tmp_path, []), tokenizers / "bpe", tmp_path / "00") == Counts()
    assert sequences(tmp_path / "00") == []


def test_progress_tells_the_time_left(
    tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "_CHUNK_BYTES", 64)
    monkeypatch.setattr(reading.line_blocks, "__defaults__", (1,))
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    path = shard(tmp_path, ["a" * 300, "b" * 100], "00.jsonl")
    encode(path, tokenizers / "bpe", tmp_path / "00")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"tokens 00: [78]\d% of {path.stat().st_size} bytes, [\d,]+ a second, .* left", lines[0])
    assert lines[-2].startswith(f"tokens 00: 100% of {path.stat().st_size} bytes")
    assert lines[-1].startswith("tokens 00: 2 documents, 400 characters, 2 sequences")


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_damaged_shard_leaves_nothing(tokenizers: Path, tmp_path: Path, kind: str, processes: int) -> None:
    path = shard(tmp_path, TEXTS)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataeffError, match=r"00\.jsonl\.zst: cut off"):
        encode(path, tokenizers / kind, tmp_path / "tokens" / "00", processes=processes)
    assert no_files(tmp_path / "tokens")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_faulty_line_is_named_from_any_process(tokenizers: Path, tmp_path: Path, processes: int) -> None:
    path = tmp_path / "00.jsonl"
    path.write_text('{"text": "a"}\n' * 3 + '{"text": 1}\n')
    with pytest.raises(DataeffError, match=r'00\.jsonl:4: .*no "text"'):
        encode(path, tokenizers / "bpe", tmp_path / "tokens" / "00", processes=processes)
    assert no_files(tmp_path / "tokens")


def test_a_missing_shard_or_no_processes_are_refused(tokenizers: Path, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"00\.jsonl: no such shard"):
        encode(tmp_path / "00.jsonl", tokenizers / "bpe", tmp_path / "00")
    with pytest.raises(DataeffError, match="--processes: 0; at least 1"):
        encode(shard(tmp_path, TEXTS), tokenizers / "bpe", tmp_path / "00", processes=0)


def test_other_ids_than_the_references_stop_the_stage(
    tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast encoder that cuts words otherwise (here: characters it is known to cut otherwise) is found out."""
    newer = byte_pairs.NEWER_CHARACTERS[0]
    source = shard(tmp_path, [f"a!{newer}! " * 9000 + long_text(0, 500)], "train.jsonl")
    train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=300)), [source], tmp_path / "bpe")
    path = shard(tmp_path, [f"!{newer}!"])
    encode(path, tmp_path / "bpe", tmp_path / "00")
    monkeypatch.setattr(byte_pairs, "has_newer_characters", lambda _: False)
    with pytest.raises(DataeffError, match=r"first documents get other ids .* install the versions"):
        encode(path, tmp_path / "bpe", tmp_path / "01")
    assert not (tmp_path / "01.idx").exists()


def start(path: Path, tokenizer: Path, out: Path) -> subprocess.Popen[str]:
    script = """
        import sys
        from pathlib import Path
        from dataeff.errors import DataeffError
        from dataeff.tokens.encode import encode
        if __name__ == "__main__":
            try:
                encode(*map(Path, sys.argv[1:]), processes=2)
            except DataeffError as error:
                sys.exit(f"dataeff: {error}")
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path), str(tokenizer), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children()
        found = [child for child in children if any("spawn_main" in part for part in child.cmdline())]
        if len(found) == 2 and all(child.cpu_times().user > 0.8 for child in found):
            return found
        time.sleep(0.05)
    raise AssertionError("no workers")


@pytest.fixture(scope="module")
def long_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a minute of work."""
    text = long_text(0, 100_000)
    return shard(tmp_path_factory.mktemp("long"), [text] * 300)


def test_a_killed_worker_ends_the_stage_with_one_message(tokenizers: Path, long_shard: Path, tmp_path: Path) -> None:
    process = start(long_shard, tokenizers / "wordpiece", tmp_path / "tokens" / "00")
    workers_of(process)[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"dataeff: {long_shard}: a worker process ended while it encoded this shard")
    assert no_files(tmp_path / "tokens")


def test_workers_end_with_their_parent(tokenizers: Path, long_shard: Path, tmp_path: Path) -> None:
    process = start(long_shard, tokenizers / "wordpiece", tmp_path / "tokens" / "00")
    workers = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
