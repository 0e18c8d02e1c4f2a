"""The map: parts that make up the whole, whatever their number, read from the files or as batches; and its failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dataeff.analyze import map as stage
from dataeff.analyze import windows as windows_stage
from dataeff.analyze.map import integer_type, map_frequency, map_part, part_range, special_ids
from dataeff.analyze.metrics import MetricContext, count_tokens, vocab_rarity
from dataeff.analyze.reduce import reduce, reduce_frequency
from dataeff.analyze.text_metrics import mtld, text_decoder
from dataeff.analyze.windows import Windows
from dataeff.corpus.shard import Document, write_documents
from dataeff.errors import DataeffError
from dataeff.samples import Samples, build, open_samples
from dataeff.study.specs import SamplesSpec, TokensSpec
from dataeff.study.types import BpeTokenizer, WordPieceTokenizer
from dataeff.tokens.encode import encode
from dataeff.tokens.indexed_dataset import write_indexed_arrays
from dataeff.tokens.tokenizer import load, train

LENGTH, VOCABULARY = 16, 300
BINS = 385


class Corpus:
    """Three shards of text, one of them of a single short document, taken as far as the sample index."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.samples, self.tokenizer = folder, folder / "samples", folder / "bpe"
        words = [f"Word{n % 37} and {'rare' * (n % 5)} {n * n}." for n in range(600)]
        texts = [[" ".join(words[n : n + 15]) for n in range(0, 300, 15)], ["a"], [" ".join(words[300:])]]
        shards = [folder / f"{number}.jsonl" for number in range(len(texts))]
        for shard, of_shard in zip(shards, texts, strict=True):
            write_documents(shard, [Document(text, "test") for text in of_shard])
        train(TokensSpec(tokenizer=BpeTokenizer(kind="bpe", vocab_size=VOCABULARY)), shards, self.tokenizer)
        self.tokens = [folder / "tokens" / shard.stem for shard in shards]
        for shard, prefix in zip(shards, self.tokens, strict=True):
            encode(shard, self.tokenizer, prefix)
        build(SamplesSpec(family="gpt", sequence_length=LENGTH, seed=7), self.tokens, self.samples)
        self.frequency = folder / "frequency.npy"
        self.count(folder / "counts", 1)
        reduce_frequency(folder / "counts", 1, self.frequency)

    def count(self, out: Path, parts: int) -> None:
        for part in range(parts):
            map_frequency(self.samples, self.tokens, self.tokenizer, part, parts, out)

    def values(self, metric: str, out: Path, part: int = 0, parts: int = 1, again: bool = False) -> None:
        files = {"frequency": self.frequency, "tokenizer": self.tokenizer}
        map_part(metric, self.samples, self.tokens, part, parts, out, again=again, **files)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("corpus"))


def everything(corpus: Corpus) -> Samples:
    opened = open_samples(corpus.samples, corpus.tokens)
    assert isinstance(opened, Samples)
    return opened


@pytest.mark.parametrize(("samples", "parts"), [(10, 3), (1, 4), (173_000_001, 64), (7, 7)])
def test_parts_are_deepspeeds(samples: int, parts: int) -> None:
    bounds = np.linspace(0, samples, dtype=int, num=parts + 1).tolist()
    assert [part_range(samples, part, parts) for part in range(parts)] == list(pairwise(bounds))


@pytest.mark.parametrize("part", [-1, 3])
def test_parts_have_numbers_below_their_count(part: int) -> None:
    with pytest.raises(DataeffError, match=f"part {part} of 3; parts are numbered from 0 to 2"):
        part_range(10, part, 3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 255, "uint8"), (0, 256, "uint16"), (3, 65_536, "uint32"), (0, 2**32, "uint64"), (-1, 0, "int8"),
        (-129, 127, "int16"), (-1, 32_768, "int32"), (-(2**31) - 1, 0, "int64"),
    ],
)  # fmt: skip
def test_integer_types_are_the_smallest(low: int, high: int, expected: str) -> None:
    assert integer_type(low, high) == np.dtype(expected)


# --- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_frequency_counts_every_token_of_every_sample(corpus: Corpus, tmp_path: Path, parts: int) -> None:
    corpus.count(tmp_path / "parts", parts)
    reduce_frequency(tmp_path / "parts", parts, tmp_path / "frequency.npy")
    counts = np.load(tmp_path / "frequency.npy")
    opened = everything(corpus)
    expected = Counter(opened.read(np.arange(len(opened))).ravel().tolist())
    assert (counts.dtype, counts.shape) == (np.int64, (BINS,))
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected
    assert counts.sum() == len(opened) * (LENGTH + 1)


