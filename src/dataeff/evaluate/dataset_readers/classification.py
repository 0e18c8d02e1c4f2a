"""Sentences and pairs of sentences with a class: film reviews, claims with their evidence, yes-or-no questions."""

from __future__ import annotations

import csv
import io

from dataeff.evaluate.dataset_readers.base import Row, examples, right_choice, split_by_key

VITAMINC_LABELS = {"True": 0, "Neither": 1, "False": 2}
"""In the order of MNLI's classes: entailment, neutral, contradiction."""
DAMAGED = "\N{REPLACEMENT CHARACTER}"


def read_rotten_tomatoes(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`sentence`, `label` (1: positive): the snippets of a table of reviews whose source is Rotten Tomatoes."""
    [content] = files.values()
    table = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""))
    found = {row["text"].strip(): int(row["label"]) for row in table if row["source"] == "rotten_tomatoes"}
    rows = [{"sentence": text, "label": label} for text, label in found.items()]
    return split_by_key(rows, "rotten_tomatoes", lambda row: str(row["sentence"]))


def read_vitaminc(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`premise` (page title and evidence), `hypothesis` (claim), `label`; no page has items in both splits.

    Evidence with characters that were lost when the package was made is left out.
    """
    rows = []
    for example in examples(files):
        premise, hypothesis = example["input"].split("\nClaim: ")
        label = VITAMINC_LABELS[right_choice(example["target_scores"])]
        if DAMAGED not in example["input"]:
            rows.append({"premise": premise.strip(), "hypothesis": hypothesis.strip(), "label": label})
    return split_by_key(rows, "vitaminc", lambda row: str(row["premise"]).split(": ")[0], validation=0.1)


def read_strategyqa(files: dict[str, bytes]) -> dict[str, list[Row]]:
    """`question`, `label` (1: yes)."""
    labels = {"No": 0, "Yes": 1}
    rows = [
        {"question": example["input"].strip(), "label": labels[right_choice(example["target_scores"])]}
        for example in examples(files)
    ]
    return split_by_key(rows, "strategyqa", lambda row: str(row["question"]), validation=0.5)
