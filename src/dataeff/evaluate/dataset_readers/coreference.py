"""Winograd schemas: what a blank or a pronoun stands for, out of two candidates that a twin sentence shares."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import NamedTuple

from dataeff.evaluate.dataset_readers.base import Row, examples, in_random_order, split_by_key

TWIN_LIKENESS = 0.6
"""Of the words of two sentences; the twins of one schema differ in a word or two."""
_PAIR = re.compile(r"^Sentence 1: (.*?)\s*Answer1: (.*?)\s*Sentence 2: (.*?)\s*Answer2: (.*?)\s*$", re.S)
_REASON = re.compile(r"^(.*?)\s*The '(.*?)' refers to (.*?) because ", re.S)
_WORD = re.compile(r"[^\W\d_]+")
_POSSESSIVE = ("my", "his", "her", "our", "their")
_SMALL = frozenset(("a", "an", "the", "my", "his", "her", "our", "their", "of", "in", "on", "and"))


def read_winogrande(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`sentence` with a blank `_`, `option1`, `option2`, `answer` ("1" or "2"), as the published table has them, and
    `choices` and `label`, the same again; twins share the order of their options, and a split.
    """
    rows = {}
    for example in examples(files):
        for target in example["target"]:
            match = _PAIR.match(target)
            if match is None:
                raise ValueError(f"a pair of another form: {target!r:.200}")
            first, one, second, other = match.groups()
            answers = [one.rstrip(". "), other.rstrip(". ")]
            if answers[0] == answers[1]:
                continue
            options = in_random_order(answers, f"winogrande:{target}")
            for sentence, answer in zip((first, second), answers, strict=True):
                label = options.index(answer)
                rows[sentence] = {
                    "sentence": sentence,
                    "option1": options[0],
                    "option2": options[1],
                    "answer": str(label + 1),
                    "choices": options,
                    "label": label,
                    "pair": first,
                }
    return _without(split_by_key(rows.values(), "winogrande", lambda row: str(row["pair"])), "pair")


class _Reading(NamedTuple):
    """What a pronoun of a sentence was said to refer to."""

    sentence: str
    pronoun: str
    referent: str


def read_wsc(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`text`, `pronoun`, `pronoun_loc` (in characters), `options` (two) and `label`; twins share a split.

    WinoWhy asks why a pronoun refers to what it refers to, and its reasons name the right referent alone: the wrong
    one is the right one of the twin. Sentences without a twin, and those in which the pronoun occurs more than once
    (the package does not say which one is meant), are left out. Referents come in lower case; a word gets the
    capital that it has in the sentence.
    """
    readings = list(dict.fromkeys(_reading(example["input"]) for example in examples(files)))
    rows = []
    position = 0
    while position + 1 < len(readings):
        twins = readings[position], readings[position + 1]
        if _are_twins(*twins):
            options = in_random_order([twin.referent for twin in twins], f"wsc:{twins[0].sentence}")
            rows += [row for twin in twins for row in _schema(twin, options, twins[0].sentence)]
            position += 2
        else:
            position += 1
    return _without(split_by_key(rows, "wsc", lambda row: str(row["pair"]), validation=0.9), "pair")


def _reading(text: str) -> _Reading:
    match = _REASON.match(text)
    if match is None:
        raise ValueError(f"a reason of another form: {text!r:.200}")
    return _Reading(" ".join(match[1].split()), match[2], match[3])


def _are_twins(one: _Reading, other: _Reading) -> bool:
    likeness = SequenceMatcher(None, one.sentence.split(), other.sentence.split()).ratio()
    same = one.pronoun == other.pronoun and one.sentence != other.sentence
    return same and one.referent != other.referent and likeness > TWIN_LIKENESS


def _schema(reading: _Reading, options: list[str], pair: str) -> list[Row]:
    places = [match.start() for match in re.finditer(rf"\b{re.escape(reading.pronoun)}\b", reading.sentence)]
    if len(places) != 1:
        return []
    filled = [_in_place(option, reading) for option in options]
    label = options.index(reading.referent)
    return [
        {
            "text": reading.sentence,
            "pronoun": reading.pronoun,
            "pronoun_loc": places[0],
            "options": filled,
            "label": label,
            "pair": pair,
        }
    ]


def _in_place(option: str, reading: _Reading) -> str:
    """The referent as it would stand in place of the pronoun: with its capitals, possessive, at a sentence's start."""
    found = _WORD.findall(reading.sentence)
    capitals = {word.lower(): word for word in found if word[0].isupper() and word.lower() not in found}
    text = _WORD.sub(lambda word: word[0] if word[0] in _SMALL else capitals.get(word[0], word[0]), option)
    if reading.pronoun.lower() in _POSSESSIVE:
        text += "'s"
    return text[0].upper() + text[1:] if reading.pronoun[0].isupper() else text


def _without(splits: dict[str, list[Row]], column: str) -> dict[str, list[Row]]:
    return {split: [{k: v for k, v in row.items() if k != column} for row in rows] for split, rows in splits.items()}
