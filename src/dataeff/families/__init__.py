"""What differs between model families: samples, model, how a batch is cut, loss, measures. Nothing else asks which."""

from __future__ import annotations

from dataeff.errors import unknown_name
from dataeff.families.interface import Family
from dataeff.families.traits import TRAITS, Traits
from dataeff.study.base import FamilyName


def find_family(name: FamilyName) -> type[Family]:
    """The class of a family; an object of it, for a tokenizer, is what stages work with."""
    from dataeff.families.bert import Bert
    from dataeff.families.gpt import Gpt

    families: dict[str, type[Family]] = {"gpt": Gpt, "bert": Bert}
    if name not in families:
        raise unknown_name("family", name, families, "run.family")
    return families[name]


__all__ = ["TRAITS", "Family", "Traits", "find_family"]
