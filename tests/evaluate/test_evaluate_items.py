from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataeff.errors import DataeffError
from dataeff.evaluate.documents import domain_files, read_documents
from dataeff.evaluate.items import build, make_items, plain_sentences, read_domains
from dataeff.files import check_manifest
from dataeff.study.specs import ItemsSpec
from dataeff.study.tasks import Task

KINDS = ["last_word", "word_order"]


def read(folder: Path, task: str, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / task / f"{split}.jsonl").read_text().splitlines()]


def whole(item: dict[str, Any], choice: int) -> str:
    return f"{item['context']} {item['choices'][choice]}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_real_sentence_is_the_answer_and_is_in_the_text(kind: str, items: list[Path], heldout: Path) -> None:
    texts = {
        f"{path.name}:{number}": " ".join(text.split())
        for path in domain_files(heldout)
        for number, (_, text) in enumerate(read_documents(path))
    }
    made = read(items[KINDS.index(kind)], kind, "test")
    assert len(made) > 50
    for item in made:
        sentence = whole(item, item["answer"])
        assert sentence in texts[item["document"]]
        assert 5 <= len(sentence.split()) <= 9
        assert len(set(item["choices"])) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_answers_fill_every_place_equally(kind: str, items: list[Path]) -> None:
    made = read(items[KINDS.index(kind)], kind, "test")
    places = Counter(item["answer"] for item in made)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) - min(places.values()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_fewshot_examples_share_no_document_or_sentence_with_the_test(kind: str, items: list[Path]) -> None:
    folder = items[KINDS.index(kind)]
    test, fewshot = read(folder, kind, "test"), read(folder, kind, "fewshot")
    assert len(fewshot) >= 10
    assert not {item["document"] for item in test} & {item["document"] for item in fewshot}
    sentences = [whole(item, item["answer"]).lower() for item in test + fewshot]
    assert len(set(sentences)) == len(sentences)


def test_code_gives_no_items_and_both_prose_domains_do(items: list[Path]) -> None:
    domains = Counter(item["domain"] for item in read(items[0], "last_word", "test")[:20])
    assert domains == {"Language Reference": 10, "Library (prose)": 10}


def test_word_orders_are_of_the_same_words(items: list[Path]) -> None:
    for item in read(items[1], "word_order", "test"):
        assert len({tuple(sorted(choice.rstrip(".").split())) for choice in item["choices"]}) == 1
        assert all(choice.endswith(".") for choice in item["choices"])


def test_last_words_are_of_about_the_same_frequency(items: list[Path], heldout: Path, tasks: dict[str, Task]) -> None:
    domains = {domain.name: domain for domain in read_domains("last_word", tasks["last_word"], heldout)}
    distances = []
    for item in read(items[0], "last_word", "test"):
        domain = domains[item["domain"]]
        classes = [math.log2(domain.counts[choice.rstrip(".")]) for choice in item["choices"]]
        assert all(choice.rstrip(".") in domain.last_words for choice in item["choices"])
        distances += [abs(value - classes[item["answer"]]) for value in classes]
    assert sum(distances) / len(distances) < 1


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_items(
    items: list[Path], heldout: Path, tasks: dict[str, Task], tmp_path: Path
) -> None:
    for folder, (name, task) in zip(items, tasks.items(), strict=True):
        build(ItemsSpec(tasks={name: task}), heldout, tmp_path / name)
        for file in (path for path in folder.rglob("*") if path.is_file()):
            assert (tmp_path / name / file.relative_to(folder)).read_bytes() == file.read_bytes()
        other, _ = make_items(name, task.model_copy(update={"seed": 99}), heldout)
        assert other[:20] != read(folder, name, "test")[:20]


def test_the_folder_has_a_true_manifest(items: list[Path]) -> None:
    assert [check_manifest(folder) for folder in items] == [None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_shots_fit_a_context_of_256(kind: str, items: list[Path], model: Path) -> None:
    """In tokens of a BPE of 4,096: a usual prompt is far below 220, and the longest possible one still fits."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    folder = items[KINDS.index(kind)]
    test, fewshot = (
        sorted(
            len(tokenizer.encode(f"{whole(item, choice)}\n").ids)
            for item in read(folder, kind, split)
            for choice in (range(4) if split == "test" else [item["answer"]])
        )
        for split in ("test", "fewshot")
    )
    assert 10 * sum(fewshot) / len(fewshot) + max(test) < 220
    assert sum(fewshot[-10:]) + max(test) <= 256


def test_plain_sentences_are_whole_and_plain() -> None:
    text = (
        "The cat sat on the mat. He met Dr. Smith in the old\ntown. It cost 5 dollars. Is it so? "
        'He said "no" to it. It was (not) good.\n\nA HEADING\n\nthis begins in the middle. The end is near'
    )
    found = [" ".join(words) for words in plain_sentences(text)]
    assert found == ["The cat sat on the mat", "Smith in the old town"]


def test_text_without_sentences_is_an_error(
    write_domain: Callable[..., None], tmp_path: Path, tasks: dict[str, Task]
) -> None:
    write_domain(tmp_path / "numbers.jsonl.zst", "Numbers", ["1, 2, 3", "4, 5, 6"])
    with pytest.raises(DataeffError, match=r"tasks\.last_word: no test items .* hold out more text"):
        build(ItemsSpec(tasks={"last_word": tasks["last_word"]}), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_domain_that_the_text_lacks_is_an_error(heldout: Path, tasks: dict[str, Task], tmp_path: Path) -> None:
    task = tasks["last_word"].model_copy(update={"domains": ["Librarry"]})
    with pytest.raises(DataeffError, match="'Librarry' is not in"):
        build(ItemsSpec(tasks={"last_word": task}), heldout, tmp_path / "out")


def test_an_empty_heldout_folder_is_an_error(tmp_path: Path, tasks: dict[str, Task]) -> None:
    with pytest.raises(DataeffError, match="make the corpus first"):
        build(ItemsSpec(tasks=tasks), tmp_path, tmp_path / "out")
