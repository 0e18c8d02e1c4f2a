"""Multiple-choice items made from held-out text, as lm-eval tasks: a YAML, the items, the few-shot examples.

The corpora of small scales come without evaluation sets, so the probes are cut from the text that was held
out. `last_word`: a short sentence less its last word, and candidate words of about the same frequency.
`word_order`: a short sentence and reorderings of its own words, so that no candidate is longer or rarer than
another. They rank models trained on one corpus; their values mean nothing beside those of published tasks.

Everything is keyed by the task's seed. Few-shot examples come from documents that give no test item.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dataeff.errors import DataeffError
from dataeff.evaluate.documents import domain_files, read_documents
from dataeff.files import atomic_directory, write_manifest
from dataeff.keyed import generator, key
from dataeff.study.specs import ItemsSpec
from dataeff.study.tasks import HeldoutTask

TASK_VERSION = 1
"""Raised when items or prompts of an unchanged task come out differently."""

TEST_ITEMS = 1000
FEWSHOT_ITEMS = 100
FEWSHOT_SHARE = 5
"""One document in so many, of each domain, gives few-shot examples; the others give test items."""

PARAGRAPH = re.compile(r"\n\s*\n")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
LAST_WORD = re.compile(r"[a-z]{3,}(?:['’-][a-z]+)*")
"""In lower case and not short: 'Dr.', 'St.' and 'et al.' do not end a sentence."""

Item = dict[str, Any]


@dataclass(frozen=True)
class Sentence:
    """A sentence without its full stop; `document` is unique over the held-out folder."""

    domain: str
    document: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class Domain:
    """A domain's usable sentences, and how often each word occurs in all of its held-out text."""

    name: str
    sentences: list[Sentence]
    last_words: list[str]
    counts: Counter[str]

    def frequency_class(self, word: str) -> int:
        """The binary order of magnitude of the word's count."""
        return int(math.log2(self.counts[word.lower()]))


def build(spec: ItemsSpec, heldout: Path, out: Path) -> None:
    """Writes out/{task}.yaml, out/{task}/{test,fewshot}.jsonl and a manifest for every task of the spec.

    The YAML's paths are relative to `out`: `lm_eval run --include_path .` works inside it, wherever it is.
    """
    with atomic_directory(out) as folder:
        for name, task in spec.tasks.items():
            test, fewshot = make_items(name, task, heldout)
            (folder / name).mkdir()
            _write_lines(folder / name / "test.jsonl", test)
            _write_lines(folder / name / "fewshot.jsonl", fewshot)
            document = yaml.safe_dump(task_yaml(name, task), sort_keys=False, allow_unicode=True, width=110)
            (folder / f"{name}.yaml").write_text(document, encoding="utf-8")
            print(f"items: {name}: {len(test)} items and {len(fewshot)} few-shot examples")
        tasks = {name: task.model_dump(mode="json") for name, task in spec.tasks.items()}
        write_manifest(folder, spec_digest=spec.digest, tasks=tasks)


