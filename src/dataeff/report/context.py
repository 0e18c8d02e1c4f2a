"""Everything that the page's template shows, gathered from the grid's results, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dataeff.claims import Claims
from dataeff.families.traits import TRAITS
from dataeff.figures.part import WORDS
from dataeff.provenance import Machine
from dataeff.report import GRID_NAME, claims_beside
from dataeff.report.curves import curves_of
from dataeff.report.evidence import run_facts
from dataeff.report.pictures import main_picture, pictures_of, samples_of
from dataeff.report.shown import claims_shown, tables_of, verdicts
from dataeff.report.texts import card_of, tokens_of
from dataeff.study.specs import GridSpec
from dataeff.tables.results import RunResult, percent, read_runs, seed_counts
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM, seeds_in_words

RESULTS = ("saving", "quality")
"""The tables of the first part, in this order; `published` and `time` have parts of their own."""
APART = ("published", "time")


def context(
    spec: GridSpec,
    results: Path,
    corpus: Path,
    tokens: Sequence[Path],
    tables: Path,
    figures: Path,
    out: Path,
    claims: Claims,
) -> dict[str, Any]:
    """The template's variables."""
    runs = read_runs(spec, results)
    families = list(dict.fromkeys(run.family for run in spec.runs))
    shown = tables_of(tables, spec.runs, out.parent)
    pictures = pictures_of(figures, out.parent)
    judged = claims_shown(claims, spec.runs, several_families=len(families) > 1)
    return {
        "spec": spec,
        "claims": judged,
        "headlines": [claim for claim in judged if claim["headline"]],
        "verdicts": verdicts(judged),
        "claims_link": claims_beside(out).name,
        "claim_notes": claims.notes,
        "results": {name: shown[name] for name in RESULTS if name in shown},
        "published": shown["published"],
        "time": shown["time"],
        "details": {name: table for name, table in shown.items() if name not in (*RESULTS, *APART)},
        "main_figure": main_picture(pictures),
        "figures": pictures,
        "samples": samples_of(figures),
        "curves": curves_of(spec, runs, results, claims),
        "card": card_of(corpus),
        "tokens": tokens_of(tokens),
        "runs": [run_facts(result, results, out.parent) for result in runs],
        "parameters": {result.run.family: result.training.parameters for result in runs},
        "amounts": _amounts(spec),
        "seeds_in_words": seeds_in_words(seed_counts(spec.runs)),
        "seeds": sorted({run.seed for run in spec.runs}),
        "seeds_for_a_claim": SEEDS_FOR_A_CLAIM,
        "hardware": _different(Machine.model_validate(result.training.hardware).in_words() for result in runs),
        "made_with": _made_with(runs),
        "about": _abouts(spec),
        "loss_words": _loss_words(spec),
        "family": families[0],
        "papers_trained": _papers_trained(spec),
        "other_pages": other_pages(out),
    }


def other_pages(out: Path) -> list[dict[str, str]]:
    """The pages of other grids that stand beside this one, by the grid that each says it is of."""
    found = []
    for page in sorted(out.parent.glob("*.html")):
        if page.name != out.name and (grid := grid_of_page(page)):
            found.append({"link": page.name, "grid": grid})
    return found


def grid_of_page(page: Path) -> str | None:
    """The grid that a page names in its head; None of a page that is not one of these."""
    with page.open(encoding="utf-8") as stream:
        named = re.search(rf'<meta name="{GRID_NAME}" content="([^"]+)">', stream.read(2000))
    return named[1] if named else None


def _amounts(spec: GridSpec) -> list[str]:
    """The amounts of data, most first."""
    return [percent(data) for data in sorted({run.data for run in spec.runs}, reverse=True)]


def _different(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _made_with(runs: Sequence[RunResult]) -> dict[str, list[str]]:
    """Every different software, hardware and commit among the runs: usually one of each."""
    software = [", ".join(f"{name} {version}" for name, version in run.training.software.items()) for run in runs]
    return {
        "Software": _different(software),
        "Hardware": _different(Machine.model_validate(run.training.hardware).in_words() for run in runs),
        "Commit": _different(run.training.commit or "not in a git checkout" for run in runs),
    }


def _loss_words(spec: GridSpec) -> dict[str, str]:
    """Of the column of losses in "what ran": its heading and, where it holds two families', what they are."""
    families = list(dict.fromkeys(run.family for run in spec.runs))
    if len(families) == 1:
        return {"heading": f"held-out loss ({WORDS[families[0]].loss_unit})", "note": ""}
    units = " and ".join(f"{WORDS[family].family} in {WORDS[family].loss_unit}" for family in families)
    note = f"Held-out loss: of {units}. These are different tasks: compare within a family only."
    return {"heading": "held-out loss (nats)", "note": note}


def _papers_trained(spec: GridSpec) -> str:
    return " and ".join(traits.published_model for family, traits in TRAITS.items() if family in spec.models)


def _abouts(spec: GridSpec) -> list[tuple[str, str]]:
    """(variant, what it is), in the grid's order; with its family where there are several."""
    several = len({run.family for run in spec.runs}) > 1
    named = {(run.family, run.variant): spec.variants[run.family][run.variant].about for run in spec.runs}
    return [(f"{family} {variant}" if several else variant, about) for (family, variant), about in named.items()]
