"""The reproduction statement: each claim with its verdict and evidence, from a built folder into documents people read.

README.md and docs/reproduction.md each have a part between two marks, which this writes and nobody edits: the numbers
there are those of claims.json, and every run that stands behind one is listed with its spec, files and commit.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from dataeff.claims import FILE, Claim, Claims, Verdict, read_claims
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_if_changed
from dataeff.measured.build import grids_in
from dataeff.measured.collect import FACTS
from dataeff.provenance import Machine
from dataeff.report.evidence import link
from dataeff.report.pictures import main_picture_of
from dataeff.study.specs import GridSpec, read_spec
from dataeff.tables.results import RunResult, percent, read_runs, seed_counts
from dataeff.tables.statistics import seeds_in_words

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="results/measured/{scale}, built")
    parser.add_argument("--summary", type=Path, required=True, metavar="README.md", help="gets the headline claims")
    parser.add_argument("--document", type=Path, required=True, help="docs/reproduction.md: gets all claims and runs")


def run(args: argparse.Namespace) -> None:
    texts = {path: _part(path) for path in (args.summary, args.document)}
    made = {args.summary: summary(args.folder, args.summary), args.document: statement(args.folder, args.document)}
    for path, (before, after) in texts.items():
        changed = write_if_changed(path, f"{before}{BEGIN}\n{made[path]}{END}{after}")
        print(f"{path}: {'written' if changed else 'up to date'}")


def _part(path: Path) -> tuple[str, str]:
    """What stands before and after the part between the marks."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataeffError(f"{path}: no such file; write it with the lines {BEGIN} and {END}") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataeffError(f"{path}: needs the lines {BEGIN} and {END}, once each and in this order")
    return text.partition(BEGIN)[0], text.partition(END)[2]


def summary(folder: Path, document: Path) -> str:
    """The headline claims and the main figure, in Markdown; links as seen from `document`."""
    spec, claims, facts = _built(folder)
    lines = [
        f"Scale `{spec.scale_name}` ({spec.scale_about}): {_size(spec, facts)}. Of the papers' {len(claims.claims)} "
        f"statements that these runs speak of, {_counts(claims)}.",
        "",
        *(
            f"- **{claim.verdict[0].upper()}{claim.verdict[1:]}.** {claim.text}{_papers(claim)}"
            for claim in _first(claims)
        ),
        "",
    ]
    picture = main_picture_of(folder / "figures" / spec.grid)
    if picture:
        file, title, caption = picture
        lines += [f"![{title}]({link(file, document.parent)})", "", f"{title}. {caption}", ""]
    return "\n".join(lines) + "\n"


def statement(folder: Path, document: Path) -> str:
    """Every claim with its evidence, and every run, in Markdown; links as seen from `document`."""
    spec, claims, facts = _built(folder)
    runs = read_runs(spec, folder)
    base = document.parent
    parts = [
        f"## Scale `{spec.scale_name}`, grid `{spec.grid}`",
        "",
        f"{spec.scale_about[0].upper()}{spec.scale_about[1:]}. {_size(spec, facts)}. Made by `{facts['command']}`; "
        f"{_words(Machine.model_validate(machine).in_words() for machine in facts['hardware'])}; "
        f"{_words(_software(found) for found in facts['software'])}; "
        f"commit{'s' if len(facts['commit']) > 1 else ''} {_words(f'`{found}`' for found in facts['commit'])}.",
        "",
        f"Files: {_files(folder, spec, base)}.",
        "",
        f"**{_counts(claims)[0].upper()}{_counts(claims)[1:]}.**",
        "",
        "| the papers | verdict | here | why | runs |",
        "|---|---|---|---|---|",
        *(_claim(claim, {result.run.name: result for result in runs}) for claim in claims.claims),
        "",
        *(line for note in claims.notes for line in (note, "")),
        "### Runs",
        "",
        "| run | held-out loss | effective tokens | training (s) | files | commit |",
        "|---|---:|---:|---:|---|---|",
        *_run_rows(runs, folder, base),
        "",
    ]
    return "\n".join(parts)


