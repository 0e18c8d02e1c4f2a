"""GPT: Hugging Face's GPT-2 architecture with GPT-3's hyper-parameters, trained on S + 1 consecutive tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.compiled import keep_compiled
from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.families.batch import Cut, LengthRule, StepBatch
from dataeff.families.interface import Opened, Sum, Sums
from dataeff.files import read_json
from dataeff.samples import BucketSamples, Samples, open_gpt
from dataeff.study.base import FamilyName
from dataeff.study.types import Model

if TYPE_CHECKING:
    import torch
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

    def __post_init__(self) -> None:
        keep_compiled()  # or each run would spend a second and a half on compiling how samples are drawn and read

    def build_model(self, model: Model) -> nn.Module:
        return build_model(model, vocabulary=self.tokenizer.padded_vocab_size(), eos_id=self.tokenizer.eos_id)

    def open_samples(self, folder: Path, prefixes: Sequence[Path]) -> Samples | BucketSamples:
        return open_gpt(folder, prefixes)

    def step_batch(self, samples: Samples | BucketSamples, ids: Tokens, step: Cut) -> StepBatch:
        if isinstance(samples, BucketSamples):
            return _batch(samples.read(ids, step.length))
        if step.rule is None and step.length < samples.sequence_length:
            raise DataeffError(
                f"{samples.folder}: its samples are all of {samples.sequence_length} tokens, step {step.step + 1} of "
                f"the plan takes a length bucket of {step.length}; give the samples that the plan was made of"
            )
        return _batch(cut(samples.read(ids), step.length, step.rule), step.window)

    def loss_sums(self, network: Any, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        window = int(part["window"][0]) if "window" in part else None
        return {"loss": loss_sum(network, part["tokens"], window)[0]}

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
    from transformers import GPT2Config

    from dataeff.families.gpt_network import new_network

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
    network: nn.Module = new_network(config)
    return network


def _batch(rows: Tokens, window: int | None = None) -> StepBatch:
    """Every token of a row but the first is predicted; a window is an entry of each row, equal in all."""
    counts = {"loss": rows.shape[0] * (rows.shape[1] - 1)}
    if window is None:
        return StepBatch({"tokens": rows}, counts)
    return StepBatch(
        {"tokens": rows, "window": np.full(len(rows), window)}, counts, {"window": window}, frozenset({"window"})
    )


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


@lru_cache(maxsize=1)
def window_mask(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The mask [1, 1, S, S] of attention that is causal inside consecutive blocks of `window` tokens and sees nothing
    of other blocks; positions stay those of the whole row (SkyLadder, arXiv 2503.15450).

    Added to the scores, since only so do all kinds of attention take it: the lowest number where nothing is seen. The
    last one is kept: a window lasts for many steps and serves all micro-batches of each.
    """
    import torch

    position_S = torch.arange(length, device=device)
    earlier_SS = position_S[:, None] >= position_S
    same_block_SS = (position_S // window)[:, None] == position_S // window
    mask_SS = torch.zeros(length, length, dtype=dtype, device=device)
    return mask_SS.masked_fill(~(earlier_SS & same_block_SS), torch.finfo(dtype).min)[None, None]


def loss_sum(network: nn.Module, rows: Tensor, window: int | None = None) -> tuple[Tensor, int]:
    """Summed next-token loss in nats over rows [B, s + 1], and the number of predicted tokens, B * s.

    `window`: how many tokens a block of attention holds; without one, or with one of all tokens, no mask is passed.
    """
    from torch.nn import functional

    length, extra = rows.shape[1] - 1, {}
    if window is not None and window < length:
        extra["attention_mask"] = window_mask(length, window, next(network.parameters()).dtype, rows.device)
    logits = network(input_ids=rows[:, :-1], use_cache=False, **extra).logits
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
