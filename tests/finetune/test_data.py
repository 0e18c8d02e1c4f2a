from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from dataeff.errors import DataeffError
from dataeff.finetune.data import Items, cut_to, keyed_part, read_items, tokenise, with_choice
from dataeff.study.tasks import FinetuneTask
from dataeff.tokens.vocabulary import Tokenizer
from tests.families.pieces import CLS, PAD, SEP, TOKENS, framed, write_tokenizer
from tests.finetune.conftest import opened, task_of

PAIR = {"first": "wa0 wb0", "second": "wc0", "label": 1}
PAIR_TASK = task_of(inputs=["first", "second"])
CHOICE_TASK = task_of(inputs=["text"], head="choice", choices="options", labels=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("pieces"))


def ids(text: str) -> list[int]:
    return [TOKENS.index(word) for word in text.split()]


def rows_of(items: Items) -> list[list[int]]:
    return items.batch(np.arange(len(items)), PAD)["tokens"].tolist()


def read(folder: Path, tokenizer: Tokenizer, rows: list[dict[str, Any]], task: FinetuneTask, **limits: Any) -> Items:
    dataset = opened(folder, {"validation": rows})
    return read_items(task, dataset, "validation", limits.get("limit"), tokenizer, limits.get("max_length", 32))


def test_pairs_are_framed_typed_and_padded(tmp_path: Path, tokenizer: Tokenizer) -> None:
    other = {"first": "we0", "second": "wf0 wg0 wh0 wi0 wj0", "label": 0}
    items = read(tmp_path, tokenizer, [PAIR, other], PAIR_TASK)
    batch = items.batch(np.array([1, 0]), PAD)
    assert batch["tokens"].tolist() == [
        framed(ids("we0"), ids("wf0 wg0 wh0 wi0 wj0"), width=16),
        framed(ids("wa0 wb0"), ids("wc0"), width=16),
    ]
    assert batch["types"].tolist() == [[0] * 3 + [1] * 6 + [0] * 7, [0] * 4 + [1] * 2 + [0] * 10]
    assert batch["lengths"].tolist() == [9, 6]
    assert items.labels.tolist() == [1, 0]
    assert items.labels.dtype == np.int64
    assert items.cut == 0
    # Alone, the shorter one needs 8 positions.
    assert items.batch(np.array([0]), PAD)["tokens"].shape == (1, 8)


def test_one_segment_has_no_second_type(tmp_path: Path, tokenizer: Tokenizer) -> None:
    items = read(tmp_path, tokenizer, [{"sentence": "wa0 wb0", "label": 0}], task_of())
    assert rows_of(items) == [framed(ids("wa0 wb0"), width=8)]
    assert not items.batch(np.array([0]), PAD)["types"].any()


