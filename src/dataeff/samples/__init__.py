"""Samples by number, in Megatron's indexes: GPT windows over shuffled documents, BERT sentence pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataeff.errors import DataeffError
from dataeff.files import read_json
from dataeff.samples import gpt, pairs
from dataeff.samples.arrays import id_type, load_array
from dataeff.samples.batch import SampleBatch, SpecialIds
from dataeff.samples.existing import adopt_mapping, adopt_windows, megatron_arguments
from dataeff.samples.gpt import FACTS, Samples
from dataeff.samples.pairs import PairSamples
from dataeff.samples.tokens import open_tokens
from dataeff.study.specs import SamplesSpec

__all__ = [
    "FACTS",
    "PairSamples",
    "SampleBatch",
    "Samples",
    "SpecialIds",
    "adopt_mapping",
    "adopt_windows",
    "build",
    "id_type",
    "load_array",
    "megatron_arguments",
    "open_samples",
    "open_tokens",
]


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path, train_samples: int | None = None) -> None:
    """Writes the sample index of the spec's family to the folder `out`."""
    if spec.family == "gpt":
        gpt.build(spec, prefixes, out, train_samples)
    else:
        pairs.build(spec, prefixes, out)


def open_samples(folder: Path, prefixes: Sequence[Path], special: SpecialIds | None = None) -> Samples | PairSamples:
    """The samples of an index folder; sentence pairs need the ids that frame them."""
    facts = read_json(Path(folder) / FACTS)
    if isinstance(facts, dict) and facts.get("family") == "bert":
        if special is None:
            raise DataeffError(f"{folder}: sentence pairs need the ids of [CLS], [SEP] and [PAD]; pass --tokenizer")
        return PairSamples(folder, prefixes, special)
    return Samples(folder, prefixes)
