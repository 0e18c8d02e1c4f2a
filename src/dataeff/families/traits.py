"""What configuration, rules and tables must know of a family without its model: a table of facts, light to import.

All else that differs is code, behind the Family protocol (interface.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataeff.study.base import FamilyName
from dataeff.study.types import LENGTH_METRIC

_OF_ANY_SAMPLE = ("vocab_rarity", "compression_ratio", "mtld", "flesch")


@dataclass(frozen=True, slots=True)
class Traits:
    title: str
    causal: bool
    """Whether a token is predicted from those before it (a decoder), rather than from both sides (an encoder)."""
    prompted: bool
    """Whether its models continue text, so that tasks are scored by prompting them. Others are finetuned instead."""
    sentence_pairs: bool
    """Whether a sample is a pair of segments (then of its own length), rather than a window of running text."""
    predicts: str
    """What a loss in nats is per."""
    published_model: str
    """The papers' model and what it was trained on."""
    megatron_script: str
    select_metrics: tuple[str, ...]
    """Difficulty metrics with an analysis; analyze/metrics.py computes them (a test holds the two together)."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Ways to apply a curriculum that its samples do not allow, and what they would do."""


TRAITS: dict[FamilyName, Traits] = {
    "gpt": Traits(
        title="GPT",
        causal=True,
        prompted=True,
        sentence_pairs=False,
        predicts="token",
        published_model="GPT-3 of 1.3 billion parameters on 300 billion tokens of the Pile",
        megatron_script="pretrain_gpt.py",
        select_metrics=_OF_ANY_SAMPLE,
    ),
    "bert": Traits(
        title="BERT",
        causal=False,
        prompted=False,
        sentence_pairs=True,
        predicts="masked token",
        published_model="BERT-large (336 million parameters) on 1,049 billion tokens of the Pile",
        megatron_script="pretrain_bert.py",
        select_metrics=(LENGTH_METRIC, "seqlen_vocab_rarity", *_OF_ANY_SAMPLE),
        refused={
            "reshape": "cuts running text into shorter samples",
            "window": "limits how far back running text is seen",
            "bucket": "cuts documents of running text into lengths",
        },
    ),
}
PROMPTED = frozenset(name for name, traits in TRAITS.items() if traits.prompted)