def test_choices_stand_in_a_row(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [
        {"text": "wa0", "options": ["wb0", "wc0 wd0"], "label": 1},
        {"text": "we0", "options": ["wf0", "wg0"], "label": 0},
    ]
    items = read(tmp_path, tokenizer, rows, CHOICE_TASK)
    texts = [("wa0", "wb0"), ("wa0", "wc0 wd0"), ("we0", "wf0"), ("we0", "wg0")]
    assert rows_of(items) == [framed(ids(text), ids(choice), width=8) for text, choice in texts]
    assert items.batch(np.array([1]), PAD)["tokens"].tolist() == rows_of(items)[2:]
    assert items.lengths.tolist() == [6, 5]


def test_where_a_choice_goes() -> None:
    assert with_choice(("why?",), "so", 0) == ("why?", "so")
    assert with_choice(("passage", "why?"), "so", 1) == ("passage", "why? so")
    assert with_choice(("why?", "passage"), "so", 0) == ("why? so", "passage")
    assert with_choice(("the _ is too big",), "box", 0) == ("the box is too big",)
    assert with_choice(("a _ passage", "it is ____ ."), r"a\1b", 1) == ("a _ passage", r"it is a\1b .")
    assert with_choice(("it is _ .", "a _ passage"), "so", 0) == ("it is so .", "a _ passage")
    assert with_choice(("call my_name",), "x", 0) == ("call my_name", "x")


def test_a_question_before_its_passage_is_the_first_segment_with_its_choice(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """As Megatron-LM frames RACE: what is too long is cut at the passage's end."""
    task = task_of(head="choice", inputs=["asked", "passage"], choice_in="asked", choices="options")
    rows = [{"asked": "wa0 _", "passage": "wb0 " * 40, "options": ["wc0", "wd0 we0"], "label": 1}]
    items = read(tmp_path, tokenizer, rows, task, max_length=16)
    texts = [("wa0 wc0", 16 - 3 - 2), ("wa0 wd0 we0", 16 - 3 - 3)]
    assert rows_of(items) == [framed(ids(text), ids("wb0 " * kept), width=16) for text, kept in texts]
    assert items.cut == 1


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
def test_the_longer_segment_is_cut_first(first: int, second: int, limit: int) -> None:
    kept = cut_to([first, second], limit)
    assert sum(kept) == min(first + second, limit)
    assert kept[0] <= first
    assert kept[1] <= second
    for here, there, whole in ((0, 1, first), (1, 0, second)):
        if kept[here] < whole:
            assert kept[here] >= kept[there] - 1


@given(st.integers(1, 14), st.integers(1, 14), st.integers(4, 24))
def test_it_cuts_as_the_tokenizers_library_does(first: int, second: int, limit: int) -> None:
    texts = ["w" + chr(97 + index) + "0" for index in range(26)]
    one, two = " ".join(texts[:first]), " ".join(reversed(texts[:second]))
    backend = LIBRARY.backend
    backend.enable_truncation(limit, strategy="longest_first")
    expected = backend.encode(one, two)
    items = tokenise([[(one, two)]], np.array([0]), np.array([0]), OURS, limit)
    batch = items.batch(np.array([0]), PAD)
    length = int(batch["lengths"][0])
    assert batch["tokens"][0, :length].tolist() == expected.ids
    assert batch["types"][0, :length].tolist() == expected.type_ids
    assert items.cut == (first + second + 3 > limit)


def _two_tokenizers() -> tuple[Tokenizer, Tokenizer]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        library, ours = write_tokenizer(Path(folder)), write_tokenizer(Path(folder))
    frame = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
    library.backend.post_processor = processors.TemplateProcessing(
        **frame, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return library, ours


LIBRARY, OURS = _two_tokenizers()


def test_a_limit_takes_keyed_items_in_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = [{"sentence": "wa0", "label": number % 2} for number in range(50)]
    items = read(tmp_path, tokenizer, rows, task_of(), limit=20)
    assert len(items) == 20
    assert items.rows.tolist() == sorted(set(items.rows.tolist()))
    assert items.rows.tolist() != list(range(20))
    assert items.labels.tolist() == [row % 2 for row in items.rows.tolist()]
    assert keyed_part(50, None, "x").tolist() == list(range(50))


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        ({"sentence": "wa0"}, task_of(), "it has no field 'label', only sentence"),
        ({"text": "wa0", "label": 0}, task_of(), "it has no field 'sentence', only text, label"),
        ({"sentence": 3, "label": 0}, task_of(), "field 'sentence' is 3; a text is needed"),
        ({"sentence": "wa0", "label": 2}, task_of(), "label 'label' is 2; a number from 0 to 1 is needed"),
        ({"sentence": "wa0", "label": -1}, task_of(), "is -1; .* name a split that has labels"),
        ({"sentence": "wa0", "label": 0.5}, task_of(), "is 0.5; a whole number is needed"),
        ({"sentence": "wa0", "label": "yes"}, task_of(), "is 'yes'; a whole number is needed, or `label_names`"),
        ({"sentence": "wa0", "label": None}, task_of(), "is None; a whole number is needed"),
        ({"sentence": "wa0", "label": "yes"}, task_of(label_names=["no", "si"]), "is 'yes'; one of no, si is needed"),
        (
            {"sentence": "wa0", "label": "nan"},
            task_of(head="regression", labels=1, metric="spearman"),
            "is 'nan'; a number is needed",
        ),
        ({"text": "wa0", "options": ["a"], "label": 0}, CHOICE_TASK, r"is \['a'\]; a list of 2 texts is needed"),
    ],
)
def test_a_row_that_does_not_fit_is_named(
    tmp_path: Path, tokenizer: Tokenizer, row: dict[str, Any], task: FinetuneTask, message: str
) -> None:
    good = {"sentence": "wa0", "text": "wa0", "options": ["a", "b"], "label": 0}
    if task.label_names:
        good["label"] = "no"
    with pytest.raises(DataeffError, match=r"dataset 'marked', split 'validation', row 2: .*" + message):
        read(tmp_path, tokenizer, [good, row], task)


@pytest.mark.parametrize(("label", "number"), [("1", 1), (1, 1), (True, 1), ("no", 0)])
def test_labels_may_be_texts(tmp_path: Path, tokenizer: Tokenizer, label: Any, number: int) -> None:
    task = task_of(label_names=["no", "yes"]) if label == "no" else task_of()
    items = read(tmp_path, tokenizer, [{"sentence": "wa0", "label": label}], task)
    assert items.labels.tolist() == [number]


def test_a_split_that_is_not_there_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    dataset = opened(tmp_path, {"validation": [PAIR]})
    with pytest.raises(DataeffError, match="unknown split 'valdation'; did you mean 'validation'"):
        read_items(PAIR_TASK, dataset, "valdation", None, tokenizer, 32)
