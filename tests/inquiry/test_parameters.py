"""Counts from the configuration equal those of the models that are trained."""

import pytest

from dataeff.families.gpt import build_model
from dataeff.inquiry.parameters import padded_vocabulary, parameter_counts
from dataeff.study.types import BpeTokenizer, Model

SIZES = [(3, 64, 2, 32, 384), (1, 32, 4, 16, 128), (4, 96, 3, 48, 640)]


def of(layers: int, hidden: int, heads: int, length: int) -> Model:
    return Model(layers=layers, hidden=hidden, heads=heads, sequence_length=length)


@pytest.mark.parametrize(("layers", "hidden", "heads", "length", "vocabulary"), SIZES)
def test_gpt(layers: int, hidden: int, heads: int, length: int, vocabulary: int) -> None:
    model = of(layers, hidden, heads, length)
    network = build_model(model, vocabulary=vocabulary, eos_id=0)
    counts = parameter_counts("gpt", model, vocabulary)
    assert counts.total == sum(parameter.numel() for parameter in network.parameters())
    assert counts.layers == sum(parameter.numel() for parameter in network.transformer.h.parameters())
    assert counts.token_embedding == network.transformer.wte.weight.numel()
    assert counts.position_embedding == network.transformer.wpe.weight.numel()


@pytest.mark.parametrize(("layers", "hidden", "heads", "length", "vocabulary"), SIZES)
def test_bert(layers: int, hidden: int, heads: int, length: int, vocabulary: int) -> None:
    from transformers import MegatronBertConfig, MegatronBertForPreTraining

    config = MegatronBertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=length,
    )
    network = MegatronBertForPreTraining(config)
    counts = parameter_counts("bert", of(layers, hidden, heads, length), vocabulary)
    assert counts.total == sum(parameter.numel() for parameter in network.parameters())
    assert counts.layers == sum(parameter.numel() for parameter in network.bert.encoder.layer.parameters())


def test_the_papers_models_have_their_names_sizes() -> None:
    gpt, bert = of(24, 2048, 16, 2048), of(24, 1024, 16, 512)
    assert round(parameter_counts("gpt", gpt, 50_304).total / 1e9, 1) == 1.3
    assert round(parameter_counts("bert", bert, 30_592).total / 1e6) == 336


def test_vocabularies_are_padded() -> None:
    assert padded_vocabulary(BpeTokenizer(kind="bpe", vocab_size=4096)) == 4096
    assert padded_vocabulary(BpeTokenizer(kind="bpe", vocab_size=4097)) == 4224