@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_windows_read_in_place_have_the_values_of_batches(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """However many windows are brought into order together."""
    monkeypatch.setattr(stage, "BLOCK_WINDOWS", block)
    monkeypatch.setattr(windows_stage, "_PLACED_AT_A_TIME", 7)
    monkeypatch.setattr(windows_stage, "_READ_AT_A_TIME", 3)
    opened = everything(corpus)
    batch = opened.batch(np.arange(len(opened)))
    frequency = np.load(corpus.frequency)
    assert count_tokens(batch, BINS).tolist() == frequency.tolist()
    expected = vocab_rarity(batch, MetricContext.of(LENGTH, frequency)).tolist()
    corpus.values("vocab_rarity", tmp_path)
    values = np.load(tmp_path / "0.npy")
    assert values.tolist() == expected
    assert values.dtype == integer_type(min(expected), max(expected))
    assert len(opened) > 100
    assert len(set(expected)) > 10


@pytest.mark.parametrize("metric", ["vocab_rarity", "compression_ratio", "mtld", "flesch"])
def test_parts_make_up_the_whole(corpus: Corpus, tmp_path: Path, metric: str) -> None:
    corpus.values(metric, tmp_path / "one")
    for part in (2, 0, 1):
        corpus.values(metric, tmp_path / "three", part, 3)
    for name, parts in (("one", 1), ("three", 3)):
        reduce(tmp_path / name, parts, tmp_path / f"{name}-index")
    files = sorted(file.name for file in (tmp_path / "one-index").iterdir())
    assert files == ["index.json", "manifest.json", "order.npy", "value.npy"]
    for file in files:
        assert (tmp_path / "one-index" / file).read_bytes() == (tmp_path / "three-index" / file).read_bytes()


def test_more_parts_than_samples(corpus: Corpus, tmp_path: Path) -> None:
    samples = len(everything(corpus))
    for part in range(samples + 3):
        corpus.values("vocab_rarity", tmp_path / "parts", part, samples + 3)
    reduce(tmp_path / "parts", samples + 3, tmp_path / "index")
    corpus.values("vocab_rarity", tmp_path / "whole")
    assert np.load(tmp_path / "index" / "value.npy").tolist() == np.load(tmp_path / "whole" / "0.npy").tolist()


def test_text_is_that_of_the_documents(corpus: Corpus) -> None:
    tokenizer = load(corpus.tokenizer)
    ids = [*tokenizer.encode("It ends."), tokenizer.eos_id, *tokenizer.encode("Next one"), tokenizer.eos_id]
    assert text_decoder(tokenizer)(ids) == "It ends.\n\nNext one\n\n"
    assert text_decoder(tokenizer)([]) == ""


def test_facts_say_what_a_part_is_of(corpus: Corpus, tmp_path: Path) -> None:
    corpus.values("vocab_rarity", tmp_path, 1, 2)
    facts = json.loads((tmp_path / "1.json").read_text())
    samples = len(everything(corpus))
    expected = {"metric": "vocab_rarity", "family": "gpt", "sequence_length": LENGTH, "samples": samples}
    expected |= {"part": 1, "parts": 2, "first": samples // 2, "last": samples}
    assert expected.items() <= facts.items()
    assert len(facts["samples_digest"]) == len(facts["frequency_sha256"]) == len(facts["sha256"]) == 64


# --- sentence pairs ----------------------------------------------------------------------------------------------


class Pairs:
    """Documents of sentences in two files, taken as far as the sample index of pairs of at most 24 pieces."""

    def __init__(self, folder: Path) -> None:
        self.samples, self.tokenizer = folder / "samples", folder / "wordpiece"
        sentences = [f"The word {n % 37} is {'very ' * (n % 4)}good in {n * n} ways." for n in range(200)]
        shard = folder / "0.jsonl"
        write_documents(shard, [Document(" ".join(sentences), "test")])
        kind = WordPieceTokenizer(kind="wordpiece", vocab_size=300)
        train(TokensSpec(tokenizer=kind), [shard], self.tokenizer)
        encoded = [np.array(ids) for ids in load(self.tokenizer).encode_batch(sentences)]
        self.tokens = [folder / "a", folder / "b"]
        for prefix, of_file in zip(self.tokens, (encoded[:80], encoded[80:]), strict=True):
            ends = np.arange(0, len(of_file) + 1, 8)
            write_indexed_arrays(prefix, of_file, np.dtype(np.uint16), documents=ends)
        spec = SamplesSpec(family="bert", sequence_length=24, seed=5, short_seq_prob=0.3)
        build(spec, self.tokens, self.samples)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return Pairs(tmp_path_factory.mktemp("pairs"))


def test_values_of_sentence_pairs(pairs: Pairs, tmp_path: Path) -> None:
    tokenizer = load(pairs.tokenizer)
    opened = open_samples(pairs.samples, pairs.tokens, special_ids(tokenizer))
    batch = opened.batch(np.arange(len(opened)))
    real = [row[:length].tolist() for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    assert {24} < {len(ids) for ids in real}  # some are padded

    for part in range(3):
        map_frequency(pairs.samples, pairs.tokens, pairs.tokenizer, part, 3, tmp_path / "counts")
    reduce_frequency(tmp_path / "counts", None, tmp_path / "frequency.npy")
    expected = Counter(token for ids in real for token in ids)
    counts = np.load(tmp_path / "frequency.npy")
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == expected
    assert counts[tokenizer.pad_id] == 0

    values = {}
    for metric in ("seqlen", "vocab_rarity", "seqlen_vocab_rarity", "flesch", "mtld"):
        out = tmp_path / metric
        for part in range(2):
            map_part(
                metric, pairs.samples, pairs.tokens, part, 2, out,
                frequency=tmp_path / "frequency.npy", tokenizer=pairs.tokenizer,
            )  # fmt: skip
        reduce(out, 2, tmp_path / f"{metric}-index")
        values[metric] = np.load(tmp_path / f"{metric}-index" / "value.npy").astype(np.int64).tolist()
    assert values["seqlen"] == [len(ids) for ids in real]
    shares = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    assert values["vocab_rarity"] == [int(-np.log(shares[ids]).sum()) for ids in real]
    assert values["seqlen_vocab_rarity"] == [
        10_000 * length + rarity for length, rarity in zip(values["seqlen"], values["vocab_rarity"], strict=True)
    ]
    assert values["mtld"] == [mtld(text_decoder(tokenizer)(ids)) for ids in real]


def test_text_of_sentence_pairs_is_without_what_frames_it(pairs: Pairs) -> None:
    tokenizer = load(pairs.tokenizer)
    first, second = tokenizer.encode("the word."), tokenizer.encode("is good in ways")
    ids = [tokenizer.cls_id, *first, tokenizer.sep_id, *second, tokenizer.sep_id, tokenizer.pad_id]
    assert text_decoder(tokenizer)(ids).split() == ["the", "word.", "is", "good", "in", "ways"]
    assert "\n\n" in text_decoder(tokenizer)(ids)


def test_sentence_pairs_need_what_frames_them(pairs: Pairs, tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="pass --tokenizer"):
        map_part("seqlen", pairs.samples, pairs.tokens, 0, 1, tmp_path / "out")
    map_part("seqlen", pairs.samples, pairs.tokens, 0, 1, tmp_path / "out", special=special_ids(load(pairs.tokenizer)))
    assert len(np.load(tmp_path / "out" / "0.npy")) > 10


# --- going on after a stop ---------------------------------------------------------------------------------------


def test_a_sound_part_is_kept_unless_asked_otherwise(corpus: Corpus, tmp_path: Path) -> None:
    corpus.values("vocab_rarity", tmp_path)
    first = (tmp_path / "0.npy").stat().st_mtime_ns
    corpus.values("vocab_rarity", tmp_path)
    assert (tmp_path / "0.npy").stat().st_mtime_ns == first
    corpus.values("vocab_rarity", tmp_path, again=True)
    assert (tmp_path / "0.npy").stat().st_mtime_ns > first


@pytest.mark.parametrize("damage", ["cut", "no facts", "other facts", "no JSON", "other metric", "other parts"])
def test_a_part_that_is_not_sound_is_made_again(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    corpus.values("vocab_rarity", tmp_path / "sound")
    expected = (tmp_path / "sound" / "0.npy").read_bytes()
    out = tmp_path / "damaged"
    if damage == "other metric":
        corpus.values("flesch", out)
    else:
        corpus.values("vocab_rarity", out, 0, 2 if damage == "other parts" else 1)
    if damage == "cut":
        (out / "0.npy").write_bytes(expected[:-1])
    if damage == "no facts":
        (out / "0.json").unlink()
    if damage == "other facts":
        facts = json.loads((out / "0.json").read_text())
        (out / "0.json").write_text(json.dumps(facts | {"frequency_sha256": "x"}))
    if damage == "no JSON":
        (out / "0.json").write_text("[")
    corpus.values("vocab_rarity", out)
    assert (out / "0.npy").read_bytes() == expected
    assert (out / "0.json").read_bytes() == (tmp_path / "sound" / "0.json").read_bytes()


def script(corpus: Corpus, out: Path, before: str = "") -> list[str]:
    code = (
        f"{before}; import sys; from pathlib import Path; from dataeff.analyze.map import map_frequency\n"
        "samples, tokenizer, out, *tokens = map(Path, sys.argv[1:])\n"
        "map_frequency(samples, tokens, tokenizer, 0, 1, out)"
    )
    paths: Sequence[Path] = [corpus.samples, corpus.tokenizer, out, *corpus.tokens]
    return [sys.executable, "-c", code, *map(str, paths)]


def test_two_processes_may_make_one_part(corpus: Corpus, tmp_path: Path) -> None:
    both = [subprocess.Popen(script(corpus, tmp_path, "pass")) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.json", "0.npy"]
    reduce_frequency(tmp_path, 1, tmp_path / "frequency.npy")
    assert (tmp_path / "frequency.npy").read_bytes() == corpus.frequency.read_bytes()


def test_a_full_disk_leaves_no_part(corpus: Corpus, tmp_path: Path) -> None:
    """A limit of the file size stands for it: the system refuses a write in the same place."""
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    run = subprocess.run(script(corpus, tmp_path, before), capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert f"{tmp_path / '0.npy'}: cannot be written (File too large); make room" in run.stderr
    assert not list(tmp_path.iterdir())


# --- bad input ---------------------------------------------------------------------------------------------------


def test_a_token_beyond_the_vocabulary_is_named_with_its_document(corpus: Corpus, tmp_path: Path) -> None:
    np.save(tmp_path / "frequency.npy", np.ones(260, dtype=np.int64))
    arguments = ("vocab_rarity", corpus.samples, corpus.tokens, 0, 1, tmp_path / "out")
    with pytest.raises(DataeffError, match=r"tokens/\d: document \d+ holds the token id 2\d\d, but .* have 260 bins"):
        map_part(*arguments, frequency=tmp_path / "frequency.npy", threads=2)
    assert not (tmp_path / "out").exists()


def test_the_document_named_holds_the_token(corpus: Corpus) -> None:
    opened = everything(corpus)
    with pytest.raises(DataeffError) as raised:
        Windows(opened).count(0, len(opened), 260)
    words = str(raised.value).replace(",", "").split()
    file = corpus.tokens.index(Path(words[0].rstrip(":")))
    document, token = int(words[words.index("document") + 1]), int(words[words.index("id") + 1])
    assert token >= 260
    assert token in opened.datasets[file][document].tolist()


@pytest.mark.parametrize("array", ["doc_idx", "sample_idx", "shuffle_idx"])
def test_an_index_that_points_outside_is_refused(corpus: Corpus, tmp_path: Path, array: str) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for file in corpus.samples.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = np.load(folder / f"{array}.npy")
    values[len(values) // 2] = np.iinfo(values.dtype).max
    np.save(folder / f"{array}.npy", values)
    with pytest.raises(DataeffError, match="samples: an entry of its arrays points outside"):
        map_part("vocab_rarity", folder, corpus.tokens, 0, 1, tmp_path / "out", frequency=corpus.frequency)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("vocab_rarety", "unknown metric 'vocab_rarety'; did you mean 'vocab_rarity'"),
        ("seqlen", "every gpt sample has the same length"),
        ("vocab_rarity", "pass --frequency"),
        ("mtld", "pass --tokenizer"),
    ],
)
def test_what_is_missing_or_unfit_is_said(corpus: Corpus, tmp_path: Path, metric: str, message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        map_part(metric, corpus.samples, corpus.tokens, 0, 1, tmp_path / "out")


def test_an_error_in_a_thread_surfaces(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last block: all the others are done by then."""
    monkeypatch.setattr(stage, "BLOCK_WINDOWS", 3)
    folder = tmp_path / "samples"
    folder.mkdir()
    for file in corpus.samples.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    windows = np.load(folder / "shuffle_idx.npy")
    windows[-1] = len(windows)
    np.save(folder / "shuffle_idx.npy", windows)
    with pytest.raises(DataeffError, match="points outside the tokens"):
        map_part("vocab_rarity", folder, corpus.tokens, 0, 1, tmp_path / "out", frequency=corpus.frequency, threads=4)
    assert not (tmp_path / "out").exists()


def test_mapped_pages_are_given_back(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing allowed to stay, pages are given back all the time, and the values are the same."""
    monkeypatch.setattr(stage, "RESIDENT_LIMIT_BYTES", 0)
    monkeypatch.setattr(stage, "BLOCK_WINDOWS", 3)
    corpus.count(tmp_path / "parts", 1)
    assert np.load(tmp_path / "parts" / "0.npy").tolist() == np.load(corpus.frequency).tolist()
