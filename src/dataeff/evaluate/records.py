"""What is kept of every item that a model was asked: enough to score it again and to see what the model said.

One JSON line an item, compressed: which item it is (a hash of all its fields and the end of its prompt), the right
answer, every response with its log-likelihood, and the item's own value of every metric of its task. Whole prompts are
told by their hash: with ten examples before each item they would be most of the file.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from dataeff.errors import DataeffError
from dataeff.files import atomic_path

if TYPE_CHECKING:
    from dataeff.evaluate.model import AskedModel

ITEMS = "items.jsonl.zst"
TEXT_CHARACTERS = 160
HASH_DIGITS = 16
"""64 bits: two of a task's items share them with a probability below one in ten billion."""
TOKENIZED_TOGETHER = 256

Record = dict[str, Any]
Sample = dict[str, Any]


def records_of(model: AskedModel, task: str, samples: Sequence[Sample], metrics: Sequence[str]) -> list[Record]:
    """The records of a task's samples as lm-eval logs them, in the order of the items."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    for sample in ordered:
        _check_finite(model, task, sample)
    tokens = _prompt_tokens(model.lm.tokenizer, [_texts(sample) for sample in ordered])
    return [
        {
            "task": task,
            "doc_id": int(sample["doc_id"]),
            "item": sample["doc_hash"][:HASH_DIGITS],
            "text": _shown(sample),
            "target": _plain(sample["target"]),
            "responses": _plain(_responses(sample)),
            "metrics": {metric: _finite(model, task, sample, metric) for metric in metrics if metric in sample},
            "prompt_sha256": sample["prompt_hash"],
            "prompt_tokens": count,
            "truncated": is_truncated(model, sample, count),
        }
        for sample, count in zip(ordered, tokens, strict=True)
    ]


def is_truncated(model: AskedModel, sample: Sample, tokens: int) -> bool:
    """Whether the left end of the item's longest prompt was cut off to fit the context.

    The very last token of a continuation is only predicted, never read; a generation needs room for what it writes;
    a whole text (one argument) is scored in windows and loses nothing.
    """
    first = sample["arguments"][0]
    if len(first) == 1:
        return False
    if isinstance(first[1], dict):
        return tokens > int(model.lm.max_length) - generated_tokens(model, first[1])
    return tokens > int(model.lm.max_length) + 1


def generated_tokens(model: AskedModel, arguments: dict[str, Any]) -> int:
    """How many tokens a generation may write: the task's own limit, or the harness's."""
    for name in ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"):
        if arguments.get(name) is not None:
            return int(arguments[name])
    return int(model.lm.max_gen_toks)


def _texts(sample: Sample) -> list[str]:
    """What the model reads for each request: context and continuation, or the context that is to be continued."""
    return [
        arguments[0] if len(arguments) == 1 or isinstance(arguments[1], dict) else arguments[0] + arguments[1]
        for arguments in sample["arguments"]
    ]


def _prompt_tokens(tokenizer: Any, texts: list[list[str]]) -> list[int]:
    """Tokens of each item's longest text."""
    counts: list[int] = []
    for start in range(0, len(texts), TOKENIZED_TOGETHER):
        part = texts[start : start + TOKENIZED_TOGETHER]
        flat = [text for item in part for text in item]
        lengths = iter([len(ids) for ids in tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"]])
        counts += [max(next(lengths) for _ in item) for item in part]
    return counts


def _shown(sample: Sample) -> str:
    """The end of the first prompt, which is the item's own part of it; of a whole text its beginning."""
    first = sample["arguments"][0]
    text = str(first[0])
    return text[:TEXT_CHARACTERS] if len(first) == 1 else text[-TEXT_CHARACTERS:]


def _responses(sample: Sample) -> list[Any]:
    """One a request: [log-likelihood, whether it is the greedy text], a log-likelihood, or a generated text."""
    return [responses[0] if len(responses) == 1 else responses for responses in sample["resps"]]


def _check_finite(model: AskedModel, task: str, sample: Sample) -> None:
    responses = [response for repeated in sample["resps"] for response in repeated]
    likelihoods = [response[0] if isinstance(response, tuple) else response for response in responses]
    numbers = [float(value) for value in likelihoods if not isinstance(value, str)]
    if not all(map(math.isfinite, numbers)):
        raise DataeffError(
            f"{model.folder}: item {sample['doc_id']} of '{task}' has log-likelihoods {numbers}; "
            f"the weights are damaged or training diverged, see the run's metrics.jsonl"
        )


def _finite(model: AskedModel, task: str, sample: Sample, metric: str) -> Any:
    value = _plain(sample[metric])
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise DataeffError(
            f"{model.folder}: item {sample['doc_id']} of '{task}' has {metric} {value!r:.80}; only finite numbers, or "
            f"pairs of them, can be kept and scored again"
        )
    return value


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy, and tuples, as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def write_records(path: Path, records: Iterable[Record]) -> None:
    lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    with atomic_path(path) as temporary:
        temporary.write_bytes(zstandard.compress(lines.encode(), 10))


def read_records(path: Path) -> dict[str, list[Record]]:
    """The records of an items file by task, in their order."""
    found: dict[str, list[Record]] = {}
    for record in _lines(path):
        found.setdefault(record["task"], []).append(record)
    return found


def _lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as raw:
            text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
            for line in text:
                record = json.loads(line)
                if not {"task", "item", "metrics"} <= set(record):
                    raise ValueError(f"a record with the keys {sorted(record)}")
                yield record
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; evaluate again") from None
    except (ValueError, TypeError, zstandard.ZstdError) as error:
        raise DataeffError(f"{path}: not a file of items ({error}); delete its folder and evaluate again") from None
