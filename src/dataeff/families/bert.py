"""BERT as Megatron trains it: sentence pairs, masked language modelling and sentence order, pre-norm layers.

The loss of a step is the mean over its masked pieces plus the mean over its rows of the sentence-order loss, both over
the global batch (arXiv 2211.11586 and 2212.03597 train BERT-large so).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dataeff.analyze.compiled import keep_compiled
from dataeff.corpus.shard import read_documents
from dataeff.errors import DataeffError
from dataeff.families.batch import Cut, StepBatch
from dataeff.families.interface import Opened, Sum, Sums
from dataeff.families.masking import IGNORED, Masker, mask_key
from dataeff.families.text_pairs import SEED, Pairs, all_pairs, first_pairs, special_ids, target_lengths
from dataeff.progress import Progress
from dataeff.samples.batch import SampleBatch
from dataeff.samples.pairs import PairSamples
from dataeff.study.base import FamilyName
from dataeff.study.types import Model
from dataeff.transfer import to_device

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dataeff.tokens.vocabulary import Tokenizer

PROBE_PAIRS_PER_DOMAIN = 16
"""As 15% of the pieces are predicted, more rows than GPT's probe has."""
LENGTH_MULTIPLE = 8
ON_HOST = frozenset({"labels", "lengths"})
"""Which places are predicted, and whether there is padding, the host finds out itself: from a graphics card it would
wait for the answers in every pass.
"""


@dataclass(frozen=True)
class Bert:
    """The family, bound to a tokenizer; see interface.Family."""

    tokenizer: Tokenizer
    name: ClassVar[FamilyName] = "bert"
    predicts_every_byte: ClassVar[bool] = False

    def __post_init__(self) -> None:
        keep_compiled()  # or each run would spend seconds on compiling how pairs are made

    @cached_property
    def masker(self) -> Masker:
        return Masker.of(self.tokenizer)

    def build_model(self, model: Model) -> nn.Module:
        from dataeff.families.bert_network import new_network

        vocabulary = self.tokenizer.padded_vocab_size()
        network: nn.Module = new_network(model, vocabulary=vocabulary, pad_id=self.tokenizer.pad_id)
        return network

    def open_samples(self, folder: Path, prefixes: Sequence[Path]) -> PairSamples:
        return PairSamples(folder, prefixes, special_ids(self.tokenizer))

    def step_batch(self, samples: PairSamples, ids: NDArray[np.int64], step: Cut) -> StepBatch:
        whole = self._masked(samples.batch(ids), target_lengths(samples, ids), mask_key(step.seed, step.step))
        return cut(whole, cut_length(whole.arrays["lengths"], samples.sequence_length, step))

    def loss_sums(self, network: Any, part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from torch.nn import functional

        logits_PV, labels_P, order_B2, swapped_B = _forward(network, part)
        return {
            "mlm_loss": functional.cross_entropy(logits_PV, labels_P, reduction="sum"),
            "sentence_order_loss": functional.cross_entropy(order_B2, swapped_B, reduction="sum"),
        }

    def probe_batch(self, heldout: Path, sequence_length: int) -> StepBatch:
        found = []
        for path in sorted(heldout.glob("*.jsonl.zst")):
            texts = (document.text for document in read_documents(path))
            batch = self._measured(first_pairs(texts, self.tokenizer, sequence_length, PROBE_PAIRS_PER_DOMAIN))
            if batch is not None:
                found.append(batch)
        if not found:
            raise DataeffError(
                f"{heldout}: no held-out document gives a sentence pair: at least two sentences are needed, none of "
                f"them too long; hold out other text"
            )
        arrays = {name: np.concatenate([batch.arrays[name] for batch in found]) for name in found[0].arrays}
        return cut(_counted(arrays), _rounded(arrays["lengths"].max(), sequence_length))

    def probe_sums(self, network: Any, part: Mapping[str, Tensor]) -> Sums:
        """The `loss` is of masked pieces alone, which is what `loss` of every family's held-out text is of."""
        from torch.nn import functional

        logits_PV, labels_P, order_B2, swapped_B = _forward(network, part)
        pieces, rows = len(labels_P), len(swapped_B)
        mlm_P = functional.cross_entropy(logits_PV, labels_P, reduction="none")
        order_B = functional.cross_entropy(order_B2, swapped_B, reduction="none")
        right = int((order_B2.argmax(dim=1) == swapped_B).sum())
        return {
            "loss": Sum(float(mlm_P.double().sum()), pieces),
            "sentence_order_loss": Sum(float(order_B.double().sum()), rows),
            "sentence_order_accuracy": Sum(right, rows),
        }

    def score_texts(
        self, network: Any, groups: Sequence[Sequence[str]], sequence_length: int, batch_size: int
    ) -> list[Sums | None]:
        found = [self._measured(all_pairs(texts, self.tokenizer, sequence_length)) for texts in groups]
        progress = Progress("evaluate: held-out loss", sum(batch.rows for batch in found if batch), "pairs")
        sums: list[Sums | None] = []
        done = 0
        for batch in found:
            sums.append(None if batch is None else self._score(network, batch, batch_size, progress, done))
            done += 0 if batch is None else batch.rows
        return sums

    @staticmethod
    def open_finished(folder: Path, batch_size: int) -> Opened:
        import torch

        from dataeff.families.bert_network import MegatronBertForPreTraining

        network = MegatronBertForPreTraining.from_pretrained(folder, dtype=torch.float32)
        return Opened(network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), None)

    def _masked(self, samples: SampleBatch, targets: NDArray[np.int64], key: int) -> StepBatch:
        """At full length: what is masked does not depend on how a step is cut."""
        assert samples.types is not None
        assert samples.swapped is not None
        tokens, labels = self.masker.mask(samples, targets, key)
        arrays = {
            "tokens": tokens,
            "types": samples.types.astype(np.int64),
            "lengths": samples.lengths.astype(np.int64),
            "labels": labels,
            "swapped": samples.swapped.astype(np.int64),
        }
        return _counted(arrays)

    def _measured(self, pairs: Pairs | None) -> StepBatch | None:
        """Pairs of held-out text with the masks that every run is measured on; None if nothing is masked."""
        batch = None if pairs is None else self._masked(pairs.batch, pairs.targets, mask_key(SEED, 0))
        return batch if batch is not None and batch.facts["masked_tokens"] else None

    def _score(self, network: Any, batch: StepBatch, batch_size: int, progress: Progress, done: int) -> Sums:
        """Pairs of like length share a forward pass, so that little of it is padding."""
        import torch

        order = np.argsort(batch.arrays["lengths"], kind="stable")
        total: Sums | None = None
        with torch.inference_mode():
            for start in range(0, batch.rows, batch_size):
                rows = order[start : start + batch_size]
                width = int(batch.arrays["lengths"][rows].max())
                found = self.probe_sums(network, cut(batch, width).part(rows, network.device))
                total = found if total is None else {name: total[name] + found[name] for name in found}
                progress.show(done + start + len(rows))
        assert total is not None
        return total


