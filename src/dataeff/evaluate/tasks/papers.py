"""Scoring as the papers' harness (lm-eval 0.2.0) did it, for the three tasks that are scored otherwise today.

An open question counts as answered if one of the accepted answers is what the model would write greedily. Of a MultiRC
question all answers must be judged rightly; a question with its answers is one item here, so that the score is a plain
mean over items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Doc = dict[str, Any]
Response = tuple[float, bool]
"""Log-likelihood of a continuation, and whether it is the greedy one."""


def shortest_answers(answers: Iterable[str]) -> list[str]:
    """The answers that no other one begins: if a longer one is greedy, its beginning is greedy too."""
    kept: list[str] = []
    for answer in sorted(answers):
        if not kept or not answer.startswith(kept[-1]):
            kept.append(answer)
    return kept


def any_greedy(doc: Doc, results: list[Response]) -> dict[str, float]:
    """1 if any accepted answer is the greedy continuation."""
    return {"acc": float(any(greedy for _, greedy in results))}


def triviaqa_choices(doc: Doc) -> list[str]:
    return shortest_answers(doc["answer"]["aliases"])


def triviaqa_target(doc: Doc) -> str:
    return str(doc["answer"]["value"])


def answers_choices(doc: Doc) -> list[str]:
    return shortest_answers(doc["answers"])


def first_answer(doc: Doc) -> str:
    """What stands behind a question that is an example: the first of its answers, as listed."""
    return str(doc["answers"][0])


# --- MultiRC ------------------------------------------------------------------------------------------------


def judgements(answer: str) -> list[str]:
    """What is compared for one answer; the position is the label (1: right)."""
    return [f"{answer}\nIs the answer correct? {word}" for word in ("no", "yes")]


def one_answer_choices(doc: Doc) -> list[str]:
    return judgements(doc["answer"])


def multirc_questions(dataset: Any) -> Any:
    """The rows (one an answer) as one item a question, in the order of the questions' first rows."""
    from datasets import Dataset

    found: dict[tuple[int, int], Doc] = {}
    for row in dataset:
        place = row["idx"]["paragraph"], row["idx"]["question"]
        item = found.setdefault(
            place, {"paragraph": row["paragraph"], "question": row["question"], "answers": [], "labels": []}
        )
        item["answers"].append(row["answer"])
        item["labels"].append(int(row["label"]))
    return Dataset.from_list(list(found.values()))


def multirc_examples(dataset: Any) -> Any:
    """Examples for few shots: a row each, as an item with that one answer."""
    return dataset.map(
        lambda row: {"answers": [row["answer"]], "labels": [int(row["label"])]},
        remove_columns=["answer", "label", "idx"],
    )


def multirc_choices(doc: Doc) -> list[str]:
    """(no, yes) of the first answer, (no, yes) of the second one, and so on."""
    return [text for answer in doc["answers"] for text in judgements(answer)]


def multirc_target(doc: Doc) -> str:
    return judgements(doc["answers"][0])[int(doc["labels"][0])]


def all_right(doc: Doc, results: list[Response]) -> dict[str, float]:
    """1 if yes is likelier than no for every right answer of the question, and for no wrong one."""
    likelihoods = [likelihood for likelihood, _ in results]
    judged = [yes > no for no, yes in zip(likelihoods[::2], likelihoods[1::2], strict=True)]
    return {"acc": float(judged == [label == 1 for label in doc["labels"]])}
