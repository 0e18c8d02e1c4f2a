"""The runs of one family, and the words for what it measures: no figure shows two families on one axis.

A GPT predicts every token from those before it, a BERT the masked ones from both sides: their losses are of
different tasks. In a grid of both, each figure is drawn once a family and carries its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from dataeff.families.traits import TRAITS
from dataeff.study.base import FamilyName
from dataeff.tables.results import Group, RunResult, bits_per_byte, group_by_seed
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, seeds_in_words


@dataclass(frozen=True)
class Words:
    """How a family's measures are called: of all held-out text, of one domain, and of the probe during training."""

    family: str
    loss_unit: str
    domain_measure: str
    domain_unit: str
    probe: str


WORDS: dict[FamilyName, Words] = {
    "gpt": Words(
        family=TRAITS["gpt"].title,
        loss_unit=f"nats/{TRAITS['gpt'].predicts}",
        domain_measure="bits per byte",
        domain_unit="bits per byte",
        probe="Loss on a fixed probe of held-out text at full length",
    ),
    "bert": Words(
        family=TRAITS["bert"].title,
        loss_unit=f"nats/{TRAITS['bert'].predicts}",
        domain_measure="loss of the masked tokens",
        domain_unit="nats/masked token",
        probe="Loss of the masked tokens on a fixed probe of held-out sentence pairs at full length",
    ),
}


@dataclass(frozen=True)
class Part:
    """One family's runs in the grid; `alone` if the grid has no other family."""

    family: FamilyName
    runs: list[RunResult]
    alone: bool

    @property
    def words(self) -> Words:
        return WORDS[self.family]

    @property
    def groups(self) -> list[Group]:
        """The runs gathered over seeds: most data first, variants in the grid's order."""
        found = group_by_seed(self.runs)
        order = list(dict.fromkeys(group.variant for group in found))
        return sorted(found, key=lambda group: (-group.data, order.index(group.variant)))

    def name(self, figure: str) -> str:
        return figure if self.alone else f"{figure}_{self.family}"

    def title(self, text: str) -> str:
        return text if self.alone else f"{self.words.family}: {text[:1].lower()}{text[1:]}"


def parts_of(runs: Sequence[RunResult]) -> list[Part]:
    families = list(dict.fromkeys(result.run.family for result in runs))
    return [
        Part(family, [result for result in runs if result.run.family == family], alone=len(families) == 1)
        for family in families
    ]


def by_data(groups: Sequence[Group]) -> dict[Fraction, list[Group]]:
    """The groups of each data fraction, in the order given."""
    found: dict[Fraction, list[Group]] = {}
    for group in groups:
        found.setdefault(group.data, []).append(group)
    return found


def variants_of(groups: Sequence[Group], all_groups: Sequence[Group]) -> list[str]:
    """The variants among `groups`, in the order in which `all_groups` first names them."""
    shown = {group.variant for group in groups}
    return [name for name in dict.fromkeys(group.variant for group in all_groups) if name in shown]


def overall(result: RunResult) -> float:
    """Held-out loss over all domains, in the family's unit."""
    return result.heldout.loss


def in_domain(domain: str, result: RunResult) -> float:
    """What a domain is compared by: bits per byte, which does not depend on how its text is cut into tokens, or the
    loss of its masked tokens.
    """
    found = result.domains[domain]
    bits = bits_per_byte(found)
    return found.loss if bits is None else bits


def seeds_text(groups: Sequence[Group], mark: str) -> str:
    """How many runs stand behind a `mark` of a figure, and what that allows."""
    counts = {len(group.results) for group in groups}
    seeds = seeds_in_words(counts)
    if min(counts) < SEEDS_FOR_A_CLAIM:
        return (
            f"{seeds} a {mark}: no interval can be given where there are fewer than {SEEDS_FOR_A_CLAIM}, and no "
            "claim is made."
        )
    return f"{seeds} a {mark}."
