"""Questions with texts to choose from: `choices` is a list of texts, `label` the position of the right one."""

from __future__ import annotations

import json
import re
from typing import Any

from dataeff.evaluate.dataset_readers.base import Row, examples, in_random_order, split_by_key

COSMOSQA_WRONG = 2
QASC_WRONG = 3
_MARKED = re.compile(r"^(?:Context|Fact): (.*?)\s*\nQuestion: (.*?)\s*\nCorrect Answer: (.*)$", re.S)
_LAST_QUESTION = re.compile(r"^(.*[.!?\"'])\s+([^.!?]*\?)$", re.S)
_LOGIQA = re.compile(
    r"^\s*Passage: (.*?)\s*Question: (.*?)\s*\nA\. (.*?)\nB\. (.*?)\nC\. (.*?)\nD\. (.*?)\nAnswer:\s*$", re.S
)
_LETTER = re.compile(r"^[A-D]\.\s*")
_QUARTZ = re.compile(r"^(.*?)\s*\n\n A: (.*?)\n B: (.*?)$", re.S)


def read_cosmosqa(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`context`, `question`, three `choices`, `label`; split by context.

    The package leaves "none of the above" out of the wrong answers, so items where it is right would be given away.
    """
    rows = [row for row in _marked(files, "cosmosqa", "context", COSMOSQA_WRONG) if not _is_none(row)]
    return split_by_key(rows, "cosmosqa", lambda row: str(row["context"]), validation=0.25)


def read_qasc(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`fact`, `question`, four `choices`, `label`; split by fact."""
    rows = _marked(files, "qasc", "fact", QASC_WRONG)
    return split_by_key(rows, "qasc", lambda row: str(row["fact"]), validation=0.25)


def read_social_iqa(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`context`, `question`, three `choices`, `label`; split by context. Items with fewer choices are left out."""
    rows = []
    for example in examples(files):
        scores = example["target_scores"]
        context, question = _groups(_LAST_QUESTION, example["input"].strip())
        if len(scores) == 3:
            rows.append(
                {
                    "context": context,
                    "question": question,
                    "choices": list(scores),
                    "label": list(scores.values()).index(1),
                }
            )
    return split_by_key(rows, "social_iqa", lambda row: str(row["context"]), validation=0.5)


def read_logiqa(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`context`, `question`, four `choices`, `label`, each item once (the package has it twice); split by context."""
    rows = {}
    for line in _lines(files):
        context, question, *choices = _groups(_LOGIQA, line["input"][-1]["content"])
        texts = [_LETTER.sub("", choice.strip()) for choice in choices]
        row = {"context": context, "question": question, "choices": texts, "label": "ABCD".index(line["ideal"])}
        rows[context, question] = row
    return split_by_key(rows.values(), "logiqa", lambda row: str(row["context"]), validation=0.5)


def read_quartz(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`question`, two `choices`, `label`; split by question. Each question once."""
    rows = {}
    for line in _lines(files):
        question, *choices = _groups(_QUARTZ, line["input"][-1]["content"])
        label = "AB".index(line["ideal"])
        rows[question] = {"question": question, "choices": [choice.strip() for choice in choices], "label": label}
    return split_by_key(rows.values(), "quartz", lambda row: str(row["question"]), validation=0.5)


def _marked(files: dict[str, bytes], purpose: str, context: str, wrong: int) -> list[Row]:
    """Items that name the right answer in the input and wrong ones as targets: as many of these as all items have."""
    rows = []
    for example in examples(files):
        text, question, answer = (part.strip() for part in _groups(_MARKED, example["input"]))
        unlike = [target for target in dict.fromkeys(map(str.strip, example["target"])) if target != answer]
        if len(unlike) >= wrong:
            choices = in_random_order([answer, *unlike[:wrong]], f"{purpose}:{example['input']}")
            rows.append({context: text, "question": question, "choices": choices, "label": choices.index(answer)})
    return rows


def _is_none(row: Row) -> bool:
    return "none of the above" in str(row["choices"][row["label"]]).lower()


def _groups(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.match(text)
    if match is None:
        raise ValueError(f"an item of another form: {text!r:.200}")
    return match.groups()


def _lines(files: dict[str, bytes]) -> list[dict[str, Any]]:
    [content] = files.values()
    return [json.loads(line) for line in content.decode("utf-8").split("\n") if line.strip()]