def task_yaml(name: str, task: HeldoutTask) -> dict[str, Any]:
    """The lm-eval task: one item and its answer a line, blind choice scores 1 / choices."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: f"{name}/{split}.jsonl" for split in ("test", "fewshot")}},
        "test_split": "test",
        "fewshot_split": "fewshot",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": " ",
        "fewshot_delimiter": "\n",
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
        "metadata": {"version": TASK_VERSION, "about": task.about},
    }


def make_items(name: str, task: HeldoutTask, heldout: Path) -> tuple[list[Item], list[Item]]:
    """(test items, few-shot examples), each with its domains mixed evenly from the first item on."""
    domains = {domain.name: domain for domain in read_domains(name, task, heldout)}
    test: list[list[Sentence]] = []
    fewshot: list[list[Sentence]] = []
    for domain in domains.values():
        chosen = _fewshot_documents(domain, task.seed)
        order = sorted(domain.sentences, key=lambda sentence: key(task.seed, f"items/order/{sentence.text}"))
        test.append([sentence for sentence in order if sentence.document not in chosen])
        fewshot.append([sentence for sentence in order if sentence.document in chosen])
    made = tuple(
        _items(split, task, domains, sentences, limit)
        for split, sentences, limit in (("test", test, TEST_ITEMS), ("fewshot", fewshot, FEWSHOT_ITEMS))
    )
    for split, items in zip(("test items", "few-shot examples"), made, strict=True):
        if not items:
            raise DataeffError(
                f"tasks.{name}: no {split} in {heldout}: no sentences of {task.words[0]} to "
                f"{task.words[1]} plain words; hold out more text, or widen tasks.{name}.words"
            )
    return made[0], made[1]


def read_domains(name: str, task: HeldoutTask, heldout: Path) -> list[Domain]:
    """The domains that the task may use, each sentence once over all of them."""
    texts: dict[str, list[tuple[str, str]]] = {}
    for path in domain_files(heldout):
        for number, (domain, text) in enumerate(read_documents(path)):
            texts.setdefault(domain, []).append((f"{path.name}:{number}", text))
    for domain in task.domains:
        if domain not in texts:
            raise DataeffError(
                f"tasks.{name}.domains: '{domain}' is not in {heldout}, which has {', '.join(sorted(texts))}"
            )
    wanted = [domain for domain in texts if domain not in task.without and (not task.domains or domain in task.domains)]
    seen: set[str] = set()
    return [_read_domain(domain, texts[domain], task, seen) for domain in wanted]


def _read_domain(name: str, documents: list[tuple[str, str]], task: HeldoutTask, seen: set[str]) -> Domain:
    found: list[Sentence] = []
    last_words: set[str] = set()
    counts: Counter[str] = Counter()
    for document, text in documents:
        counts.update(word.lower() for word in WORD.findall(text))
        for words in plain_sentences(text):
            last_words.add(words[-1])
            sentence = Sentence(name, document, words)
            if task.words[0] <= len(words) <= task.words[1] and sentence.text.lower() not in seen:
                seen.add(sentence.text.lower())
                found.append(sentence)
    return Domain(name, found, sorted(last_words), counts)


def plain_sentences(text: str) -> Iterator[tuple[str, ...]]:
    """Sentences of letters, spaces and one full stop: no figures, quotes, brackets, commas or headings."""
    for paragraph in PARAGRAPH.split(text):
        for sentence in SENTENCE_END.split(" ".join(paragraph.split())):
            words = tuple(sentence[:-1].split(" "))
            if (
                sentence.endswith(".")
                and words[0][:1].isupper()
                and all(WORD.fullmatch(word) for word in words)
                and LAST_WORD.fullmatch(words[-1])
            ):
                yield words


def _fewshot_documents(domain: Domain, seed: int) -> set[str]:
    """A keyed share of the domain's documents; none where there is only one."""
    documents = sorted({sentence.document for sentence in domain.sentences})
    documents.sort(key=lambda document: key(seed, f"items/fewshot/{document}"))
    share = max(1, len(documents) // FEWSHOT_SHARE) if len(documents) > 1 else 0
    return set(documents[:share])


def _items(
    split: str, task: HeldoutTask, domains: dict[str, Domain], sentences: list[list[Sentence]], limit: int
) -> list[Item]:
    """Items from the domains in turn, until `limit`; answers fill every place equally often."""
    items: list[Item] = []
    for sentence in (sentence for turn in zip_longest(*sentences) for sentence in turn if sentence is not None):
        if len(items) == limit:
            break
        number = len(items)
        random = generator(task.seed, f"items/{task.kind}/{sentence.text}")
        make = last_word_choices if task.kind == "last_word" else word_order_choices
        context, right, wrong = make(sentence, domains[sentence.domain], task.choices, random)
        if len(wrong) < task.choices - 1:
            continue
        block, place = divmod(number, task.choices)
        answer = int(generator(task.seed, f"items/places/{split}", block).permutation(task.choices)[place])
        choices = [*wrong[:answer], right, *wrong[answer:]]
        origin = {"domain": sentence.domain, "document": sentence.document}
        items.append({"id": number, **origin, "context": context, "choices": choices, "answer": answer})
    return items


def last_word_choices(
    sentence: Sentence, domain: Domain, choices: int, random: np.random.Generator
) -> tuple[str, str, list[str]]:
    """(context, real last word, others): the others end other sentences, in the nearest frequency classes."""
    real = sentence.words[-1]
    others = [word for word in domain.last_words if word != real]
    shuffled = [others[position] for position in random.permutation(len(others))]
    own = domain.frequency_class(real)
    shuffled.sort(key=lambda word: abs(domain.frequency_class(word) - own))
    wrong = [f"{word}." for word in shuffled[: choices - 1]]
    return " ".join(sentence.words[:-1]), f"{real}.", wrong


def word_order_choices(
    sentence: Sentence, domain: Domain, choices: int, random: np.random.Generator
) -> tuple[str, str, list[str]]:
    """(first word, the rest as written, other orders of it), all different; the full stop stays last."""
    rest = sentence.words[1:]
    orders = {rest: None}
    # A sentence of few or repeated words may not have enough different orders; 50 draws find them if it has.
    for _ in range(50):
        if len(orders) == choices:
            break
        orders.setdefault(tuple(rest[position] for position in random.permutation(len(rest))), None)
    right, *wrong = (f"{' '.join(order)}." for order in orders)
    return sentence.words[0], right, wrong


def _write_lines(path: Path, items: list[Item]) -> None:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
