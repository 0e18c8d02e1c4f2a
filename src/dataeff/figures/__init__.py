"""figures: the result files of a grid's runs -> PDF (for print) and PNG (for the report), with their captions.

Each figure comes from result files alone and in one style (style.py). One that has nothing to show is not made:
the difficulty histogram without a selection metric, the differences without a baseline to differ from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dataeff.files import atomic_directory, write_json, write_manifest
from dataeff.study.specs import GridSpec

if TYPE_CHECKING:
    from dataeff.figures.style import Figure

CAPTIONS = "captions.json"


def build(spec: GridSpec, results: Path, data: Path, out: Path) -> None:
    """Writes the folder `out`, whole, from `results` (results/{scale}) and `data` (results/data/{corpus}).

    The difficulty indexes are looked for in `data`/{tokenizer}/{family}-{sequence length}/analyze/{metric}.
    """
    from matplotlib import pyplot as plt

    from dataeff.figures.comparison import compared, domain_figure, quality_figure
    from dataeff.figures.difficulty import difficulty_figure, selection_indexes
    from dataeff.figures.style import SETTINGS, save, variant_styles
    from dataeff.figures.training import loss_figure, pacing_figure
    from dataeff.tables.results import group_by_seed, read_runs

    runs = read_runs(spec, results)
    groups, styles = group_by_seed(runs), variant_styles(spec)
    panels, indexes = compared(groups, runs), selection_indexes(spec, Path(data))
    captions = {}
    with plt.rc_context(SETTINGS), atomic_directory(out) as folder:
        drawers: list[Callable[[], Figure]] = [lambda: loss_figure(groups, Path(results), styles)]
        if panels:
            drawers.append(lambda: quality_figure(panels, runs, styles))
            drawers.append(lambda: domain_figure(panels, runs, styles))
        drawers.append(lambda: pacing_figure(groups, Path(results), styles))
        if indexes:
            drawers.append(lambda: difficulty_figure(indexes))
        for draw in drawers:
            figure = draw()
            save(figure, folder)
            captions[figure.name] = {"title": figure.title, "caption": figure.caption}
        write_json(folder / CAPTIONS, captions)
        write_manifest(folder, spec_digest=spec.digest)


__all__ = ["CAPTIONS", "build"]
