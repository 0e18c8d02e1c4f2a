"""The report: tables, figures and facts of a grid's runs -> one HTML page that needs nothing beside it.

A person opens it, or sends it on: styles, script and pictures are inside, and no address outside is loaded. Links
to the runs' own files are relative and work where the results folder is. Numbers come from the tables stage; the
page formats and never computes them.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.figures import CAPTIONS
from dataeff.figures.part import WORDS
from dataeff.files import read_json, write_text
from dataeff.study.specs import GridSpec
from dataeff.tables.results import RunResult, percent, read_runs
from dataeff.tables.statistics import SEEDS_FOR_A_CLAIM
from dataeff.tables.table import Table, mark_of, read_table, value_text

TABLES = ("quality", "published", "heldout_by_domain", "tasks", "time")


def build(
    spec: GridSpec, results: Path, corpus: Path, tokens: Sequence[Path], tables: Path, figures: Path, out: Path
) -> None:
    """Writes the page `out` from results/{scale}, the corpus's data card, the facts of its token files
    ({tokenizer}/tokens/{shard}.json) and the grid's tables and figures.
    """
    from jinja2 import Environment, StrictUndefined

    runs = read_runs(spec, results)
    templates = files("dataeff") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string((templates / "report.html.j2").read_text(encoding="utf-8"))
    text = page.render(
        spec=spec,
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=(templates / "report.js").read_text(encoding="utf-8"),
        tables={name: _shown(read_table(tables, name)) for name in TABLES},
        figures=_pictures(figures, out.parent),
        card=_card(corpus),
        tokens=_tokens(tokens),
        runs=[_run_facts(result, results, out.parent) for result in runs],
        parameters={result.run.family: result.training.parameters for result in runs},
        seeds=sorted({run.seed for run in spec.runs}),
        seeds_for_a_claim=SEEDS_FOR_A_CLAIM,
        made_with=_made_with(runs),
        about=_abouts(spec),
        loss_words=_loss_words(spec),
        family=spec.runs[0].family,
        papers_trained=_papers_trained(spec),
    )
    write_text(out, text)


def _shown(table: Table) -> dict[str, Any]:
    """A table's cells as texts, with the plain value beside each for sorting."""
    sections = []
    of_one_family = len({row.get("family") for row in table.rows}) == 1
    for name, title in table.filled_sections().items():
        one_family = of_one_family or name in table.families
        columns = [column for column in table.shown_in(name) if not (one_family and column.key == "family")]
        rows = [
            [
                {
                    "text": value_text(column, row),
                    "mark": mark_of(column, row),
                    "value": row.get(column.key),
                    "number": column.digits is not None,
                }
                for column in columns
            ]
            for row in table.rows_in(name)
        ]
        headings = [{"text": column.heading, "number": column.digits is not None} for column in columns]
        sections.append({"title": title, "headings": headings, "rows": rows})
    return {"title": table.title, "headline": table.headline, "sections": sections, "notes": table.notes}


def _link(path: Path, page_folder: Path) -> str:
    """The path as seen from the page."""
    return Path(os.path.relpath(path, page_folder)).as_posix()


def _pictures(folder: Path, page_folder: Path) -> list[dict[str, str]]:
    """The figures in the order in which they were drawn, each as a data URI."""
    pictures = []
    for name, words in read_json(folder / CAPTIONS).items():
        file = folder / f"{name}.png"
        if not file.is_file():
            raise DataeffError(f"{file}: no such file; delete {folder} and run `dataeff figures` again")
        data = base64.b64encode(file.read_bytes()).decode()
        print_link = _link(folder / f"{name}.pdf", page_folder)
        pictures.append({"name": name, "uri": f"data:image/png;base64,{data}", "pdf": print_link, **words})
    return pictures


def _card(path: Path) -> dict[str, Any]:
    """The corpus's data card: what each domain is, and from where."""
    card = read_json(path)
    try:
        sources = [
            {
                "name": name,
                "domain": source["domain"],
                "about": source["about"],
                "licence": source["licence"],
                "stands_in_for": source["stands_in_for"],
                "training": source["training"],
                "heldout": source["heldout"],
                "dropped": _dropped(source["dropped"]),
            }
            for name, source in card["sources"].items()
        ]
        facts = {key: card[key] for key in ("corpus", "about", "training", "heldout")}
    except KeyError as error:
        raise DataeffError(f"{path}: no key {error}; run `dataeff corpus build` again") from None
    return {**facts, "sources": sources, "domains": len({source["domain"] for source in sources})}


def _tokens(files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Per tokenizer: documents, tokens and share of the tokens of each domain, over all shards."""
    found: dict[str, Counter[str]] = {}
    documents: dict[str, Counter[str]] = {}
    for file in files:
        tokenizer = file.parents[1].name
        for domain, facts in read_json(file)["domains"].items():
            found.setdefault(tokenizer, Counter())[domain] += facts["tokens"]
            documents.setdefault(tokenizer, Counter())[domain] += facts["documents"]
    return {
        tokenizer: {
            "total": counts.total(),
            "domains": [
                {
                    "name": domain,
                    "documents": documents[tokenizer][domain],
                    "tokens": tokens,
                    "share": tokens / max(1, counts.total()),
                }
                for domain, tokens in counts.most_common()
            ],
        }
        for tokenizer, counts in found.items()
    }


def _dropped(counts: dict[str, int]) -> str:
    """Why documents of a source were left out, and how many."""
    return ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in counts.items() if count) or "–"


def _run_facts(result: RunResult, results: Path, page_folder: Path) -> dict[str, Any]:
    """One row of "what ran", with links to the run's own files as seen from the page."""
    name = result.training.name
    up = _link(results, page_folder)
    links = {
        "spec": f"{up}/specs/pretrain/{name}.yaml",
        "plan": f"{up}/plan/{name}/plan.json",
        "metrics": f"{up}/pretrain/{name}/metrics.jsonl",
        "log": f"{up}/logs/pretrain/{name}.log",
        "held-out": f"{up}/evaluate/{name}/heldout.json",
        **{
            f"{group} {shots}-shot": f"{up}/evaluate/{name}/{group}/{shots}shot/scores.json"
            for shots, tasks in result.tasks.items()
            for group in dict.fromkeys(score.group for score in tasks.values())
        },
        **{task: f"{up}/finetune/{name}/{task}/scores.json" for task in result.finetuned},
    }
    return {
        "name": name,
        "data": percent(result.run.data),
        "steps": result.training.steps,
        "raw": result.training.raw_tokens,
        "effective": result.training.effective_tokens,
        "epochs": result.training.epochs,
        "loss": result.heldout.loss,
        "digest": result.training.spec_digest[:12],
        "links": links,
    }


def _made_with(runs: list[RunResult]) -> dict[str, list[str]]:
    """Every different software, hardware and commit among the runs: usually one of each."""

    def different(texts: list[str]) -> list[str]:
        return list(dict.fromkeys(texts))

    def words(facts: dict[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)

    return {
        "Software": different([words(run.training.software) for run in runs]),
        "Hardware": different([words(run.training.hardware) for run in runs]),
        "Commit": different([run.training.commit or "not in a git checkout" for run in runs]),
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
