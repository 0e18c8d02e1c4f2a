"""figures: the result files of a grid's runs -> PDF (for print) and PNG (for the report), with their captions.

Each figure comes from result files alone, in one style (style.py), and is of one family: in a grid of both, its name
ends in the family's. One that has nothing to show is not made: the difficulty histogram without a selection metric,
the differences without a baseline to differ from, the series over data with one or two fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dataeff.files import atomic_directory, write_json, write_manifest
from dataeff.study.specs import GridSpec

if TYPE_CHECKING:
    from dataeff.figures.part import Part
    from dataeff.figures.seen import Seen
    from dataeff.figures.style import Figure, Style

CAPTIONS = "captions.json"
SEEN = "seen.json"
"""What the figures of curricula were drawn from: difficulties over training, and samples as text."""


def build(spec: GridSpec, results: Path, data: Path, out: Path) -> None:
    """Writes the folder `out`, whole, from `results` (results/{scale}) and `data` (results/data/{corpus}).

    The difficulty indexes are looked for in `data`/{tokenizer}/{family}-{sequence length}/analyze/{metric}, the token
    files that samples are shown from beside them.
    """
    from matplotlib import pyplot as plt

    from dataeff.figures.seen import read_or_gather
    from dataeff.figures.style import SETTINGS, save

    results, data = Path(results), Path(data)
    seen = read_or_gather(spec, results, data)
    captions = {}
    with plt.rc_context(SETTINGS), atomic_directory(out) as folder:
        for figure in _drawn(spec, results, data, seen):
            save(figure, folder)
            captions[figure.name] = {"title": figure.title, "caption": figure.caption}
        write_json(folder / CAPTIONS, captions)
        if seen is not None:
            write_json(folder / SEEN, seen.model_dump(mode="json"))
        write_manifest(folder, spec_digest=spec.digest)


def _drawn(spec: GridSpec, results: Path, data: Path, seen: Seen | None) -> Iterator[Figure]:
    """Every figure in the report's order, drawn when it is asked for."""
    from dataeff.figures.difficulty import difficulty_figure, selection_indexes
    from dataeff.figures.part import parts_of
    from dataeff.figures.seen_figures import samples_figure, seen_figure
    from dataeff.figures.style import variant_styles
    from dataeff.tables.results import read_runs

    styles = variant_styles(spec)
    parts = parts_of(read_runs(spec, results))
    for part in parts:
        yield from _of_quality(part, spec, results, styles)
        yield from _of_plans(part, spec, results, styles)
    indexes = selection_indexes(spec, data)
    if indexes:
        yield difficulty_figure(indexes)
    if seen is not None:
        for part in parts:
            yield from _known([seen_figure(part, seen, styles), samples_figure(part, seen)])


def _known(figures: Iterable[Figure | None]) -> Iterator[Figure]:
    return (figure for figure in figures if figure is not None)


def _of_quality(part: Part, spec: GridSpec, results: Path, styles: Mapping[str, Style]) -> Iterator[Figure]:
    from dataeff.figures.comparison import compared, domain_figure, quality_figure
    from dataeff.figures.data_fractions import data_figure, series
    from dataeff.figures.forest import domain_intervals_figure, finetuned_blocks, task_blocks, task_figures
    from dataeff.figures.pareto import pareto_figure, pareto_lines
    from dataeff.figures.probes import probes_of
    from dataeff.figures.training import course_figure, loss_figure, objectives_figure

    probes = probes_of(part, results)
    yield loss_figure(part, probes, styles)
    yield from _known([course_figure(part, probes, styles, "training_seconds")])
    if any(probe.order_accuracy is not None for probe in probes.values()):
        yield objectives_figure(part, probes, styles)
    groups = compared(part)
    if groups:
        yield quality_figure(part, groups, styles)
    lines = series(part)
    if lines:
        yield data_figure(part, lines, styles)
    curves = pareto_lines(part)
    if curves:
        yield pareto_figure(part, curves, styles)
    if groups:
        yield domain_figure(part, groups)
        yield from _known([domain_intervals_figure(part, groups, styles)])
        yield from task_figures(part, task_blocks(spec, part) or finetuned_blocks(part), styles)


def _of_plans(part: Part, spec: GridSpec, results: Path, styles: Mapping[str, Style]) -> Iterator[Figure]:
    from dataeff.figures.kept_tokens import dropping_plans, kept_tokens_figure
    from dataeff.figures.pacing import pacing_figures, plan_shapes

    shapes = plan_shapes(part, results)
    yield from pacing_figures(part, shapes, styles)
    dropping = dropping_plans(part, spec, shapes)
    if dropping:
        yield kept_tokens_figure(part, dropping)


__all__ = ["CAPTIONS", "SEEN", "build"]
