"""The library's head on top of a finished run: MegatronBertForSequenceClassification, or ...ForMultipleChoice.

The body, pooler included, has the run's weights under their names; the head (one matrix) starts from the seed. What is
computed is the library's; attention is the fused operation of bert_network, and the mask of padding one row a sample.

Shapes: N samples, S positions, C classes (or choices of an item), B items.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataeff import keyed
from dataeff.errors import DataeffError
from dataeff.evaluate.model import open_model
from dataeff.families.traits import TRAITS
from dataeff.study.tasks import FinetuneTask
from dataeff.study.types import Run
from dataeff.tokens.vocabulary import Tokenizer
from dataeff.tokens.vocabulary import load as load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """A finished run that can be finetuned: its body's weights by name, on its device."""

    run: Run
    name: str
    digest: str
    config: Any
    body: dict[str, Any]
    tokenizer: Tokenizer
    device: Any

    @property
    def longest(self) -> int:
        return int(self.config.max_position_embeddings)


def open_encoder(folder: Path, threads: int) -> Encoder:
    """Opens a finished run's folder with the checks of the evaluation; an error where its family is not finetuned."""
    opened = open_model(folder, 1, threads)
    if TRAITS[opened.run.family].prompted:
        title = TRAITS[opened.run.family].title
        raise DataeffError(
            f"{folder}: a {title} run; finetuning is for encoders (BERT), tasks are put to it by prompts"
        )
    body = {name: tensor.clone() for name, tensor in opened.network.bert.state_dict().items()}
    return Encoder(
        opened.run,
        opened.name,
        opened.digest,
        opened.network.config,
        body,
        load_tokenizer(folder),
        opened.network.device,
    )


def new_network(encoder: Encoder, task: FinetuneTask, dropout: float) -> Any:
    """The library's model with the head that the task needs, its weights still to be set by `start`."""
    from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification

    from dataeff.families.bert_network import SelfAttention

    config = type(encoder.config).from_dict(
        {
            **encoder.config.to_dict(),
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "num_labels": task.labels,
        }
    )
    kind = AutoModelForMultipleChoice if task.head == "choice" else AutoModelForSequenceClassification
    network: Any = kind.from_config(config)
    for layer in network.bert.encoder.layer:
        layer.attention.self.__class__ = SelfAttention
    return network.to(encoder.device)


def start(network: Any, encoder: Encoder, seed: int) -> None:
    """The run's weights in the body and a fresh head: normal as the pretrained matrices were, without bias."""
    import torch

    network.bert.load_state_dict(encoder.body)
    generator = torch.Generator().manual_seed(keyed.key(seed, "finetune head"))
    with torch.no_grad():
        weight = torch.empty(network.classifier.weight.shape)
        network.classifier.weight.copy_(weight.normal_(std=network.config.initializer_range, generator=generator))
        network.classifier.bias.zero_()


def outputs(network: Any, tokens_NS: Tensor, types_NS: Tensor, lengths_N: Tensor, task: FinetuneTask) -> Tensor:
    """Logits [B, C], or values [B] of a regression; the library's forward for these modules."""
    from dataeff.families.bert_network import padding_mask

    padded = bool((lengths_N < tokens_NS.shape[1]).any())
    mask_N11S = padding_mask(lengths_N, tokens_NS.shape[1], network.dtype) if padded else None
    embedded_NSD = network.bert.embeddings(input_ids=tokens_NS, token_type_ids=types_NS)
    hidden_NSD = network.bert.encoder(embedded_NSD, attention_mask=mask_N11S).last_hidden_state
    logits: Tensor = network.classifier(network.dropout(network.bert.pooler(hidden_NSD))).float()
    if task.head == "choice":
        return logits.view(-1, task.labels)
    return logits.squeeze(1) if task.head == "regression" else logits


def loss_sum(found: Tensor, labels_B: Tensor, task: FinetuneTask) -> Tensor:
    """Over the items: the squared errors of a regression, else the cross-entropies."""
    from torch.nn import functional

    if task.head == "regression":
        return functional.mse_loss(found, labels_B, reduction="sum")
    return functional.cross_entropy(found, labels_B, reduction="sum")
