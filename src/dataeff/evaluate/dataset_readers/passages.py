"""Questions on passages: MultiRC with its judged answers, SQuAD, and QNLI made from SQuAD by GLUE's recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from dataeff.evaluate.dataset_readers.base import Row, examples, split_by_key

_MULTIRC = re.compile(r"^Paragraph-\s*(.*?)\s*\nQuestion: (.*)$", re.S)
_SENTENCE_MARK = re.compile(r"\s*Sent \d+: ")
_WORD = re.compile(r"\w+")


def read_multirc(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`paragraph`, `question`, `answer`, `idx` {paragraph, question, answer}, `label` (1: right): a row per answer.

    As the published table has them, less the numbers of sentences; answers of a question stand together, and no
    paragraph is in both splits.
    """
    rows: list[Row] = []
    paragraphs: dict[str, int] = {}
    for number, example in enumerate(examples(files)):
        match = _MULTIRC.match(example["input"])
        if match is None:
            raise ValueError(f"a question of another form: {example['input']!r:.200}")
        paragraph = _SENTENCE_MARK.sub(" ", match[1]).strip()
        question, answers = _lettered(match[2])
        right = {"ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) for letter in re.findall(r"[A-Z]", example["target"][0])}
        for position, answer in enumerate(answers):
            idx = {
                "paragraph": paragraphs.setdefault(paragraph, len(paragraphs)),
                "question": number,
                "answer": position,
            }
            rows.append(
                {
                    "paragraph": paragraph,
                    "question": question,
                    "answer": answer,
                    "idx": idx,
                    "label": int(position in right),
                }
            )
    return split_by_key(
        rows,
        "multirc",
        lambda row: str(row["paragraph"]),
        validation=0.5,
        together=lambda row: str(row["idx"]["question"]),
    )


def _lettered(text: str) -> tuple[str, list[str]]:
    """'What? (A) This (B) That.' -> the question and its answers; a bracketed letter out of turn is text."""
    places = []
    begin = 0
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        mark = text.find(f" ({letter}) ", begin)
        if mark < 0:
            break
        places.append(mark)
        begin = mark + 1
    ends = [*places[1:], len(text)]
    answers = [text[place + 5 : end].strip() for place, end in zip(places, ends, strict=True)]
    if not answers:
        raise ValueError(f"a question without answers: {text!r:.200}")
    answers[-1] = answers[-1].removesuffix(".")
    return text[: places[0]].strip(), answers


# --- SQuAD --------------------------------------------------------------------------------------------------


def read_squad(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`title`, `context`, `question`, `answers` (each text once), as in SQuAD 1.1; split by article."""
    rows = [
        {
            "title": title,
            "context": context,
            "question": question["question"].strip(),
            "answers": list(dict.fromkeys(answer["text"] for answer in question["answers"])),
        }
        for title, context, questions in _paragraphs(files)
        for question in questions
    ]
    return split_by_key(rows, "squad", lambda row: str(row["title"]), validation=0.5)


def read_qnli_from_squad(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`question`, `sentence`, `label` (0: entailment, the sentence holds the answer; 1: not); split by article.

    Of every question's paragraph, the sentence that holds its first answer, and of those that hold none of its answers
    the one with the most of the question's words: two rows a question, so that classes are balanced and the words in
    common do not give the class away. Questions of paragraphs without such a second sentence are left out.
    """
    rows = [
        row
        for title, context, questions in _paragraphs(files)
        for spans in [_sentence_spans(context)]
        for question in questions
        for row in _pairs(title, context, spans, question)
    ]
    splits = split_by_key(rows, "qnli_from_squad", lambda row: str(row["title"]))
    return {split: [{k: v for k, v in row.items() if k != "title"} for row in kept] for split, kept in splits.items()}


def _paragraphs(files: dict[str, bytes]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    [content] = files.values()
    for article in json.loads(content)["data"]:
        for paragraph in article["paragraphs"]:
            yield article["title"], paragraph["context"], paragraph["qas"]


def _sentence_spans(context: str) -> list[tuple[int, str]]:
    """Each sentence with the character that it begins at."""
    from dataeff.tokens.sentences import split_sentences

    spans, begin = [], 0
    for sentence in split_sentences(context):
        begin = context.index(sentence, begin)
        spans.append((begin, sentence))
        begin += len(sentence)
    return spans


def _pairs(title: str, context: str, spans: list[tuple[int, str]], question: dict[str, Any]) -> list[Row]:
    start = question["answers"][0]["answer_start"]
    holder = max(index for index, (begin, _) in enumerate(spans) if begin <= start)
    answers = [answer["text"] for answer in question["answers"]]
    others = [sentence for _, sentence in spans if not any(answer in sentence for answer in answers)]
    if not others or answers[0] not in spans[holder][1]:
        return []
    asked = set(_WORD.findall(question["question"].lower()))
    nearest = max(others, key=lambda sentence: len(asked.intersection(_WORD.findall(sentence.lower()))))
    text = question["question"].strip()
    return [
        {"question": text, "sentence": sentence.strip(), "label": label, "title": title}
        for label, sentence in enumerate((spans[holder][1], nearest))
    ]