def cut_length(lengths: NDArray[np.int64], whole: int, step: Cut) -> int:
    """The length of a step: the curriculum's; where a curriculum selects samples but cuts none, that of the longest
    sample of the global batch; the whole length without a curriculum (Megatron-DeepSpeed's data_post_process).
    """
    if step.rule == "reshape":
        raise DataeffError("curriculum.seqlen.apply: 'reshape' is for gpt: a sentence pair is no row of text; truncate")
    if step.rule == "truncate":
        return _rounded(step.length, whole)
    return _rounded(int(lengths.max()), whole) if step.selects else whole


def _rounded(length: int, whole: int) -> int:
    return min(whole, -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


def cut(batch: StepBatch, length: int) -> StepBatch:
    """Every field cut to the first `length` positions."""
    arrays = {name: array[:, :length] if array.ndim == 2 else array for name, array in batch.arrays.items()}
    return _counted({**arrays, "lengths": np.minimum(arrays["lengths"], length)})


def _counted(arrays: Mapping[str, NDArray[Any]]) -> StepBatch:
    labels = arrays["labels"]
    masked = int(np.count_nonzero(labels != IGNORED))
    # A step in which nothing is masked has a masked loss of 0, not 0 / 0.
    counts = {"mlm_loss": max(1, masked), "sentence_order_loss": len(labels)}
    return StepBatch(arrays, counts, {"batch_length": labels.shape[1], "masked_tokens": masked}, ON_HOST)


def _forward(network: Any, part: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits [P, V] and labels [P] of the masked places, logits [B, 2] and labels [B] of the sentence order."""
    tokens, labels, lengths = part["tokens"], part["labels"].flatten(), part["lengths"]
    places = (labels != IGNORED).nonzero().squeeze(1)
    padded = bool((lengths < tokens.shape[1]).any())
    logits_PV, order_B2 = network(
        input_ids=tokens,
        token_type_ids=part["types"],
        lengths=to_device(lengths, tokens.device) if padded else None,
        places=to_device(places, tokens.device),
    )
    return logits_PV.float(), to_device(labels[places], tokens.device), order_B2.float(), part["swapped"]
