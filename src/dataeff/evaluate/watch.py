"""Logits that are no numbers, found while a model writes: the text that comes of them looks like any other.

lm-eval keeps the log-likelihoods of answers that it compares, where such a value shows (records.py); of a generation it
keeps the text alone. So every pass of the model is looked at, and the first fault ends the task and names its item.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataeff.errors import DataeffError
from dataeff.evaluate.model import AskedModel


@contextmanager
def watched(model: AskedModel, name: str, task: Any) -> Iterator[None]:
    """While lm-eval's `task` is put to the model: DataeffError at the first logits that are no numbers."""
    prompts: list[list[int]] = []

    def look(_module: Any, _inputs: Any, named: dict[str, Any], output: Any) -> None:
        tokens, cache = named["input_ids"], output.past_key_values
        if cache is None or cache.get_seq_length() == tokens.shape[1]:  # nothing was read before: these are the prompts
            mask = named.get("attention_mask")  # left out where nothing is padded
            real = tokens.new_ones(tokens.shape) if mask is None else mask
            prompts[:] = [row[kept.bool()].tolist() for row, kept in zip(tokens, real, strict=True)]
        last = output.logits[:, -1]
        faults = (last.isnan() | last.isposinf()).any(dim=-1)
        if faults.any():
            raise _fault(model, name, task, prompts[int(faults.nonzero()[0])])

    handle = model.lm.model.register_forward_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _fault(model: AskedModel, name: str, task: Any, prompt: list[int]) -> DataeffError:
    """`prompt`: the tokens that the model was given, the last ones where the whole was too long for it."""
    asked = (one for one in task.instances if model.lm.tok_encode(one.args[0])[-len(prompt) :] == prompt)
    items = [f"item {one.doc_id} of '{name}'" for one in asked]
    return DataeffError(
        f"{model.folder}: {items[0] if items else f'an item of {name!r}'}: logits that are no numbers while its answer "
        f"was generated; the weights are damaged or training diverged, see the run's metrics.jsonl"
    )
