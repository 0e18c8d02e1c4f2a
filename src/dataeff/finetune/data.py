"""A finetuning task's items, tokenised once: the rows of a split -> flat token ids, and padded batches of them.

A sample is `[CLS] a [SEP]` or `[CLS] a [SEP] b [SEP]`; where it is longer than allowed, the longer segment gives way
first. An item of a choice has one sample a choice, in a row. Its choice completes one of two inputs (the last one, or
the task's `choice_in`): in the place of its blank (`_`), or else at its end. Of one input without a blank it is the
second segment.

Shapes: N samples of a batch, S positions (the longest sample, up to a multiple of 8).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.evaluate.datasets import FetchedDataset, read_split
from dataeff.study.tasks import FinetuneTask
from dataeff.tokens.vocabulary import Tokenizer

SEED = 1234
"""Of what all runs share: which items are taken of a large split, and which of them are selected by."""
LENGTH_MULTIPLE = 8
SPECIAL_TOKENS = {1: 2, 2: 3}
"""By the number of segments."""
_TEXTS_AT_ONCE = 4096
_BLANK = re.compile(r"(?<![^\W_])_+(?![^\W_])")

Sample = tuple[str, ...]
"""One or two segments."""


@dataclass(frozen=True)
class Items:
    """Tokenised items. Sample s has the tokens `starts[s]` to `starts[s + 1]`, the first `firsts[s]` of type 0."""

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    firsts: NDArray[np.int64]
    labels: NDArray[Any]
    choices: int
    rows: NDArray[np.int64]
    """Of each item its row in the split, from 0."""
    cut: int
    """Items that lost tokens to the allowed length."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Of each item its longest sample's tokens."""
        longest: NDArray[np.int64] = np.diff(self.starts).reshape(-1, self.choices).max(axis=1)
        return longest

    def batch(self, items: NDArray[np.int64], pad_id: int) -> dict[str, NDArray[np.int64]]:
        """`tokens` and `types` [N, S] and `lengths` [N] of these items' samples."""
        samples = (items[:, None] * self.choices + np.arange(self.choices)).ravel()
        starts, ends = self.starts[samples], self.starts[samples + 1]
        lengths = ends - starts
        width = padded(int(lengths.max()))
        real = np.arange(width) < lengths[:, None]
        tokens = np.full(real.shape, pad_id, dtype=np.int64)
        tokens[real] = np.concatenate(
            [self.tokens[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        )
        types = (real & (np.arange(width) >= self.firsts[samples][:, None])).astype(np.int64)
        return {"tokens": tokens, "types": types, "lengths": lengths}


def padded(length: int) -> int:
    """The width of samples of which the longest has this length."""
    return -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def read_items(
    task: FinetuneTask, dataset: FetchedDataset, split: str, limit: int | None, tokenizer: Tokenizer, max_length: int
) -> Items:
    """The items of a split, at most `limit` of them, keyed ones in the split's order."""
    rows = read_split(dataset, split)
    chosen = keyed_part(len(rows), limit, f"finetune items of {split}")
    samples, labels = [], []
    for number in chosen.tolist():
        place = Place(dataset.name, split, number + 1)
        samples.append(_samples(task, rows[number], place))
        labels.append(_label(task, rows[number], place))
    kind = np.float32 if task.head == "regression" else np.int64
    return tokenise(samples, np.array(labels, dtype=kind), chosen, tokenizer, max_length)


def keyed_part(count: int, limit: int | None, purpose: str) -> NDArray[np.int64]:
    """`limit` of the numbers below `count` (all of them without a limit), in rising order, the same in every run."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(keyed.permute(np.arange(limit), count, keyed.key(SEED, purpose)))


# --- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands; rows count from 1."""

    dataset: str
    split: str
    row: int

    def fault(self, text: str) -> DataeffError:
        return DataeffError(f"dataset '{self.dataset}', split '{self.split}', row {self.row}: {text}")


def _field(row: Mapping[str, Any], field: str, place: Place) -> Any:
    if field not in row:
        raise place.fault(
            f"it has no field '{field}', only {', '.join(row)}; name the fields of the task as the data do"
        )
    return row[field]


def _text(row: Mapping[str, Any], field: str, place: Place) -> str:
    value = _field(row, field, place)
    if not isinstance(value, str):
        raise place.fault(f"field '{field}' is {value!r}; a text is needed: name another field in the task's `inputs`")
    return value


def _samples(task: FinetuneTask, row: Mapping[str, Any], place: Place) -> list[Sample]:
    texts = tuple(_text(row, field, place) for field in task.inputs)
    if task.choices is None:
        return [texts]
    choices = _field(row, task.choices, place)
    if not isinstance(choices, list | tuple) or len(choices) != task.labels:
        raise place.fault(
            f"field '{task.choices}' is {choices!r:.200}; a list of {task.labels} texts is needed (labels)"
        )
    at = len(texts) - 1 if task.choice_in is None else task.inputs.index(task.choice_in)
    return [with_choice(texts, str(choice), at) for choice in choices]


def with_choice(texts: Sample, choice: str, at: int) -> Sample:
    """The inputs with the choice in the blank of input `at`, else after it, or as the segment after a single one."""
    text = texts[at]
    if not _BLANK.search(text) and len(texts) == 1:
        return (text, choice)
    # A function, or a backslash in the choice would be an escape.
    completed = _BLANK.sub(lambda _: choice, text) if _BLANK.search(text) else f"{text} {choice}"
    return (*texts[:at], completed, *texts[at + 1 :])


def _label(task: FinetuneTask, row: Mapping[str, Any], place: Place) -> float:
    value = _field(row, task.label, place)
    if task.head == "regression":
        return _number(float, value, task.label, place)
    if task.label_names is not None and isinstance(value, str):
        if value not in task.label_names:
            raise place.fault(f"label '{task.label}' is '{value}'; one of {', '.join(task.label_names)} is needed")
        return task.label_names.index(value)
    label = _number(int, value, task.label, place)
    if not 0 <= label < task.labels:
        raise place.fault(
            f"label '{task.label}' is {label}; a number from 0 to {task.labels - 1} is needed: correct `labels` of the "
            f"task, or name a split that has labels"
        )
    return label


def _number(kind: Callable[[Any], float], value: Any, field: str, place: Place) -> float:
    try:
        number = kind(value)
        if np.isfinite(number) and (isinstance(value, str) or number == value):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    wanted = "a whole number" if kind is int else "a number"
    raise place.fault(f"label '{field}' is {value!r}; {wanted} is needed, or `label_names` in the task for texts")


# --- tokens --------------------------------------------------------------------------------------------------


def tokenise(
    samples: Sequence[Sequence[Sample]],
    labels: NDArray[Any],
    rows: NDArray[np.int64],
    tokenizer: Tokenizer,
    max_length: int,
) -> Items:
    """Every item's samples as ids; a text that several samples share is tokenised once."""
    ids = _text_ids(list(dict.fromkeys(text for item in samples for sample in item for text in sample)), tokenizer)
    first, separator = np.array([tokenizer.cls_id], np.int32), np.array([tokenizer.sep_id], np.int32)
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    firsts: list[int] = []
    cut = 0
    for item in samples:
        whole = True
        for sample in item:
            segments = [ids[text] for text in sample]
            kept = cut_to([len(segment) for segment in segments], max_length - SPECIAL_TOKENS[len(segments)])
            whole = whole and kept == [len(segment) for segment in segments]
            parts.append(first)
            for segment, size in zip(segments, kept, strict=True):
                parts += [segment[:size], separator]
            lengths.append(sum(kept) + SPECIAL_TOKENS[len(segments)])
            firsts.append(kept[0] + 2)
        cut += not whole
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return Items(tokens, starts, np.array(firsts, dtype=np.int64), labels, len(samples[0]), rows, cut)


def _text_ids(texts: list[str], tokenizer: Tokenizer) -> dict[str, NDArray[np.int32]]:
    found: dict[str, NDArray[np.int32]] = {}
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        for text, ids in zip(some, tokenizer.encode_batch(some), strict=True):
            found[text] = np.array(ids, dtype=np.int32)
    return found


def cut_to(lengths: Sequence[int], limit: int) -> list[int]:
    """The segments' lengths with the longer one cut first: both to a half where both are longer than that.

    Of two halves that cannot be equal the longer segment has the larger one, of equal segments the second; as the
    tokenizers library has it.
    """
    if sum(lengths) <= limit:
        return list(lengths)
    if len(lengths) == 1:
        return [limit]
    shorter, longer = (0, 1) if lengths[0] <= lengths[1] else (1, 0)
    kept = [0, 0]
    kept[shorter] = min(lengths[shorter], limit // 2)
    kept[longer] = limit - kept[shorter]
    return kept
