"""Samples by number: GPT windows over shuffled documents and BERT sentence pairs, in Megatron's indexes; GPT samples of
several lengths, in buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataeff.bucket_plan import LAYOUT as BUCKETS
from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.files import read_json
from dataeff.samples import buckets, gpt, pairs
from dataeff.samples.arrays import id_type, load_array
from dataeff.samples.batch import SampleBatch, SpecialIds
from dataeff.samples.buckets import BucketSamples
from dataeff.samples.existing import adopt_mapping, adopt_windows, megatron_arguments
from dataeff.samples.gpt import FACTS, Samples
from dataeff.samples.pairs import PairSamples
from dataeff.samples.tokens import open_tokens
from dataeff.study.specs import SamplesSpec

__all__ = [
    "FACTS",
    "BucketSamples",
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
    "open_gpt",
    "open_samples",
    "open_tokens",
]


def build(spec: SamplesSpec, prefixes: Sequence[Path], out: Path, train_samples: int | None = None) -> None:
    """Writes the sample index of the spec's family and layout to the folder `out`."""
    if spec.layout == "buckets":
        buckets.build(spec, prefixes, out)
    elif not TRAITS[spec.family].sentence_pairs:
        gpt.build(spec, prefixes, out, train_samples)
    else:
        pairs.build(spec, prefixes, out)


def open_samples(folder: Path, prefixes: Sequence[Path], special: SpecialIds | None = None) -> Samples | PairSamples:
    """The samples of an index folder, all of one length; sentence pairs need the ids that frame them."""
    facts = read_json(Path(folder) / FACTS)
    if _in_buckets(facts):
        raise DataeffError(
            f"{folder}: samples of several lengths, in buckets; difficulty is compared between samples of one length: "
            f"give the folder of those"
        )
    if isinstance(facts, dict) and facts.get("family") == "bert":
        if special is None:
            raise DataeffError(f"{folder}: sentence pairs need the ids of [CLS], [SEP] and [PAD]; pass --tokenizer")
        return PairSamples(folder, prefixes, special)
    return Samples(folder, prefixes)


def open_gpt(folder: Path, prefixes: Sequence[Path]) -> Samples | BucketSamples:
    """The GPT samples of an index folder, of one length or in buckets."""
    in_buckets = _in_buckets(read_json(Path(folder) / FACTS))
    return BucketSamples(folder, prefixes) if in_buckets else Samples(folder, prefixes)


def _in_buckets(facts: Any) -> bool:
    return isinstance(facts, dict) and facts.get("layout") == BUCKETS
