"""From the results of a finished grid to a folder that can be committed: specs, plans, metrics, scores, times, logs.

What grows with a run's length is thinned (steps of the plan, rows of the metrics), what grows with the corpus too (the
sorted difficulties); no number that a table holds is touched. What curricula have shown is gathered,
with a few samples as text; weights, checkpoints and all other text stay behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataeff.errors import DataeffError
from dataeff.families.traits import TRAITS
from dataeff.figures.difficulty import selection_indexes, sorted_values
from dataeff.figures.seen import gathered_path, read_or_gather
from dataeff.files import atomic_directory, read_json, write_json, write_manifest, write_text
from dataeff.study.specs import GridSpec, read_spec, write_spec
from dataeff.study.types import Run

MOST_ROWS = 1500
"""Of a plan's steps."""
MOST_METRICS = 60
"""Rows of a run's metrics beside those with a held-out loss."""
MOST_SAMPLES = 2000
"""Of a sorted difficulty index."""
FACTS = "measured.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", type=Path, required=True, help="results/{scale}/specs/grid/{grid}.yaml")
    parser.add_argument("--results", type=Path, required=True, help="results/{scale}")
    parser.add_argument("--data", type=Path, required=True, help="results/data/{corpus}")
    parser.add_argument("--out", type=Path, required=True, help="results/measured/{scale}; replaced if it is there")
    parser.add_argument("--made-by", required=True, help="the command that made the results, to be kept with them")


def run(args: argparse.Namespace) -> None:
    spec = read_spec(args.spec, GridSpec)
    collect(spec, args.results, args.data, args.out, args.made_by)
    print(f"{args.out}: {len(spec.runs)} runs of grid {spec.grid}; next: dataeff measured build {args.out}")


def collect(spec: GridSpec, results: Path, data: Path, out: Path, command: str) -> None:
    """Writes the folder `out`, whole, from `results` (results/{scale}) and `data` (results/data/{corpus}).

    `command`: what made the results, for people. Raises a DataeffError where a run of the grid is not finished.
    """
    with atomic_directory(out) as folder:
        own = [file for run in spec.runs for file in _files_of(run, results)]
        for name in own:
            _copy(results / name, folder / name)
        for run in spec.runs:
            _thin_plan(results / "plan" / run.name, folder / "plan" / run.name)
            _thin_metrics(results / "pretrain" / run.name, folder / "pretrain" / run.name)
        for stage in sorted((results / "benchmarks").glob("*/*.tsv")):
            if _is_of(stage.stem, spec):
                _copy(stage, folder / stage.relative_to(results))
        _collect_data(spec, data, folder / "data" / data.name)
        seen = read_or_gather(spec, results, data)
        if seen is not None:
            write_json(gathered_path(folder, spec), seen.model_dump(mode="json"))
        write_spec(folder / f"specs/grid/{spec.grid}.yaml", spec)
        write_json(folder / FACTS, _facts(spec, results, command))
        write_manifest(folder)


def _files_of(run: Run, results: Path) -> Iterator[str]:
    """What is copied as it is."""
    yield from (f"specs/{stage}/{run.name}.yaml" for stage in ("plan", "pretrain"))
    yield from (f"pretrain/{run.name}/{name}" for name in ("run.json", "timings.json"))
    yield f"evaluate/{run.name}/heldout.json"
    stage = "evaluate" if TRAITS[run.family].prompted else "finetune"
    for kind in ("scores.json", "items.jsonl.zst"):
        yield from (str(file.relative_to(results)) for file in sorted((results / stage / run.name).rglob(kind)))
    if (results / f"logs/pretrain/{run.name}.log").is_file():
        yield f"logs/pretrain/{run.name}.log"


def _is_of(stem: str, spec: GridSpec) -> bool:
    """Whether a benchmark file is of one of the grid's runs, or of no run at all."""
    names = {run.name for run in spec.runs}
    return any(stem == name or stem.startswith(f"{name}-") for name in names) or "-s" not in stem


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DataeffError(f"{source}: no such file; finish the grid first, then collect it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _thin_plan(source: Path, target: Path) -> None:
    import pyarrow.parquet as pq

    _copy(source / "plan.json", target / "plan.json")
    table = pq.read_table(source / "steps.parquet")
    pq.write_table(table.take(evenly(table.num_rows, MOST_ROWS)), target / "steps.parquet", compression="zstd")


def _thin_metrics(source: Path, target: Path) -> None:
    lines = (source / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    some = set(evenly(len(lines), MOST_METRICS))
    kept = [line for place, line in enumerate(lines) if place in some or "heldout_loss" in json.loads(line)]
    write_text(target / "metrics.jsonl", "".join(f"{line}\n" for line in kept))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 to count - 1 (`most` at least 2), the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _collect_data(spec: GridSpec, data: Path, target: Path) -> None:
    """The corpus's card, the tokens by domain, and the difficulties that runs selected by, sorted."""
    import numpy as np

    _copy(data / "corpus.json", target / "corpus.json")
    for tokenizer in dict.fromkeys(spec.tokenizers[run.family] for run in spec.runs):
        for file in sorted((data / tokenizer / "tokens").glob("*.json")):
            _copy(file, target / file.relative_to(data))
    for file in sorted(data.glob("**/benchmarks/*.tsv")):
        _copy(file, target / file.relative_to(data))
    for file in sorted((data.parent / "sources" / "benchmarks").glob("*.tsv")):
        _copy(file, target.parent / file.relative_to(data.parent))
    for folder in selection_indexes(spec, data).values():
        values = sorted_values(folder)
        values = values[evenly(len(values), MOST_SAMPLES)]
        place = target / folder.relative_to(data)
        place.mkdir(parents=True)
        np.save(place / "value.npy", values)
        np.save(place / "order.npy", np.arange(len(values)))


def _facts(spec: GridSpec, results: Path, command: str) -> dict[str, Any]:
    """What was run, how, on what, and what it took."""
    runs = [read_json(results / "pretrain" / run.name / "run.json") for run in spec.runs]
    times = [read_json(results / "pretrain" / run.name / "timings.json") for run in spec.runs]
    return {
        "scale": spec.scale_name,
        "grid": spec.grid,
        "command": command,
        "runs": len(runs),
        "seeds": sorted({run.seed for run in spec.runs}),
        "raw_tokens": sum(run["raw_tokens"] for run in runs),
        "effective_tokens": sum(run["effective_tokens"] for run in runs),
        "training_hours": round(sum(time["training_seconds"] for time in times) / 3600, 3),
        **{key: _different(run[key] for run in runs) for key in ("hardware", "software", "commit")},
    }


def _different(values: Iterator[Mapping[str, Any] | str | None]) -> Sequence[Any]:
    """Every different one, in order: usually one."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