def _built(folder: Path) -> tuple[GridSpec, Claims, dict[str, Any]]:
    specs = grids_in(folder)
    if len(specs) != 1 or not (folder / FACTS).is_file():
        raise DataeffError(f"{folder}: not the folder of one collected grid; make one by `dataeff measured collect`")
    spec = read_spec(specs[0], GridSpec)
    tables = folder / "tables" / spec.grid
    if not (tables / FILE).is_file():
        raise DataeffError(f"{tables / FILE}: no such file; run `dataeff measured build {folder}` first")
    return spec, read_claims(tables), read_json(folder / FACTS)


def _size(spec: GridSpec, facts: dict[str, Any]) -> str:
    millions = facts["effective_tokens"] / 1e6
    return (
        f"{facts['runs']} runs, {seeds_in_words(seed_counts(spec.runs))}, {millions:,.1f} million effective "
        f"tokens, {facts['training_hours']:.1f} hours of training"
    )


def _counts(claims: Claims) -> str:
    found = Counter(claim.verdict for claim in claims.claims)
    words = {
        "holds": ("holds", "hold"),
        "does not hold": ("does not", "do not"),
        "cannot be told": ("cannot be told",) * 2,
    }
    return ", ".join(f"{found[name]} {words[name][found[name] != 1]}" for name in get_args(Verdict))


def _first(claims: Claims) -> list[Claim]:
    return [claim for claim in claims.claims if claim.headline]


def _papers(claim: Claim) -> str:
    return f" *The papers: {claim.published.rstrip('.')} ({claim.source}).*" if claim.published else ""


def _claim(claim: Claim, runs: dict[str, RunResult]) -> str:
    cells = [
        f"{_cell(claim.published.rstrip('.')) or '–'}{f' ({_cell(claim.source)})' if claim.source else ''}",
        f"**{claim.verdict}**",
        _cell(claim.text),
        _cell(claim.reason),
        _behind([runs[name] for name in claim.runs]),
    ]
    return f"| {' | '.join(cells)} |"


def _behind(runs: Sequence[RunResult]) -> str:
    """Variants with their amounts of data, each leading to its first run in the table of runs."""
    amounts: dict[tuple[str, str], list[str]] = {}
    for result in runs:
        found = amounts.setdefault((result.run.family, result.run.variant), [])
        if percent(result.run.data) not in found:
            found.append(percent(result.run.data))
    return "; ".join(
        f"[{variant}](#{_anchor(family, variant)}) {', '.join(data)}" for (family, variant), data in amounts.items()
    )


def _anchor(family: str, variant: str) -> str:
    return f"runs-{family}-{variant}"


def _run_rows(runs: Sequence[RunResult], folder: Path, base: Path) -> list[str]:
    rows, seen = [], set()
    order = list(dict.fromkeys((result.run.family, result.run.variant) for result in runs))
    for result in sorted(runs, key=lambda found: order.index((found.run.family, found.run.variant))):
        anchor, name = _anchor(result.run.family, result.run.variant), result.run.name
        mark = "" if anchor in seen else f'<a id="{anchor}"></a>'
        seen.add(anchor)
        files = {
            "spec": folder / "specs" / "pretrain" / f"{name}.yaml",
            "run": folder / "pretrain" / name / "run.json",
            "metrics": folder / "pretrain" / name / "metrics.jsonl",
            "held-out": folder / "evaluate" / name / "heldout.json",
            "log": folder / "logs" / "pretrain" / f"{name}.log",
        }
        links = ", ".join(f"[{text}]({link(file, base)})" for text, file in files.items() if file.exists())
        cells = [
            f"{mark}{name}",
            f"{result.heldout.loss:.4f}",
            f"{result.training.effective_tokens:,}",
            f"{result.timings.training_seconds:,.0f}",
            links,
            f"`{(result.training.commit or 'none')[:12]}`",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _files(folder: Path, spec: GridSpec, base: Path) -> str:
    found = {
        "page": folder / "report" / "index.html",
        "claims as JSON": folder / "tables" / spec.grid / FILE,
        "tables": folder / "tables" / spec.grid,
        "figures": folder / "figures" / spec.grid,
        "what was run": folder / FACTS,
    }
    return ", ".join(f"[{text}]({link(path, base)})" for text, path in found.items() if path.exists())


def _software(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _words(texts: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(texts))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
