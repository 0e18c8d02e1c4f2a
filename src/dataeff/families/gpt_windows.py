"""GPT's loss on whole texts: every token of them predicted once, in windows of the model's length.

A document's first token is predicted from <|endoftext|>, the others from what came before them in the same window.
Windows do not overlap, so a token after a window's edge sees one token of the window before: the model is scored on
contexts as it was trained on, in one pass over the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from dataeff.families.interface import Sum, Sums
from dataeff.progress import Progress

if TYPE_CHECKING:
    from dataeff.tokens.vocabulary import Tokenizer


@dataclass(frozen=True)
class Window:
    """Up to a context's length of consecutive tokens: `inputs` predict `targets`, both of the same length."""

    inputs: list[int]
    targets: list[int]


def score_texts(
    network: Any, tokenizer: Tokenizer, groups: Sequence[Sequence[str]], length: int, batch_size: int
) -> list[Sums | None]:
    """The loss of each group of texts."""
    windows = [list(cut_windows(texts, tokenizer, length)) for texts in groups]
    nats = iter(_score(network, list(chain.from_iterable(windows)), batch_size))
    sums: list[Sums | None] = []
    for group in windows:
        total = math.fsum(islice(nats, len(group)))
        tokens = sum(len(window.targets) for window in group)
        sums.append({"loss": Sum(total, tokens)} if tokens else None)
    return sums


def cut_windows(texts: Sequence[str], tokenizer: Tokenizer, length: int) -> Iterator[Window]:
    """Windows of at most `length` targets; together the targets of the texts are their tokens, each once."""
    for tokens in tokenizer.encode_batch(texts):
        inputs = [tokenizer.eos_id, *tokens[:-1]]
        for start in range(0, len(tokens), length):
            yield Window(inputs[start : start + length], tokens[start : start + length])


def _score(network: Any, windows: list[Window], batch_size: int) -> list[float]:
    """Summed loss in nats of each window. Windows of like length share a batch, so that little of it is
    padding; padding stands on the right, where a causal model's earlier positions cannot see it."""
    order = sorted(range(len(windows)), key=lambda index: len(windows[index].targets), reverse=True)
    nats = [0.0] * len(windows)
    progress = Progress("evaluate: held-out loss", len(windows), "windows")
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs_BS = pad_sequence([torch.tensor(windows[index].inputs) for index in batch], batch_first=True)
            hidden_BSD = network.base_model(input_ids=inputs_BS.to(network.device), use_cache=False).last_hidden_state
            for index, hidden_SD in zip(batch, hidden_BSD, strict=True):
                nats[index] = _window_loss(network, hidden_SD, torch.tensor(windows[index].targets))
            progress.show(start + len(batch))
    return nats


def _window_loss(network: Any, hidden_SD: Any, targets_T: Any) -> float:
    """Nats of one window: the logits of a whole batch (16 x 2,048 x 50,257 floats are 6.6 GB) never exist."""
    logits_TV = network.get_output_embeddings()(hidden_SD[: len(targets_T)]).float()
    loss_T = functional.cross_entropy(logits_TV, targets_T.to(network.device), reduction="none")
    return float(loss_T.double().sum())
