"""Held-out loss per domain, over a fixed slice of the held-out text; the model's family says what is predicted of it.

Where that is every byte (GPT), bits per byte tell what does not depend on the tokenizer. A masked model predicts a
part of the pieces from both sides: its nats are per masked piece and compare with no other family's; whether it knows
the order of two segments is told beside them. Files of the two kinds are told apart by their keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.evaluate.documents import domain_files, read_documents
from dataeff.evaluate.model import OpenModel
from dataeff.evaluate.scores import (
    DomainLoss,
    HeldoutScores,
    Loss,
    MaskedDomainLoss,
    MaskedHeldoutScores,
    MaskedLoss,
)
from dataeff.families.interface import Sum, Sums


@dataclass(frozen=True)
class Slice:
    """The part of a domain's text that is scored."""

    domain: str
    texts: list[str]

    @property
    def bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts)


def heldout_scores(
    model: OpenModel, heldout: Path, bytes_per_domain: int, batch_size: int, identity: Mapping[str, Any]
) -> HeldoutScores | MaskedHeldoutScores:
    """What heldout.json holds: the losses on the first `bytes_per_domain` bytes of each domain, and over all."""
    scored = score_domains(model, heldout, bytes_per_domain, batch_size)
    overall, size = _together([sums for _, sums in scored]), sum(part.bytes for part, _ in scored)
    if not model.family.predicts_every_byte:
        return MaskedHeldoutScores(
            **identity,
            domains={
                part.domain: MaskedDomainLoss(**_masked(sums, part.bytes), documents=len(part.texts))
                for part, sums in scored
            },
            overall=MaskedLoss(**_masked(overall, size)),
        )
    return HeldoutScores(
        **identity,
        domains={
            part.domain: DomainLoss(**_of_bytes(sums, part.bytes), documents=len(part.texts)) for part, sums in scored
        },
        overall=Loss(**_of_bytes(overall, size)),
    )


def score_domains(model: OpenModel, heldout: Path, bytes_per_domain: int, batch_size: int) -> list[tuple[Slice, Sums]]:
    """What the family measures of each domain's slice. One of which nothing can be predicted is left out, aloud."""
    slices = [read_slice(path, bytes_per_domain) for path in domain_files(heldout)]
    texts = [part.texts for part in slices]
    found = model.family.score_texts(model.network, texts, model.sequence_length, batch_size)
    scored = []
    for part, sums in zip(slices, found, strict=True):
        if sums is None:
            print(f"evaluate: '{part.domain}': left out: its {part.bytes} bytes give nothing to predict", flush=True)
            continue
        for total in (measure.total for measure in sums.values()):
            if not math.isfinite(total):
                raise DataeffError(
                    f"{model.folder}: the held-out loss on '{part.domain}' is {total}; the weights are damaged "
                    f"or training diverged, see the run's metrics.jsonl"
                )
        scored.append((part, sums))
    if not scored:
        raise DataeffError(
            f"{heldout}: the first {bytes_per_domain} bytes of no domain give anything to predict; raise "
            f"evaluation.heldout_bytes_per_domain or hold out other text"
        )
    return scored


def _together(parts: Sequence[Sums]) -> Sums:
    return {
        name: Sum(math.fsum(part[name].total for part in parts), sum(part[name].count for part in parts))
        for name in parts[0]
    }


def _of_bytes(sums: Sums, size: int) -> dict[str, Any]:
    loss = sums["loss"]
    return {
        "loss": loss.mean,
        "bits_per_byte": loss.total / math.log(2) / size,
        "tokens": loss.count,
        "bytes": size,
    }


def _masked(sums: Sums, size: int) -> dict[str, Any]:
    order = sums["sentence_order_loss"]
    means = {name: measure.mean for name, measure in sums.items()}
    return {**means, "tokens": sums["loss"].count, "pairs": order.count, "bytes": size}


def in_words(loss: Loss | MaskedLoss) -> str:
    if isinstance(loss, MaskedLoss):
        return f"loss {loss.loss:.4f} nats per masked piece, sentence order {loss.sentence_order_accuracy:.1%} right"
    return f"loss {loss.loss:.4f} nats per token, {loss.bits_per_byte:.4f} bits per byte"


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
