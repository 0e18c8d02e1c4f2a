"""The n-gram look-up against a plain one, and the two commands on a shard with known overlaps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.evaluate.contamination import Report, ShardScan, report, row_texts, scan
from dataeff.evaluate.datasets import fetch_dataset
from dataeff.evaluate.ngrams import GRAM_WORDS, Items, normalised
from dataeff.files import read_json
from dataeff.study.specs import ContaminationSpec, DatasetSpec, FinetunedItems, PromptedItems
from dataeff.study.tasks import Dataset

LONG = "The quick brown fox jumps over the lazy dog, and then it sleeps until noon."


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def plainly_found(texts: list[str], documents: list[str]) -> bool:
    """The rule in its own words, a gram at a time."""
    counted = [words_of(text) for text in texts]
    longest = max(counted, key=len, default=[])
    if len(longest) >= GRAM_WORDS:
        grams = {tuple(w[i : i + GRAM_WORDS]) for w in counted for i in range(len(w) - GRAM_WORDS + 1)}
        length = GRAM_WORDS
    else:
        grams, length = {tuple(longest)} - {()}, len(longest)
    read = [words_of(document) for document in documents]
    return any(tuple(w[i : i + length]) in grams for w in read for i in range(len(w) - length + 1))


# Few words, so that grams meet; separators of every kind, and letters beyond ASCII whose lower case is longer.
WORD = st.sampled_from(["a", "B", "c1", "Straße", "İx", "λόγος", "x²", "b"])
SPACE = st.sampled_from([" ", "  ", "_", "—", ", ", "\n", "\u2028", "'", "\x00", "é "])
TEXT = st.lists(st.tuples(WORD, SPACE), max_size=40).map(lambda pairs: "".join(w + s for w, s in pairs))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(TEXT, max_size=3), max_size=6), st.lists(TEXT, max_size=4), st.data())
def test_the_look_up_finds_what_a_plain_one_finds(items: list[list[str]], others: list[str], data: Any) -> None:
    pieces = [text for texts in items for text in texts]
    documents = others + ([f"b {data.draw(st.sampled_from(pieces))} a"] if pieces else [])
    index = Items(items)
    for document in documents:
        index.look(document)
    assert set(index.found) == {n for n, texts in enumerate(items) if plainly_found(texts, documents)}
    for position, gram in index.found.items():
        assert any(gram in " ".join(words_of(text)) for text in items[position])


@given(st.text())
def test_normalised_words_are_the_runs_of_letters_and_digits(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert normalised(text).decode().split(" ") == [""] or normalised(text).decode().split() == words_of(text)
    assert normalised(text).split() == " ".join(words_of(text)).encode().split()


def test_words_of_two_texts_make_no_gram_together() -> None:
    halves = LONG.split(", ")
    index = Items([[halves[0] + " one two three four", halves[1] + " five six seven eight nine"]])
    index.look(LONG)
    assert index.found == {}


def test_a_hash_alone_does_not_count() -> None:
    """Other words of the same hash find nothing, and do not hide the item from its own words."""
    index = Items([[LONG]])
    index._compare(0, b"other words that happen to have this hash")
    assert index.found == {}
    index.look(LONG)
    assert set(index.found) == {0}


def test_texts_of_a_row_are_those_of_several_words() -> None:
    row = {
        "id": "56be4db0",
        "url": "https://x.org/a_b",
        "idx": {"n": 1},
        "q": "Who is it?",
        "answers": ["it is I", "I"],
    }
    assert row_texts(row) == ["Who is it?", "it is I"]
    assert row_texts({"word": "alone", "label": 1}) == ["alone"]
    assert row_texts({"a": [{"b": ["two words", "two words"]}]}) == ["two words"]


# --- the commands ---------------------------------------------------------------------------------------------


def write_shard(path: Path, texts: list[str]) -> Path:
    lines = "".join(json.dumps({"text": text, "meta": {"pile_set_name": "Books"}}) + "\n" for text in texts)
    path.write_bytes(zstandard.compress(lines.encode()))
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [
        {"question": LONG, "choices": ["a stone", "a plant"], "label": 0},
        {"question": "Nothing of this question stands in any of the shards, whatever words one takes.", "label": 1},
        {"question": "A short one?", "label": 0},
        {"question": "Another short one!", "label": 0},
    ]
    folder = tmp_path / "mine"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fetch = {"kind": "path", "path": str(folder), "splits": ["train", "validation"]}
    dataset = Dataset.model_validate({"about": "A test's.", "licence": "none", "fetch": fetch})
    fetch_dataset(DatasetSpec(name="mine", dataset=dataset), tmp_path / "cache", tmp_path / "mine.json")
    return tmp_path / "mine.json"


def spec_of(task: str = "package_quartz") -> ContaminationSpec:
    return ContaminationSpec(
        tasks={"asked": PromptedItems(task=task, data="mine")},
        finetuning={"tuned": FinetunedItems(data="mine", evaluation={"dev": "validation"})},
    )


def test_overlaps_of_two_shards_are_put_together(tmp_path: Path, manifest: Path) -> None:
    parts = []
    for name, texts in {
        "00": ["Unrelated.", f"He said: {LONG.upper().replace(' ', '  ')} And so on."],
        "01": ["It was a SHORT one; nothing else.", "quick brown fox jumps"],
    }.items():
        shard = write_shard(tmp_path / f"{name}.jsonl.zst", texts)
        parts.append(tmp_path / f"{name}.json")
        scan(spec_of(), shard, [manifest], parts[-1])
    first = ShardScan.model_validate(read_json(parts[0]))
    assert list(first.sets) == ["mine/validation"]
    assert first.documents == 2
    report(parts, tmp_path / "report.json")
    found = Report.model_validate(read_json(tmp_path / "report.json"))
    assert (found.shards, found.documents) == (2, 4)
    overlap = found.tasks["asked"]
    assert (overlap.items, overlap.found, overlap.share) == (4, 2, 0.5)
    assert (overlap.short_items, overlap.short_found) == (2, 1)
    assert [example["row"] for example in overlap.examples] == [0, 2]
    assert overlap.examples[0]["words"] == "the quick brown fox jumps over the lazy dog and then it sleeps"
    assert found.finetuning["tuned"]["dev"] == overlap


def test_parts_of_other_tasks_are_refused(tmp_path: Path, manifest: Path) -> None:
    shard = write_shard(tmp_path / "00.jsonl.zst", ["Text."])
    scan(spec_of(), shard, [manifest], tmp_path / "a.json")
    scan(spec_of("package_qasc"), shard, [manifest], tmp_path / "b.json")
    with pytest.raises(DataeffError, match=r"b\.json: made for other tasks or data than"):
        report([tmp_path / "a.json", tmp_path / "b.json"], tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


def test_a_dataset_that_is_not_there_and_a_damaged_shard_are_named(tmp_path: Path, manifest: Path) -> None:
    shard = write_shard(tmp_path / "00.jsonl.zst", ["Text of some length." * 100])
    with pytest.raises(DataeffError, match=r"dataset mine is not at hand.*fetch-eval"):
        scan(spec_of(), shard, [], tmp_path / "a.json")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(DataeffError, match=r"00\.jsonl\.zst.*cut off"):
        scan(spec_of(), shard, [manifest], tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
