"""Parameter counts of a run's model from its configuration alone, equal to those of the model that training builds.

GPT is the library's GPT-2 with a tied head; BERT its Megatron-BERT with the masked-token and sentence-order heads.
Both blocks hold 12 h^2 weights, 9 h biases and 4 h of layer norms.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataeff.families.traits import TRAITS
from dataeff.study.base import FamilyName
from dataeff.study.types import BertTokenizer, Gpt2Tokenizer, Model, Tokenizer

GPT2_VOCABULARY, BERT_VOCABULARY = 50_257, 30_522
PADDED_MULTIPLE = 128
_SENTENCE_KINDS = 2


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by what they are for; the vocabulary projection is the token embedding once more and counts once."""

    token_embedding: int
    position_embedding: int
    layers: int
    other: int

    @property
    def total(self) -> int:
        return self.token_embedding + self.position_embedding + self.layers + self.other


def padded_vocabulary(tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the vocabulary rounded up to a multiple of 128."""
    if isinstance(tokenizer, Gpt2Tokenizer):
        size = GPT2_VOCABULARY
    elif isinstance(tokenizer, BertTokenizer):
        size = BERT_VOCABULARY
    else:
        size = tokenizer.vocab_size
    return -(-size // PADDED_MULTIPLE) * PADDED_MULTIPLE


def parameter_counts(family: FamilyName, model: Model, vocabulary: int) -> ParameterCounts:
    """`vocabulary` is the padded size."""
    hidden = model.hidden
    layers = model.layers * (12 * hidden * hidden + 13 * hidden)
    final_norm = 2 * hidden
    if TRAITS[family].causal:
        return ParameterCounts(vocabulary * hidden, model.sequence_length * hidden, layers, final_norm)
    dense = hidden * hidden + hidden
    masked_tokens = dense + 2 * hidden + vocabulary
    sentence_order = _SENTENCE_KINDS * hidden + _SENTENCE_KINDS
    kinds = _SENTENCE_KINDS * hidden
    other = final_norm + kinds + dense + masked_tokens + sentence_order
    return ParameterCounts(vocabulary * hidden, model.sequence_length * hidden, layers, other)
