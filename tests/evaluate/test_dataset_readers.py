"""Readers of package files: the rows they make, what they leave out, and that no passage stands in two splits."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.evaluate.dataset_readers import READERS, Row, find_reader
from dataeff.evaluate.dataset_readers.base import in_random_order, split_by_key
from tests.evaluate import package_files

PASSAGE: dict[str, Callable[[Row], object]] = {
    "cosmosqa": lambda row: row["context"],
    "logiqa": lambda row: row["context"],
    "multirc": lambda row: row["paragraph"],
    "qasc": lambda row: row["fact"],
    "qnli_from_squad": lambda row: row["sentence"].split(".")[0] if "Town" in row["sentence"] else None,
    "quartz": lambda row: row["question"],
    "rotten_tomatoes": lambda row: row["sentence"],
    "social_iqa": lambda row: row["context"],
    "squad": lambda row: row["title"],
    "strategyqa": lambda row: row["question"],
    "vitaminc": lambda row: row["premise"].split(":")[0],
    "winogrande": lambda row: row["sentence"].split(" did")[0],
    "wsc": lambda row: row["text"].split(" made")[0],
}


def rows_of(reader: str) -> list[Row]:
    return [row for rows in READERS[reader](package_files.FILES[reader]()).values() for row in rows]


def test_every_reader_is_tried() -> None:
    assert set(PASSAGE) == set(package_files.FILES) == set(READERS)


@pytest.mark.parametrize("reader", sorted(READERS))
def test_splits_share_no_passage_and_come_out_the_same_again(reader: str) -> None:
    files = package_files.FILES[reader]()
    splits = READERS[reader](files)
    assert set(splits) == {"train", "validation"}
    assert all(splits.values())
    passages = [{PASSAGE[reader](row) for row in rows} - {None} for rows in splits.values()]
    assert not passages[0] & passages[1]
    assert READERS[reader](files) == splits
    assert json.loads(json.dumps(splits)) == splits


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"squad", "multirc"}))
def test_the_label_is_the_position_of_the_right_choice(reader: str) -> None:
    for row in rows_of(reader):
        choices = row.get("choices") or row.get("options")
        assert row["label"] in range(len(choices) if choices else 3)


def test_winogrande_has_the_published_columns_and_twins_with_one_order_of_options() -> None:
    rows = rows_of("winogrande")
    assert len(rows) == 80
    twins: dict[str, list[Row]] = {}
    for row in rows:
        assert (
            row["choices"][row["label"]]
            == row[f"option{row['answer']}"]
            == ("ball" if "big" in row["sentence"] else "box")
        )
        twins.setdefault(row["sentence"].split(" did")[0], []).append(row)
    assert {len({tuple(row["choices"]) for row in pair}) for pair in twins.values()} == {1}
    assert {row["option1"] for row in rows} == {"ball", "box"}


def test_wsc_takes_the_wrong_referent_from_the_twin_and_gives_names_their_capitals() -> None:
    rows = rows_of("wsc")
    assert len(rows) == 80
    row = next(row for row in rows if row["text"].startswith("Annaab") and "given" in row["text"])
    assert row["options"][row["label"]] == "Susan"
    assert sorted(row["options"]) == ["Annaab", "Susan"]
    assert row["text"][row["pronoun_loc"] :] == "she had given."


def test_multirc_keeps_the_answers_of_a_question_together_and_reads_its_letters() -> None:
    splits = READERS["multirc"](package_files.multirc())
    for rows in splits.values():
        questions = [row["idx"]["question"] for row in rows]
        assert [row["idx"]["answer"] for row in rows] == [0, 1, 2] * (len(rows) // 3)
        assert len(dict.fromkeys(questions)) == len(rows) // 3
        assert [row["label"] for row in rows[:3]] == [1, 0, 1]
        assert [row["answer"] for row in rows[:3]] == ["It is long", "It is short", "It flows north"]
        assert rows[0]["paragraph"].endswith("is long. It flows north (B) always.")
        assert rows[0]["question"].startswith("What is said of it, ")


def test_cosmosqa_leaves_out_what_only_the_wording_gives_away() -> None:
    rows = rows_of("cosmosqa")
    assert len(rows) == 39
    assert {len(row["choices"]) for row in rows} == {3}
    assert {row["choices"][row["label"]] for row in rows} == {"The rain kept us ."}
    assert {row["label"] for row in rows} == {0, 1, 2}


def test_qasc_and_social_iqa() -> None:
    assert {row["choices"][row["label"]] for row in rows_of("qasc")} == {"a producer."}
    rows = rows_of("social_iqa")
    assert len(rows) == 39
    assert rows[0]["question"] == "How would Bob feel?"
    assert rows[0]["context"].endswith("apples. Bob ate them.")


def test_vitaminc_leaves_out_lost_characters_and_has_mnlis_order_of_classes() -> None:
    rows = rows_of("vitaminc")
    assert len(rows) == 119
    for row in rows:
        assert row["label"] == [0, 2, 1][int(row["premise"].split()[4]) % 3]


def test_logiqa_has_each_question_once_and_no_letters() -> None:
    rows = rows_of("logiqa")
    assert len(rows) == 40
    assert rows[0]["choices"][1:] == ["No cat sleeps.", "Dogs sleep.", "Nothing."]


def test_rotten_tomatoes_alone() -> None:
    rows = rows_of("rotten_tomatoes")
    assert len(rows) == 40
    assert all(row["sentence"].startswith("film") for row in rows)


def test_squad_has_each_answer_once() -> None:
    rows = [row for row in rows_of("squad") if "Town" in row["context"]]
    assert rows[0]["answers"] == ["Kerman", "in Kerman"]


def test_qnli_pairs_each_question_with_the_sentence_that_holds_the_answer_and_the_nearest_other_one() -> None:
    rows = rows_of("qnli_from_squad")
    assert len(rows) == 80
    for row in rows:
        assert row["question"] == "Where does the town lie?"
        assert ("Kerman" in row["sentence"]) == (row["label"] == 0)
        assert row["label"] == 0 or row["sentence"] == "Its mayor of the town is Mrs. Gray since 1990."


def test_an_item_of_another_form_is_shown() -> None:
    files = {"task.json": json.dumps({"examples": [{"input": "no question here", "target": ["x"]}]}).encode()}
    with pytest.raises(ValueError, match="no question here"):
        READERS["qasc"](files)


def test_an_unknown_reader_is_named_with_its_neighbour() -> None:
    with pytest.raises(DataeffError, match=r"datasets\.x: unknown reader 'winogrand'; did you mean 'winogrande'"):
        find_reader("winogrand", "datasets.x")


@given(st.lists(st.tuples(st.integers(0, 9), st.text(max_size=5)), max_size=60), st.floats(0, 1))
def test_a_keyed_split_loses_nothing_and_parts_no_group(items: list[tuple[int, str]], validation: float) -> None:
    rows: list[Row] = [{"group": group, "text": text} for group, text in items]
    splits = split_by_key(rows, "any", lambda row: str(row["group"]), validation)
    kept = [row for part in splits.values() for row in part]
    assert sorted(kept, key=repr) == sorted(rows, key=repr)
    assert not {row["group"] for row in splits["train"]} & {row["group"] for row in splits["validation"]}


@given(st.lists(st.text(max_size=8), unique=True, min_size=1, max_size=6), st.text(max_size=5))
def test_the_order_of_choices_does_not_depend_on_which_is_right(texts: list[str], unit: str) -> None:
    assert in_random_order(texts, unit) == in_random_order(texts[::-1], unit)
    assert sorted(in_random_order(texts, unit)) == sorted(texts)
