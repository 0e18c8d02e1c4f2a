"""Held-out loss per domain: every byte of a fixed slice of the held-out text, predicted once.

A document's first token is predicted from <|endoftext|>, the others from what came before them in the same
window of the model's length. Windows do not overlap, so a token after a window's edge sees one token of the
window before: the model is scored on contexts as it was trained on, in one pass over the text.

Bits per byte does not depend on the tokenizer; nats per token does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.evaluate.documents import domain_files, read_documents
from dataeff.evaluate.model import OpenModel
from dataeff.evaluate.scores import DomainLoss, Loss


@dataclass(frozen=True)
class Slice:
    """The part of a domain's text that is scored."""

    domain: str
    texts: list[str]

    @property
    def bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)


@dataclass(frozen=True)
class Window:
    """Up to a context's length of consecutive tokens: `inputs` predict `targets`, both of the same length."""

    inputs: list[int]
    targets: list[int]


def heldout_loss(
    model: OpenModel, heldout: Path, bytes_per_domain: int, batch_size: int
) -> tuple[dict[str, DomainLoss], Loss]:
    """Loss by domain, and over all their tokens together, of the first `bytes_per_domain` bytes of each."""
    slices = [read_slice(path, bytes_per_domain) for path in domain_files(heldout)]
    groups = [list(cut_windows(part, model.lm.tokenizer, model.sequence_length)) for part in slices]
    nats = iter(_score(model.lm, list(chain.from_iterable(groups)), batch_size))
    domains: dict[str, DomainLoss] = {}
    sums: dict[str, float] = {}
    for part, windows in zip(slices, groups, strict=True):
        total = math.fsum(islice(nats, len(windows)))
        tokens = sum(len(window.targets) for window in windows)
        if not math.isfinite(total):
            raise DataeffError(
                f"{model.folder}: the held-out loss on '{part.domain}' is {total}; the weights are damaged "
                f"or training diverged, see the run's metrics.jsonl"
            )
        loss = _loss(total, tokens, part.bytes)
        sums[part.domain] = total
        domains[part.domain] = DomainLoss(**loss.model_dump(), documents=len(part.texts))
    tokens, size = (sum(getattr(domain, unit) for domain in domains.values()) for unit in ("tokens", "bytes"))
    return domains, _loss(math.fsum(sums.values()), tokens, size)


def _loss(nats: float, tokens: int, size: int) -> Loss:
    return Loss(loss=nats / tokens, bits_per_byte=nats / math.log(2) / size, tokens=tokens, bytes=size)


def read_slice(path: Path, limit: int) -> Slice:
    """Documents in file order up to `limit` bytes; the last one is cut there, between two characters."""
    texts: list[str] = []
    domains: set[str] = set()
    left = limit
    for domain, text in read_documents(path):
        kept = text.encode()[:left].decode(errors="ignore")
        left -= len(text.encode())
        domains.add(domain)
        if kept:
            texts.append(kept)
        if left <= 0:
            break
    if not texts or len(domains) > 1:
        raise DataeffError(f"{path}: one domain's text is needed, found {sorted(domains)}; make the corpus again")
    return Slice(domains.pop(), texts)


def cut_windows(part: Slice, tokenizer: Any, length: int) -> Iterator[Window]:
    """Windows of at most `length` targets; together the targets of a domain are its tokens, each once."""
    for tokens in tokenizer(part.texts, add_special_tokens=False, verbose=False)["input_ids"]:
        inputs = [tokenizer.eos_token_id, *tokens[:-1]]
        for start in range(0, len(tokens), length):
            yield Window(inputs[start : start + length], tokens[start : start + length])


def _score(lm: Any, windows: list[Window], batch_size: int) -> list[float]:
    """Summed loss in nats of each window. Windows of like length share a batch, so that little of it is
    padding; padding stands on the right, where a causal model's earlier positions cannot see it."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    order = sorted(range(len(windows)), key=lambda index: len(windows[index].targets), reverse=True)
    nats = [0.0] * len(windows)
    shown = time.monotonic()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs_BS = pad_sequence([torch.tensor(windows[index].inputs) for index in batch], batch_first=True)
            hidden_BSD = lm.model.base_model(input_ids=inputs_BS.to(lm.device), use_cache=False).last_hidden_state
            for index, hidden_SD in zip(batch, hidden_BSD, strict=True):
                nats[index] = _window_loss(lm.model, hidden_SD, torch.tensor(windows[index].targets, device=lm.device))
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                print(f"evaluate: held-out loss: {start + len(batch)} of {len(windows)} windows", flush=True)
    return nats


def _window_loss(network: Any, hidden_SD: Any, targets_T: Any) -> float:
    """Nats of one window: the logits of a whole batch (16 x 2,048 x 50,257 floats are 6.6 GB) never exist."""
    from torch.nn import functional

    logits_TV = network.get_output_embeddings()(hidden_SD[: len(targets_T)]).float()
    return float(functional.cross_entropy(logits_TV, targets_T, reduction="none").double().sum())
