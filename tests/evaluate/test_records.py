from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.evaluate.model import AskedModel, ask_model
from dataeff.evaluate.records import generated_tokens, read_records, records_of, write_records

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=6,
)


def sample(number: int = 0, **changes: Any) -> dict[str, Any]:
    """As lm-eval logs an item of two choices."""
    return {
        "doc_id": number,
        "doc_hash": f"{number:064x}",
        "prompt_hash": "0" * 64,
        "target": np.int64(1),
        "arguments": [("a question that is asked", " yes"), ("a question that is asked", " no")],
        "resps": [[(np.float64(-1.5), np.bool_(True))], [(-2.5, False)]],
        "acc": np.float64(0.0),
        **changes,
    }


@pytest.fixture(scope="module")
def asked(model: Path) -> AskedModel:
    return ask_model(model, 4)


@given(st.lists(st.dictionaries(st.text(min_size=1), VALUES, max_size=4), min_size=1, max_size=6))
def test_records_are_read_as_they_were_written(tmp_path_factory: pytest.TempPathFactory, parts: list[Any]) -> None:
    path = tmp_path_factory.mktemp("records") / "items.jsonl.zst"
    records = [
        {**part, "task": f"t{number % 2}", "item": str(number), "metrics": {}} for number, part in enumerate(parts)
    ]
    write_records(path, records)
    found = read_records(path)
    assert [record for task in ("t0", "t1") for record in found.get(task, [])] == [
        record for task in ("t0", "t1") for record in records if record["task"] == task
    ]


def test_a_record_is_plain_and_in_the_order_of_the_items(asked: AskedModel) -> None:
    first, second = records_of(asked, "t", [sample(1), sample(0)], ["acc", "acc_norm"])
    assert (first["doc_id"], second["doc_id"]) == (0, 1)
    assert first["metrics"] == {"acc": 0.0}  # what an item has no value of is left out
    assert first["responses"] == [[-1.5, True], [-2.5, False]]
    assert type(first["responses"][0][1]) is bool
    assert type(first["target"]) is int
    assert first["text"] == "a question that is asked"
    ids = asked.lm.tokenizer("a question that is asked yes")["input_ids"]
    assert first["prompt_tokens"] == max(len(ids), len(asked.lm.tokenizer("a question that is asked no")["input_ids"]))


def test_prompts_are_cut_where_the_harness_cuts_them(asked: AskedModel) -> None:
    """A choice's last token is not read; a generation needs its own room; a whole text is scored in windows."""

    def truncated(length: int, arguments: tuple[Any, ...], response: Any) -> bool:
        words = "the " * length
        made = sample(arguments=[(words, *arguments)], resps=[[response]])
        (record,) = records_of(asked, "t", [made], ["acc"])
        assert record["prompt_tokens"] >= length
        return bool(record["truncated"])

    per_word = len(asked.lm.tokenizer("the " * 100)["input_ids"]) / 100
    fits = int(150 / per_word)
    assert not truncated(fits, (" end",), (-1.0, False))
    assert truncated(2 * fits, (" end",), (-1.0, False))
    assert truncated(fits, ({"max_gen_toks": 128},), "text")
    assert not truncated(fits, ({"max_gen_toks": 16},), "text")
    assert not truncated(2 * fits, (), -5.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resps": [[(float("nan"), False)], [(-1.0, False)]]}, r"item 7 of 't' has log-likelihoods \[nan, -1\.0\]"),
        ({"resps": [[float("-inf")]], "arguments": [("text",)]}, r"item 7 of 't' has log-likelihoods \[-inf\]"),
        ({"acc": float("nan")}, "item 7 of 't' has acc nan; only finite numbers"),
        ({"acc": "right"}, "item 7 of 't' has acc 'right'; only finite numbers"),
    ],
)
def test_what_is_no_number_names_model_task_and_item(asked: AskedModel, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataeffError, match=said) as caught:
        records_of(asked, "t", [sample(7, **changes)], ["acc"])
    assert str(caught.value).startswith(str(asked.folder))


def test_a_text_without_a_limit_of_its_own_may_be_as_long_as_the_harness_s(asked: AskedModel) -> None:
    assert generated_tokens(asked, {"until": ["\n"]}) == 256
    assert generated_tokens(asked, {"max_gen_toks": 12}) == 12
