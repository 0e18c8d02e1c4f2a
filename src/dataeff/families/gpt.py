"""GPT: Hugging Face's GPT-2 architecture with GPT-3's hyper-parameters, trained on S + 1 consecutive tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.families.batch import Cut, LengthRule, StepBatch
from dataeff.families.interface import Opened, Sum, Sums
from dataeff.files import read_json
from dataeff.samples.gpt import Samples
from dataeff.study.types import FamilyName, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataeff.tokens.vocabulary import Tokenizer

Tokens = NDArray[np.int64]
PROBE_ROWS_PER_DOMAIN = 6


@dataclass(frozen=True)
class Gpt:
    """The family, bound to a tokenizer; see interface.Family."""

    tokenizer: Tokenizer
    name: ClassVar[FamilyName] = "gpt"
    predicts_every_byte: ClassVar[bool] = True

    def build_model(self, model: Model) -> nn.Module:
        return build_model(model, vocabulary=self.tokenizer.padded_vocab_size(), eos_id=self.tokenizer.eos_id)

    def open_samples(self, folder: Path, prefixes: Sequence[Path]) -> Samples:
        return Samples(folder, prefixes)

    def step_batch(self, samples: Samples, ids: Tokens, step: Cut) -> StepBatch:
        return _batch(cut(samples.read(ids), step.length, step.rule))

    def loss_sums(self, network: Any, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": loss_sum(network, part["tokens"])[0]}

    def probe_batch(self, heldout: Path, sequence_length: int) -> StepBatch:
        return _batch(probe_rows(heldout, self.tokenizer, sequence_length))

    def probe_sums(self, network: Any, part: Mapping[str, Tensor]) -> Sums:
        loss, tokens = loss_sum(network, part["tokens"])
        return {"loss": Sum(float(loss), tokens)}

    def score_texts(
        self, network: Any, groups: Sequence[Sequence[str]], sequence_length: int, batch_size: int
    ) -> list[Sums | None]:
        from dataeff.families.gpt_windows import score_texts

        return score_texts(network, self.tokenizer, groups, sequence_length, batch_size)

    @staticmethod
    def open_finished(folder: Path, batch_size: int) -> Opened:
        import torch
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(
            pretrained=str(folder),
            backend="causal",
            device="cuda" if torch.cuda.is_available() else "cpu",
            dtype="float32",
            batch_size=batch_size,
            max_length=int(read_json(folder / "config.json")["n_positions"]),
            # lm-eval 0.4.13 shares logits between requests of equal tokens even where context and continuation
            # meet at different places, as those of one sentence do in two tasks, and then scores wrong tokens.
            logits_cache=False,
        )
        return Opened(lm.model, lm)


def build_model(model: Model, *, vocabulary: int, eos_id: int) -> nn.Module:
    """A freshly initialised model; the caller has seeded torch. `vocabulary` is the padded size.

    The library scales the residual projections by 1/sqrt(2 * layers) as Megatron does. The language-model head
    shares the embedding.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=model.sequence_length,
        n_embd=model.hidden,
        n_layer=model.layers,
        n_head=model.heads,
        resid_pdrop=model.dropout,
        embd_pdrop=model.dropout,
        attn_pdrop=model.dropout,
        initializer_range=model.init_std,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        use_cache=False,
    )
    network: nn.Module = GPT2LMHeadModel(config)
    return network


def _batch(rows: Tokens) -> StepBatch:
    """Every token of a row but the first is predicted."""
    return StepBatch({"tokens": rows}, {"loss": rows.shape[0] * (rows.shape[1] - 1)})


def cut(samples: Tokens, length: int, apply: LengthRule) -> Tokens:
    """The rows [rows, length + 1] that a step trains on, from whole samples [batch, S + 1].

    `truncate` keeps the first length + 1 tokens. `reshape` cuts every sample into pieces of length + 1, then adds
    every sample's last length + 1 tokens (they overlap the last piece), and keeps as many rows as
    token_counts.reshaped_rows says; done once over the global batch, so that it does not depend on the micro-batch.
    """
    from dataeff.token_counts import reshaped_rows

    whole = samples.shape[1]
    if apply is None or length + 1 >= whole:
        return samples
    if apply == "truncate":
        return samples[:, : length + 1]
    pieces = whole // (length + 1)
    rows = samples[:, : pieces * (length + 1)].reshape(-1, length + 1)
    rows = np.concatenate([rows, samples[:, -(length + 1) :]])
    return rows[: int(reshaped_rows(len(samples), whole - 1, np.array([length]))[0])]


def loss_sum(network: nn.Module, rows: Tensor) -> tuple[Tensor, int]:
    """Summed next-token loss in nats over rows [B, s + 1], and the number of predicted tokens, B * s."""
    from torch.nn import functional

    logits = network(input_ids=rows[:, :-1], use_cache=False).logits
    targets = rows[:, 1:]
    loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction="sum")
    return loss, targets.numel()


def probe_rows(heldout: Path, tokenizer: Tokenizer, sequence_length: int) -> Tokens:
    """[rows, S + 1] tokens: the first PROBE_ROWS_PER_DOMAIN rows of each domain's held-out text, documents joined."""
    needed = PROBE_ROWS_PER_DOMAIN * (sequence_length + 1)
    rows = []
    for path in sorted(heldout.glob("*.jsonl.zst")):
        tokens: list[int] = []
        for document in read_documents(path):
            tokens += [*tokenizer.encode(document.text), tokenizer.eos_id]
            if len(tokens) >= needed:
                break
        whole = min(len(tokens), needed) // (sequence_length + 1)
        rows.append(np.array(tokens[: whole * (sequence_length + 1)]).reshape(whole, sequence_length + 1))
    if not rows or not sum(len(part) for part in rows):
        raise DataeffError(
            f"{heldout}: no held-out text of at least {sequence_length + 1} tokens; run `dataeff corpus` again"
        )
    return np.concatenate(rows).astype(np.int64)
