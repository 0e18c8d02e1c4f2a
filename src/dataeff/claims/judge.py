"""The papers' statements judged by a grid's runs: holds, does not hold, or cannot be told.

The rule is the same for all and stands in the code: a 95% interval over three seeds or more, paired by seed,
that lies on one side of the statement's limit. Which side decides; an interval that holds the limit, fewer seeds, too
few amounts of data or absent runs leave the statement undecided, whatever the value.

Many statements are judged at once, each at 95% of its own: of twenty whose truth is the limit itself, one would be
decided by chance. So each reason adds whether it also stands after Holm's correction over all that are tested
in the grid, and the notes say how many were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dataeff.claims.claim import Claim, Claims, Verdict
from dataeff.claims.evidence import Evidence
from dataeff.claims.statements import Statement, statements_of
from dataeff.study.specs import GridSpec
from dataeff.tables.results import RunResult
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, holm, p_of

LEVEL = 0.05
MOST_HEADLINES = 4


def judged(spec: GridSpec, runs: Sequence[RunResult]) -> Claims:
    """Every statement on the families of a grid, the headline ones first."""
    families = list(dict.fromkeys(run.family for run in spec.runs))
    found = [(statement, statement.measure(runs)) for statement in statements_of(families, runs)]
    p_values = {statement.key: p for statement, evidence in found if (p := p_value(evidence)) is not None}
    adjusted = holm(p_values)
    claims = [_claim(statement, evidence, adjusted) for statement, evidence in found]
    first = _headlines([statement for statement, _ in found], claims)
    ordered = [claim.model_copy(update={"headline": True}) for claim in first]
    ordered += [claim for claim in claims if claim not in first]
    return Claims(grid=spec.grid, scale=spec.scale_name, claims=ordered, notes=_notes(spec, claims, p_values, adjusted))


def p_value(evidence: Evidence) -> float | None:
    """Of the test that the limit is the truth; of several comparisons that must all hold, the largest."""
    if evidence.missing:
        return None
    found = [p_of(tested) for tested in evidence.tested]
    known = [p for p in found if p is not None]
    return max(known) if known and len(known) == len(found) else None


def verdict(evidence: Evidence) -> Verdict:
    """By the rule of this module."""
    ends = [tested.ends for tested in evidence.tested]
    known = [end for end in ends if end is not None]
    if evidence.missing or not known or len(known) < len(ends):
        return "cannot be told"
    if all(high < 0 for _, high in known):
        return "holds"
    return "does not hold" if any(low > 0 for low, _ in known) else "cannot be told"


def _claim(statement: Statement, evidence: Evidence, adjusted: Mapping[str, float]) -> Claim:
    return Claim(
        key=statement.key,
        family=statement.family,
        variant=statement.variant,
        text=_text(evidence),
        published=statement.published,
        source=statement.source,
        verdict=verdict(evidence),
        reason=_reason(statement, evidence, adjusted),
        measure=evidence.measure,
        unit=evidence.unit,
        value=evidence.value,
        low=evidence.low,
        high=evidence.high,
        seeds=evidence.seeds,
        runs=list(evidence.runs),
    )


def _text(evidence: Evidence) -> str:
    """The sentence with interval and seeds; where nothing was measured, that."""
    if not evidence.text:
        return f"Not measured: {evidence.missing}."
    seeds = f"{evidence.seeds} seed{'s' if evidence.seeds != 1 else ''}"
    interval = "no interval"
    if evidence.low is not None and evidence.high is not None:
        interval = f"95% interval {_number(evidence.low, evidence)} to {_number(evidence.high, evidence)}"
    text = f"{evidence.text} ({interval}, {seeds})."
    return text[0].upper() + text[1:]


def _number(value: float, evidence: Evidence) -> str:
    if evidence.unit.startswith("%"):
        return f"{value:.1f}%"
    return f"{value:+.{4 if evidence.unit == 'nats' else 2}f}".replace("-", "−")


def _reason(statement: Statement, evidence: Evidence, adjusted: Mapping[str, float]) -> str:
    rule = f"Rule: {statement.rule}."
    if evidence.missing:
        return f"{_sentence(evidence.missing)} {rule}"
    if evidence.seeds < SEEDS_FOR_A_CLAIM:
        few = f"{evidence.seeds} seed{'s' if evidence.seeds != 1 else ''}"
        return f"{few}: no interval, which takes {SEEDS_FOR_A_CLAIM}. {rule}"
    if verdict(evidence) == "cannot be told":
        why = "The interval holds the limit" if evidence.tested else "The limit lies outside of what was run"
        several = len(evidence.tested) > 1
        return f"{'Not every interval lies on one side of the limit' if several else why}. {rule}"
    p = adjusted[statement.key]
    stands = "also" if p < LEVEL else "not"
    side = "for" if verdict(evidence) == "holds" else "against"
    return (
        f"The interval lies on the side that speaks {side} it; {stands} so after Holm's correction over "
        f"{len(adjusted)} tests (p = {p:.2g}). {rule}"
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _headlines(statements: Sequence[Statement], claims: Sequence[Claim]) -> list[Claim]:
    """The first of the ranked claims that have a value, or the first at all; a number of both families is shown."""
    ranked = [
        (claim.value is None and claim.verdict == "cannot be told", statement.rank, place, claim)
        for place, (statement, claim) in enumerate(zip(statements, claims, strict=True))
        if statement.rank is not None
    ]
    measured = [entry for entry in sorted(ranked, key=lambda entry: entry[:3]) if not entry[0]]
    return [entry[3] for entry in measured[:MOST_HEADLINES] or sorted(ranked, key=lambda entry: entry[:3])[:1]]


def _notes(
    spec: GridSpec, claims: Sequence[Claim], p_values: Mapping[str, float], adjusted: Mapping[str, float]
) -> list[str]:
    decided = [claim for claim in claims if claim.verdict != "cannot be told"]
    stand = sum(adjusted[claim.key] < LEVEL for claim in decided)
    lines = [
        f"A statement holds or does not hold where its 95% interval over {SEEDS_FOR_A_CLAIM} seeds or more, paired by "
        "seed, lies on one side of a limit that the code states; everything else cannot be told. Quality is "
        "the held-out loss unless said otherwise; the papers' is an average over tasks, of models a thousand times "
        "larger and more."
    ]
    if p_values:
        lines.append(
            f"{len(p_values)} tests were made at 5% each, of which {LEVEL * len(p_values):.1f} would decide something "
            f"by chance were there no effects at all. {len(decided)} decided; {stand} of them stand after Holm's "
            "correction for all."
        )
    counts = ", ".join(f"{count} of {kind}" for kind, count in spec.published.not_reproduced.items())
    return [*lines, *([f"Not judged, since no such model is trained here: {counts}."] if counts else [])]
