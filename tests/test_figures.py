"""Figures: all files of a grid, equal bytes in two builds, one style a variant, and errors that name the file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff import figures
from dataeff.errors import DataeffError
from dataeff.figures.part import Part, parts_of
from dataeff.figures.seen import read_or_gather
from dataeff.files import check_manifest, read_json, write_json
from dataeff.study.base import FamilyName
from dataeff.study.specs import GridSpec, write_spec
from dataeff.study.types import MetricCurriculum, Pacing, Run, Variant
from dataeff.tables.results import Group, read_runs
from tests.result_factory import (
    DOMAINS,
    asked_grid,
    both_families,
    finetuned_grid,
    grid_spec,
    heldout_loss,
    only,
    project_variants,
    write_results,
)

CURRICULUM = {"difficulty_histogram", "seen"}
ALL = {"loss_vs_effective_tokens", "quality_delta", "heldout_by_domain", "tasks", "pacing"} | CURRICULUM
OF_SEEDS = ALL | {"domain_intervals"}
ACCURACY = "heldout_sentence_order_accuracy"
SELECTING = Variant(
    curriculum={"vocab_rarity": MetricCurriculum(apply="select", pacing=Pacing(start="1", end="100", over="0.5"))}
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The factory's results for two variants."""
    results, data, _ = write_results(tmp_path_factory.mktemp("small"), small_spec())
    return results, data


def small_spec(seeds: tuple[int, ...] = (1, 2, 3)) -> GridSpec:
    return grid_spec(seeds, {"baseline": Variant(), "easy_first": SELECTING})


def part_of(spec: GridSpec, results: Path, family: FamilyName = "gpt") -> Part:
    """The figures' view of one family's results."""
    (part,) = [part for part in parts_of(read_runs(spec, results)) if part.family == family]
    return part


def with_fractions(spec: GridSpec, fractions: dict[Fraction, list[str]]) -> GridSpec:
    """The grid with these variants at these data fractions, in this order."""
    runs = [
        Run(family=family, variant=name, data=data, seed=1234)
        for family in spec.models
        for data, names in fractions.items()
        for name in names
        if name in spec.variants[family]
    ]
    return spec.model_copy(update={"runs": runs})


def change_rows(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrites a metrics.jsonl row by row."""
    rows = [change(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def add_sentence_order(spec: GridSpec, results: Path) -> None:
    """The probe's second measure, as masked models write it: here it grows with the step."""

    def added(row: dict[str, Any]) -> dict[str, Any]:
        return row | {ACCURACY: 0.5 + row["step"] / 10_000} if "heldout_loss" in row else row

    for run in spec.runs:
        if run.family == "bert":
            change_rows(results / "pretrain" / run.name / "metrics.jsonl", added)


@pytest.fixture
def drawn() -> Iterator[None]:
    """The project's settings while figures are drawn, and no figure left behind."""
    from matplotlib import pyplot as plt

    from dataeff.figures.style import SETTINGS

    with plt.rc_context(SETTINGS):
        yield
    plt.close("all")


@pytest.mark.slow
def test_the_core_grid_has_all_figures(tmp_path: Path) -> None:
    spec = grid_spec()
    results, data, _ = write_results(tmp_path, spec)
    figures.build(spec, results, data, tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == ALL | {"kept_tokens"}
    assert {file.stem for file in (tmp_path / "out").glob("*.pdf")} == ALL | {"kept_tokens"}


def test_builds_of_two_processes_are_equal_to_the_byte(small: tuple[Path, Path], tmp_path: Path) -> None:
    figures.build(small_spec(), *small, tmp_path / "first")
    write_spec(tmp_path / "spec.yaml", small_spec())
    options = {"spec": tmp_path / "spec.yaml", "results": small[0], "data": small[1], "out": tmp_path / "second"}
    subprocess.run(
        [sys.executable, "-m", "dataeff", "figures", *(f"--{key}={value}" for key, value in options.items())],
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second
    captions = read_json(tmp_path / "first" / figures.CAPTIONS)
    assert set(captions) == OF_SEEDS
    assert all(entry["title"] and entry["caption"] for entry in captions.values())
    assert set(first) == {f"{name}.{suffix}" for name in OF_SEEDS for suffix in ("pdf", "png")} | {
        figures.CAPTIONS,
        figures.SEEN,
        "manifest.json",
    }
    assert check_manifest(tmp_path / "first") is None
    for name, content in first.items():
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
        if name.endswith(".pdf"):
            assert b"CreationDate" not in content
            assert b"/Creator" not in content


def test_figures_with_nothing_to_show_are_left_out(tmp_path: Path) -> None:
    spec = grid_spec((1,), {"lonely": Variant()})
    results, data, _ = write_results(tmp_path, spec)
    figures.build(spec, results, data, tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == {"loss_vs_effective_tokens", "pacing"}


@pytest.mark.parametrize(
    "file",
    [
        "tiny/plan/gpt-easy_first-100-s1/steps.parquet",
        "tiny/pretrain/gpt-easy_first-100-s1/metrics.jsonl",
        "data/packages/bpe4k/gpt-256/analyze/vocab_rarity/order.npy",
    ],
)
def test_a_missing_input_is_named_and_the_old_folder_stays(tmp_path: Path, file: str) -> None:
    spec = small_spec((1,))
    results, data, _ = write_results(tmp_path, spec)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    missing = tmp_path / "results" / file
    missing.unlink()
    with pytest.raises(DataeffError, match=re.escape(str(missing))):
        figures.build(spec, results, data, out)
    assert [path.name for path in out.iterdir()] == ["old"]


def test_a_damaged_metrics_row_is_named(tmp_path: Path) -> None:
    from dataeff.figures.probes import read_probes

    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "heldout_loss": 5.0, "effective_tokens": 10}\n{"heldout_loss": ', encoding="utf-8")
    with pytest.raises(DataeffError, match=re.escape(str(path))):
        read_probes(path)


def test_every_variant_has_a_look_of_its_own() -> None:
    from dataeff.figures.style import variant_styles

    names = ["baseline", *(f"variant_{number}" for number in range(60))]
    styles = variant_styles(grid_spec((1,), {name: Variant() for name in names}))
    assert len({(look.colour, look.marker, str(look.line)) for look in styles.values()}) == len(names)
    assert styles["baseline"].colour == "#000000"
    assert len({styles[f"variant_{number}"].colour for number in range(7)} | {"#000000"}) == 8


def test_a_variant_looks_the_same_whatever_its_data_and_seed() -> None:
    from dataeff.figures.style import variant_styles

    assert variant_styles(grid_spec((1,))) == variant_styles(grid_spec((5, 6)))


def test_token_units() -> None:
    from dataeff.figures.style import token_unit

    assert [token_unit(count)[1] for count in (300e9, 450_560.0, 40_960.0, 900.0)] == [
        "billion",
        "million",
        "thousand",
        "thousand",
    ]


def test_a_long_plan_is_thinned_but_keeps_its_ends(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    from dataeff.figures.pacing import PLOTTED_STEPS, read_steps

    parquet.write_table(pa.table({"step": np.arange(372_789)}), tmp_path / "steps.parquet")
    step = read_steps(tmp_path / "steps.parquet")["step"]
    assert (len(step), step[0], step[-1]) == (PLOTTED_STEPS, 0, 372_788)


def test_difficulties_are_sorted_by_the_index(small: tuple[Path, Path]) -> None:
    from dataeff.figures.difficulty import selection_indexes, sorted_values

    indexes = selection_indexes(small_spec(), small[1])
    folder = indexes["gpt", "vocab_rarity"]
    values = sorted_values(folder)
    assert (np.diff(values) >= 0).all()
    assert np.array_equal(values, np.sort(np.load(folder / "value.npy")))


def test_no_difficulty_histogram_without_a_selection_metric(tmp_path: Path) -> None:
    spec = grid_spec((1,), {"baseline": Variant(), "plain": Variant()})
    results, data, _ = write_results(tmp_path, spec, benchmarks=False)
    figures.build(spec, results, data, tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == ALL - CURRICULUM
    assert set(read_json(tmp_path / "out" / figures.CAPTIONS)) == ALL - CURRICULUM


def band_of(axis: Any, number: int) -> tuple[float, float]:
    """The lowest and highest loss at the end of a drawn band."""
    corners = axis.collections[number].get_paths()[0].vertices
    ends = corners[corners[:, 0] == corners[:, 0].max(), 1]
    return float(ends.min()), float(ends.max())


def test_the_drawn_lines_are_means_over_seeds_in_bands_of_their_range(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import loss_figure

    spec, styles = small_spec(), variant_styles(small_spec())
    part = part_of(spec, small[0])
    figure = loss_figure(part, probes_of(part, small[0]), styles)
    axis = figure.drawing.axes[0]
    assert [line.get_color() for line in axis.lines] == [styles[name].colour for name in ("baseline", "easy_first")]
    for number, name in enumerate(("baseline", "easy_first")):
        ends = [heldout_loss(run) for run in spec.runs if run.variant == name]
        assert axis.lines[number].get_ydata()[-1] == pytest.approx(np.mean(ends))
        assert band_of(axis, number) == pytest.approx((min(ends), max(ends)))
    assert "mean over 3 seeds, the band around it runs from their lowest to their highest" in figure.caption


def test_one_seed_has_no_band(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import loss_figure

    spec = small_spec((1,))
    part = part_of(spec, small[0])
    figure = loss_figure(part, probes_of(part, small[0]), variant_styles(spec))
    assert not any(axis.collections for axis in figure.drawing.axes)
    assert "one seed" in figure.caption
    assert "band" not in figure.caption


def note_times(spec: GridSpec, results: Path, seconds_a_step: float, variants: tuple[str, ...]) -> None:
    """The time of every probe, as training writes it: here in proportion to the steps."""
    for run in (run for run in spec.runs if run.variant in variants):
        folder = results / "pretrain" / run.name
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [row["step"] for row in rows if "heldout_loss" in row]
        points = [{"step": step, "training_seconds": step * seconds_a_step} for step in steps]
        write_json(folder / "timings.json", read_json(folder / "timings.json") | {"heldout_points": points})


def test_losses_by_time_are_of_the_runs_that_noted_it(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import course_figure

    spec = small_spec((1, 2))
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)

    def by_time() -> Any:
        part = part_of(spec, results)
        return course_figure(part, probes_of(part, results), variant_styles(spec), "training_seconds")

    assert by_time() is None
    note_times(spec, results, 10.0, ("easy_first",))
    figure = by_time()
    (line,) = figure.drawing.axes[0].lines
    steps = read_json(results / "pretrain" / spec.runs[-1].name / "run.json")["steps"]
    assert line.get_xdata()[-1] == pytest.approx(steps * 10 / 60)
    assert labels_of(figure.drawing).count("training time (minutes)") == 1
    assert "did not note the time of each probe: baseline 100%" in figure.caption
    assert figure.name == "loss_vs_training_time"
    note_times(spec, results, 10.0, ("baseline",))
    assert "did not note" not in by_time().caption


def test_many_variants_are_spread_over_panels_with_the_baseline_in_each(tmp_path: Path) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.training import MOST_VARIANTS, panels_of

    names = ["a", "baseline", *"bcdefghijk"]
    spec = grid_spec((1,), {name: Variant() for name in names})
    spec = with_fractions(spec, {Fraction(1): names, Fraction(1, 2): ["baseline", "a"]})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    panels = panels_of(part.groups, probes_of(part, results), "effective_tokens")
    assert [panel.title for panel in panels] == [*(f"100% data ({number} of 3)" for number in (1, 2, 3)), "50% data"]
    shown = [[course.variant for course in panel.courses] for panel in panels[:3]]
    assert all(names[0] == "baseline" and len(names) <= MOST_VARIANTS for names in shown)
    assert [name for names in shown for name in names[1:]] == list("abcdefghijk")


def test_an_exported_average_is_a_mark_of_its_own(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import loss_figure

    spec = small_spec((1,))
    results, _, _ = write_results(tmp_path, spec)
    part, styles = part_of(spec, results), variant_styles(spec)
    assert "average of weights" not in loss_figure(part, probes_of(part, results), styles).caption
    path = results / "pretrain" / spec.runs[1].name / "run.json"
    write_json(path, {**read_json(path), "averaging": {"kind": "ema", "heldout_loss": 3.0}})
    figure = loss_figure(part, probes_of(part, results), styles)
    for axis in figure.drawing.axes:
        (mark,) = [line for line in axis.lines if line.get_linestyle() == "None"]
        assert (mark.get_ydata().item(), mark.get_color()) == (3.0, styles["easy_first"].colour)
        assert axis.get_ylim()[0] < 3.0
    assert "average of weights" in figure.caption


def differences_by_hand(seeds: tuple[int, ...]) -> list[float]:
    def loss(variant: str, seed: int) -> float:
        return heldout_loss(Run(family="gpt", variant=variant, data=Fraction(1), seed=seed))

    return [loss("easy_first", seed) - loss("baseline", seed) for seed in seeds]


def test_the_drawn_dot_and_bar_are_the_difference_and_its_interval(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.comparison import compared, quality_figure
    from dataeff.figures.style import variant_styles

    part, values = part_of(small_spec(), small[0]), differences_by_hand((1, 2, 3))
    groups = compared(part)
    assert [(group.data, group.variant) for group in groups] == [(Fraction(1), "easy_first")]
    figure = quality_figure(part, groups, variant_styles(small_spec()))
    (axis,) = figure.drawing.axes
    (dot,) = [line for line in axis.lines if line.get_markersize() == 6 and line.get_marker() == "s"]
    assert np.ravel(dot.get_xdata()).tolist() == pytest.approx([np.mean(values)])
    ((segment,),) = [bar.get_segments() for container in axis.containers for bar in container.lines[2]]
    half_width = 4.302652729911275 * np.std(values, ddof=1) / 3**0.5
    assert segment[:, 0].tolist() == pytest.approx([np.mean(values) - half_width, np.mean(values) + half_width])
    assert "95% t interval" in figure.caption


def test_one_seed_is_a_dot_without_a_bar_and_no_claim(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.comparison import compared, quality_figure
    from dataeff.figures.style import variant_styles

    part = part_of(small_spec((1,)), small[0])
    figure = quality_figure(part, compared(part), variant_styles(small_spec((1,))))
    assert list(figure.drawing.axes[0].containers) == []
    assert "no claim is made" in figure.caption
    assert "95%" not in figure.caption


def test_cells_by_domain_are_the_differences_and_bold_where_sure(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.comparison import compared, domain_figure
    from dataeff.tables.statistics import estimate

    part = part_of(small_spec(), small[0])
    figure = domain_figure(part, compared(part))
    axis = figure.drawing.axes[0]
    (image,) = axis.images
    runs = {(result.run.variant, result.run.seed): result for result in part.runs}
    for column, domain in enumerate(DOMAINS):
        values = [
            runs["easy_first", seed].domains[domain].bits_per_byte
            - runs["baseline", seed].domains[domain].bits_per_byte
            for seed in (1, 2, 3)
        ]
        found = estimate(values)
        assert image.get_array()[0, column] == pytest.approx(found.mean)
        assert found.half_width is not None
        (text,) = [text for text in axis.texts if text.get_position()[0] == column]
        assert (text.get_fontweight() == "bold") == (abs(found.mean) > found.half_width)
        assert float(text.get_text().replace("−", "-")) == pytest.approx(found.mean, abs=5.1e-4)


def test_intervals_by_domain_are_those_of_the_paired_differences(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.comparison import compared
    from dataeff.figures.forest import domain_intervals_figure
    from dataeff.figures.style import variant_styles
    from dataeff.tables.statistics import estimate

    spec = small_spec()
    part, styles = part_of(spec, small[0]), variant_styles(spec)
    figure = domain_intervals_figure(part, compared(part), styles)
    assert figure is not None
    runs = {(result.run.variant, result.run.seed): result.domains for result in part.runs}
    assert [axis.get_title(loc="left") for axis in figure.drawing.axes] == DOMAINS
    for axis, domain in zip(figure.drawing.axes, DOMAINS, strict=True):
        pairs = [(runs["easy_first", seed][domain], runs["baseline", seed][domain]) for seed in (1, 2, 3)]
        found = estimate([one.bits_per_byte - other.bits_per_byte for one, other in pairs])
        ((segment,),) = [bar.get_segments() for container in axis.containers for bar in container.lines[2]]
        assert segment[:, 0].tolist() == pytest.approx(found.ends)
    one_seed = part_of(small_spec((1,)), small[0])
    assert domain_intervals_figure(one_seed, compared(one_seed), styles) is None


def test_the_forest_of_tasks_is_sorted_and_ends_with_the_average(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.forest import task_blocks, task_figures
    from dataeff.figures.style import variant_styles
    from dataeff.tables.tasks import task_rows

    spec = asked_grid((1, 2, 3))
    spec = with_fractions(spec, {Fraction(1): ["baseline", "ltd"]})
    spec = spec.model_copy(
        update={"runs": [run.model_copy(update={"seed": seed}) for run in spec.runs for seed in (1, 2, 3)]}
    )
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    (block,) = task_blocks(spec, part)
    assert (block.variant, block.data) == ("ltd", "100%")
    assert "wikitext" not in block.names  # a perplexity
    means = [
        np.mean([block.cells[name, f"{shots}-shot"]["value_delta"] for shots in (0, 10)]) for name in block.names[:-1]
    ]
    assert means == sorted(means)
    assert block.names[-1] == "average"
    styles = variant_styles(spec)
    (figure,) = task_figures(part, [block], styles)
    rows = {(row["task"], row["shots"]): row for row in task_rows(spec, part.runs) if row["variant"] == "ltd"}
    for axis, shots in zip(figure.drawing.axes, (0, 10), strict=True):
        dots = [line for line in axis.lines if line.get_marker() == styles["ltd"].marker]
        drawn_means = {round(float(np.ravel(line.get_ydata())[0])): np.ravel(line.get_xdata())[0] for line in dots}
        for place, name in enumerate(block.names):
            assert drawn_means[place] == pytest.approx(100 * rows[name, shots]["value_delta"])
    assert "95% t intervals over seeds" in figure.caption


def test_finetuned_models_have_a_forest_of_their_columns(tmp_path: Path) -> None:
    from dataeff.figures.forest import finetuned_blocks

    spec = only(finetuned_grid((1, 2, 3)), "bert")
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results, "bert")
    blocks = finetuned_blocks(part)
    assert [(block.variant, block.data) for block in blocks] == [
        ("cl_seqreo", "100%"),
        ("ltd", "100%"),
        ("composed", "50%"),
    ]
    found = {
        (result.run.variant, result.run.data, result.run.seed): result.finetuned["reviews"] for result in part.runs
    }
    values = {key: scores.honest_rule.columns["Reviews"].value for key, scores in found.items()}
    deltas = [values["ltd", Fraction(1), seed] - values["baseline", Fraction(1), seed] for seed in (1, 2, 3)]
    assert blocks[1].cells["Reviews", "finetuned, offline"]["value_delta"] == pytest.approx(np.mean(deltas))
    assert "value_delta_interval" in blocks[1].cells["Reviews", "finetuned, offline"]
    assert set(blocks[1].names) == {"Reviews", "Claims", "Later claims", "average"}
    assert blocks[1].names[-1] == "average"


def test_the_forest_of_tasks_is_paged(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.forest import MOST_PAGES, ROWS_ON_A_PAGE, Block, task_figures
    from dataeff.figures.style import variant_styles

    spec = grid_spec((1,))
    row = {"value_delta": 0.01, "value_delta_low": -0.01, "value_delta_high": 0.03}
    names = [f"task_{number}" for number in range(19)]
    blocks = [Block("ltd", f"{number}%", names, {(task, "0-shot"): row for task in names}) for number in range(9)]
    pages = list(task_figures(Part("gpt", [], alone=True), blocks, variant_styles(spec)))
    per_page = ROWS_ON_A_PAGE // (len(names) + 2)
    assert [page.name for page in pages] == ["tasks", "tasks_2", "tasks_3"]
    assert all(len(page.drawing.axes) == per_page for page in pages)
    assert f"{9 - MOST_PAGES * per_page} variants further down" in pages[-1].caption
    assert "no claim is made" in pages[0].caption


def test_each_family_has_figures_of_its_own_with_its_own_units(tmp_path: Path, drawn: None) -> None:
    spec = both_families()
    results, data, _ = write_results(tmp_path, spec, benchmarks=False)
    add_sentence_order(spec, results)
    captions = {
        figure.name: {"title": figure.title, "caption": figure.caption}
        for figure in figures._drawn(spec, results, data, read_or_gather(spec, results, data))
    }
    of_family = ALL - CURRICULUM - {"tasks"}
    assert set(captions) == (
        {f"{name}_{family}" for name in of_family | {"kept_tokens"} for family in ("gpt", "bert")}
        | {"objectives_bert", "tasks_gpt", "difficulty_histogram", "seen_gpt", "seen_bert"}
    )
    for name, words in captions.items():
        if name.endswith("_bert"):
            assert words["title"].startswith("BERT: ")
            assert "bits per byte" not in words["caption"]
            assert "nats/token" not in words["caption"]
        if name.endswith("_gpt"):
            assert words["title"].startswith("GPT: ")
            assert "masked" not in words["caption"]
    for name in ("loss_vs_effective_tokens", "quality_delta", "heldout_by_domain", "objectives"):
        assert "nats/masked token" in captions[f"{name}_bert"]["caption"]
    assert "bits per byte" in captions["heldout_by_domain_gpt"]["caption"]


def labels_of(drawing: Any) -> str:
    """Every text of a figure, axis labels and those of the whole figure included."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in drawing.findobj(Text))


def test_masked_losses_are_on_axes_of_their_own(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.comparison import compared, domain_figure, quality_figure
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import loss_figure

    spec = both_families()
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    styles = variant_styles(spec)
    for family, unit, other in (
        ("gpt", "nats/token", "nats/masked token"),
        ("bert", "nats/masked token", "nats/token"),
    ):
        part = part_of(spec, results, family)
        loss = loss_figure(part, probes_of(part, results), styles)
        delta = quality_figure(part, compared(part), styles)
        for figure in (loss, delta):
            assert f"({unit})" in labels_of(figure.drawing)
            assert other not in labels_of(figure.drawing)
        ends = [line.get_ydata()[-1] for axis in loss.drawing.axes for line in axis.lines]
        expected = {heldout_loss(run) for run in spec.runs if run.family == family}
        assert set(ends) == expected
        cells = domain_figure(part, compared(part)).drawing
        assert ("bits per byte" in labels_of(cells)) == (family == "gpt")
        shown = [text.get_text() for text in cells.axes[0].get_xticklabels()]
        assert shown == (DOMAINS if family == "gpt" else DOMAINS[1:])


def test_masked_models_have_a_figure_of_their_two_objectives(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import objectives_figure

    spec = only(both_families(), "bert")
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results, "bert")
    assert all(probe.order_accuracy is None for probe in probes_of(part, results).values())
    add_sentence_order(spec, results)
    figure = objectives_figure(part, probes_of(part, results), variant_styles(spec))
    left, right = figure.drawing.axes
    full = [run for run in spec.runs if run.data == 1]
    assert [line.get_ydata()[-1] for line in left.lines] == [heldout_loss(run) for run in full]
    steps = {result.run.name: result.training.steps for result in part.runs}
    assert [line.get_ydata()[-1] for line in right.lines[:-1]] == [
        pytest.approx(100 * (0.5 + steps[run.name] / 10_000)) for run in full
    ]
    assert set(right.lines[-1].get_ydata()) == {50}
    assert figure.name == "objectives"


def groups_at(fractions: dict[str, list[str]]) -> list[Group]:
    return [Group("gpt", name, Fraction(data), ()) for data, names in fractions.items() for name in names]


def test_which_data_fractions_have_panels() -> None:
    from dataeff.figures.training import shown_fractions

    three = {"1": ["a", "b"], "1/2": ["a"], "1/4": ["a"]}
    assert shown_fractions(groups_at(three), 9) == [1, Fraction(1, 2), Fraction(1, 4)]
    five = three | {"1/8": ["a", "b", "c"], "1/16": ["a", "b"]}
    assert shown_fractions(groups_at(five), 9) == [1, Fraction(1, 8), Fraction(1, 16)]
    assert shown_fractions(groups_at(five), 2) == [1, Fraction(1, 8)]
    alone = {f"1/{number}": ["a"] for number in range(1, 6)}
    assert shown_fractions(groups_at(alone), 3) == [1, Fraction(1, 2), Fraction(1, 3)]


ELEVEN = [Fraction(1, number) for number in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)]


def test_many_data_fractions_are_wrapped_and_the_least_compared_named(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.probes import probes_of
    from dataeff.figures.style import variant_styles
    from dataeff.figures.training import loss_figure

    names = ["baseline", "ltd"]
    spec = with_fractions(grid_spec(), dict.fromkeys(ELEVEN, names) | {Fraction(1, 25): ["baseline"]})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    figure = loss_figure(part, probes_of(part, results), variant_styles(spec))
    titles = [axis.get_title(loc="left") for axis in figure.drawing.axes]
    assert titles[:3] == ["100% data: whole run", "100% data", "50% data"]
    assert "the others are of the second half" in figure.caption
    assert len(titles) == 12
    assert "4%" in figure.caption.partition("not drawn: ")[2]
    assert len({round(axis.get_position().x0, 2) for axis in figure.drawing.axes}) == 3


def test_series_over_data_need_three_fractions(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.data_fractions import data_figure, series
    from dataeff.figures.style import variant_styles

    spec = with_fractions(
        grid_spec(), {data: ["baseline", "ltd"] for data in ELEVEN[:3]} | {Fraction(1, 9): ["composed"]}
    )
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    lines = series(part)
    assert list(lines) == ["baseline", "ltd"]
    axis = data_figure(part, lines, variant_styles(spec)).drawing.axes[0]
    for line, variant in zip(axis.lines, lines, strict=False):
        assert line.get_xdata().tolist() == [1, 1 / 2, 1 / 3]
        runs = [Run(family="gpt", variant=variant, data=data, seed=1234) for data in ELEVEN[:3]]
        assert line.get_ydata().tolist() == [heldout_loss(run) for run in runs]
    assert set(axis.lines[-1].get_ydata()) == {heldout_loss(spec.runs[0])}
    two = [result for result in part.runs if result.run.data >= Fraction(1, 2)]
    assert series(Part("gpt", two, alone=True)) == {}


FOUR = [Fraction(1), Fraction(2, 3), Fraction(1, 2), Fraction(1, 4)]


def test_the_pareto_front_has_the_points_and_marks_of_the_saving_table(tmp_path: Path, drawn: None) -> None:
    import math

    from dataeff.figures.pareto import front_of, pareto_figure, pareto_lines
    from dataeff.figures.style import variant_styles
    from dataeff.tables.saving import saving_table

    names = ["baseline", "composed"]
    spec = with_fractions(grid_spec(), {FOUR[0]: [*names, "ltd"], **dict.fromkeys(FOUR[1:], names)})
    spec = spec.model_copy(
        update={"runs": [run.model_copy(update={"seed": seed}) for run in spec.runs for seed in (1, 2, 3)]}
    )
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    lines = pareto_lines(part)
    assert [line.variant for line in lines] == names
    full = {run.seed: heldout_loss(run) for run in spec.runs if run.variant == "baseline" and run.data == 1}
    for line in lines:
        kept = [
            [
                math.exp(full[run.seed] - heldout_loss(run))
                for run in spec.runs
                if (run.variant, run.data) == (line.variant, data)
            ]
            for data in reversed(FOUR)
        ]
        assert [point.kept.mean for point in line.points] == pytest.approx([np.mean(values) for values in kept])
    front = front_of(lines)
    assert all(first.kept.mean < second.kept.mean for first, second in pairwise(front))
    best = max((point for line in lines for point in line.points), key=lambda point: point.kept.mean)
    assert front[-1] == best
    (axis,) = pareto_figure(part, lines, variant_styles(spec)).drawing.axes
    rings = [line for line in axis.lines if line.get_markersize() == 11]
    assert len(rings) == len(front)
    row = next(row for row in saving_table(spec, part.runs).rows if row["variant"] == "composed")
    marks = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "|" and line.get_markersize() == 9]
    assert 100 * row["point_share"] == pytest.approx(marks[1])
    assert f"{row['point_share']:.1%}" in lines[1].label


def test_no_pareto_front_of_fewer_amounts_of_data_or_without_the_full_baseline(tmp_path: Path) -> None:
    from dataeff.figures.pareto import pareto_lines

    spec = with_fractions(grid_spec(), {data: ["baseline"] for data in FOUR})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    assert [line.variant for line in pareto_lines(part)] == ["baseline"]
    assert pareto_lines(Part("gpt", part.runs[:3], alone=True)) == []
    assert pareto_lines(Part("gpt", part.runs[1:], alone=True)) == []


def change_plan(results: Path, run: Run, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    path = results / "plan" / run.name / "steps.parquet"
    table = parquet.read_table(path)
    columns = {name: table.column(name).to_numpy().copy() for name in table.column_names}
    parquet.write_table(pa.table(columns | change(columns)), path)


def test_equal_plans_share_a_row_and_a_variant_has_one(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.pacing import pacing_figures, plan_shapes
    from dataeff.figures.style import variant_styles

    fractions = {
        Fraction(1, 2): ["baseline", "ltd", "one_route", "ltd_flat_lr"],
        Fraction(1): ["baseline", "ltd", "one_route"],
    }
    spec = with_fractions(grid_spec(), fractions)
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    shapes = plan_shapes(part, results)
    assert [(shape.variants, shape.data) for shape in shapes] == [
        (["baseline"], "100%"),
        (["ltd", "one_route"], "100%"),
        (["ltd_flat_lr"], "50%"),
    ]
    (figure,) = pacing_figures(part, shapes, variant_styles(spec))
    assert len(figure.drawing.axes) == 3 * 2
    assert "shaded area" in figure.caption
    assert "dashed" not in figure.caption
    assert figure.drawing.axes[2].get_title(loc="left") == "ltd, one_route, 100% data"


def test_kept_tokens_are_the_plan_s_in_the_layers_that_drop_some(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.kept_tokens import dropping_plans, kept_tokens_figure
    from dataeff.figures.pacing import plan_shapes, read_steps

    spec = with_fractions(grid_spec(), {Fraction(1): ["baseline", "cl_seqtru", "ltd", "composed"]})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    plans = dropping_plans(part, spec, plan_shapes(part, results))
    assert [plan.shape.variants for plan in plans] == [["ltd"], ["composed"]]
    figure = kept_tokens_figure(part, plans)
    for axis, run in zip(figure.drawing.axes, spec.runs[2:], strict=False):
        (mesh,) = axis.collections
        steps = read_steps(results / "plan" / run.name / "steps.parquet")
        first, second, third, last = np.asarray(mesh.get_array())
        assert second.tolist() == third.tolist() == steps["kept_tokens"].tolist()
        assert first.tolist() == last.tolist() == steps["sequence_length"].tolist()
    assert dropping_plans(part, spec, plan_shapes(Part("gpt", part.runs[:2], alone=True), results)) == []


def test_what_a_curriculum_saw_is_read_from_its_order(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.seen import gather
    from dataeff.figures.seen_figures import seen_figure
    from dataeff.figures.style import variant_styles
    from dataeff.order import SampleOrder

    spec = small_spec()
    seen = gather(spec, *small)
    (course,), (facts,) = seen.courses, seen.metrics
    assert (course.variants, course.metric, course.data) == (["easy_first"], "vocab_rarity", "1")
    values = np.load(small[1] / "bpe4k/gpt-256/analyze/vocab_rarity/value.npy")
    order = SampleOrder.load(small[0] / "plan" / spec.runs[3].name / "order.json")
    for point, after in pairwise(course.points):
        drawn_there = values[np.concatenate([order.samples(step) for step in range(point.step, after.step)])]
        assert point.samples == len(drawn_there)
        assert (point.low, point.median, point.high) == tuple(np.percentile(drawn_there, [10, 50, 90]).round(3))
    assert course.points[0].high < facts.corpus.low < facts.corpus.high
    assert course.points[-1].high == pytest.approx(facts.corpus.high, rel=0.05)
    assert facts.shown == []
    figure = seen_figure(part_of(spec, small[0]), seen, variant_styles(spec))
    assert figure is not None
    (axis,) = figure.drawing.axes
    assert axis.lines[-1].get_ydata().tolist() == [point.median for point in course.points]
    assert set(axis.lines[0].get_ydata()) == {facts.corpus.median}


def test_what_was_gathered_is_drawn_without_orders(small: tuple[Path, Path], tmp_path: Path) -> None:
    from dataeff.figures.seen import gather, gathered_path, read_or_gather

    spec = small_spec()
    seen = gather(spec, *small)
    write_json(gathered_path(tmp_path, spec), seen.model_dump(mode="json"))
    assert read_or_gather(spec, tmp_path, tmp_path / "nothing") == seen
    plain = grid_spec((1,), {"baseline": Variant()})
    assert read_or_gather(plain, tmp_path / "other", tmp_path) is None


def test_samples_are_shown_as_text_that_the_font_has(small: tuple[Path, Path], drawn: None) -> None:
    from dataeff.figures.seen import MetricFacts, Seen, ShownSample, Spread
    from dataeff.figures.seen_figures import CHARACTERS_A_LINE, samples_figure

    text = "for $x in   range(3):⏎ 漢 " + "word " * 40
    shown = [ShownSample(rank="easiest", sample=4, value=1234, text=text)]
    corpus = Spread(low=1, median=2, high=3)
    facts = MetricFacts(family="gpt", metric="mtld", samples=9, corpus=corpus, shown=shown)
    part = part_of(small_spec(), small[0])
    figure = samples_figure(part, Seen(metrics=[facts], courses=[]))
    assert figure is not None
    words = [text.get_text() for text in figure.drawing.texts]
    assert "easiest: 1,234" in words
    assert any(line.startswith("for $x in range(3):⏎ · word") for line in words)
    assert max(map(len, words)) <= CHARACTERS_A_LINE
    assert samples_figure(part, Seen(metrics=[facts.model_copy(update={"shown": []})], courses=[])) is None


def test_windows_and_length_buckets_are_drawn_as_what_they_are(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.pacing import pacing_figures, plan_shapes
    from dataeff.figures.style import variant_styles

    spec = with_fractions(grid_spec(), {Fraction(1): ["baseline", "window", "length_buckets"]})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    change_plan(results, spec.runs[1], lambda table: {"window": np.minimum(8 * (1 + table["step"] // 4), 256)})
    lengths = np.random.default_rng(1).choice([64, 128, 256], 220)
    change_plan(
        results,
        spec.runs[2],
        lambda table: {"sequence_length": lengths, "kept_tokens": lengths, "rows": 2048 // lengths},
    )
    part = part_of(spec, results)
    (figure,) = pacing_figures(part, plan_shapes(part, results), variant_styles(spec))
    _, windowed, bucketed = figure.drawing.axes[::2]
    length, window = windowed.lines
    assert set(length.get_ydata()) == {256}
    assert window.get_ydata().tolist() == [8, *np.minimum(8 * (1 + np.arange(220) // 4), 256)]
    assert window.is_dashed()
    (dots,) = bucketed.lines
    assert (dots.get_linestyle(), dots.get_marker()) == ("None", ".")
    assert dots.get_ydata().tolist() == lengths.tolist()
    assert not bucketed.collections
    assert "dashed line the window" in figure.caption
    assert "dots are lengths" in figure.caption


def test_a_value_that_admits_all_samples_does_not_flatten_the_axis(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.pacing import pacing_figures, plan_shapes
    from dataeff.figures.style import variant_styles

    by_value = MetricCurriculum(
        apply="select", by="value", then="uniform", pacing=Pacing(start="5", end="9", over="0.5")
    )
    variants = {"baseline": Variant(), "by_value": Variant(curriculum={"mtld": by_value}), "easy_first": SELECTING}
    spec = grid_spec((1,), variants)
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    highest = np.iinfo(np.int64).max
    change_plan(
        results, spec.runs[1], lambda table: {"mtld_value": np.where(table["step"] < 110, table["mtld_value"], highest)}
    )
    part = part_of(spec, results)
    (figure,) = pacing_figures(part, plan_shapes(part, results), variant_styles(spec))
    rows = np.array(figure.drawing.axes).reshape(3, 4)
    assert rows[1, 2].get_ylim()[1] < 20
    assert "difficulty (percentile)" in labels_of(figure.drawing)
    assert "mtld (value)" in labels_of(figure.drawing)
    said = [[axis.texts[0].get_text() for axis in row[1:3]] for row in rows[1:]]
    assert [text == "all samples" for row in said for text in row] == [True, False, False, True]


def test_many_plans_are_paged(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.pacing import ROWS_ON_A_PAGE, pacing_figures, plan_shapes
    from dataeff.figures.style import variant_styles

    def paced(over: int) -> Variant:
        pacing = Pacing(start="1", end="100", over=Fraction(over, 100))
        return Variant(curriculum={"vocab_rarity": MetricCurriculum(apply="select", pacing=pacing)})

    spec = grid_spec((1,), {f"over_{number}": paced(10 + 5 * number) for number in range(ROWS_ON_A_PAGE + 3)})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    pages = pacing_figures(part, plan_shapes(part, results), variant_styles(spec))
    assert [page.name for page in pages] == ["pacing", "pacing_2"]
    assert [page.title.rpartition(" (")[2] for page in pages] == ["1 of 2)", "2 of 2)"]
    assert [len(page.drawing.axes) // 3 for page in pages] == [8, 7]


def test_seventeen_variants_are_told_apart() -> None:
    from dataeff.figures.style import variant_styles

    styles = variant_styles(grid_spec((1,), {"baseline": Variant()} | {f"v{n}": Variant() for n in range(16)}))
    assert len({(look.colour, str(look.line)) for look in styles.values()}) == 17
    assert len({(look.marker, look.filled) for look in styles.values()}) > 10
    others = [look for name, look in styles.items() if name != "baseline"]
    assert all(styles["baseline"].width > look.width and styles["baseline"].layer > look.layer for look in others)


def test_no_text_leaves_the_canvas_or_is_too_small_to_print(tmp_path: Path, drawn: None) -> None:
    """Of a grid of both families with eleven data fractions and every variant."""
    from matplotlib import pyplot as plt
    from matplotlib.text import Text

    from dataeff.figures.style import SMALL, WIDTH_INCHES

    gpt = project_variants("gpt")
    every = list(dict.fromkeys([*gpt, *both_families().variants["bert"]]))
    fractions = {Fraction(1): every} | {data: ["baseline", "composed"] for data in ELEVEN[1:]}
    spec = with_fractions(both_families(), fractions)
    results, data, _ = write_results(tmp_path, spec, benchmarks=False)
    add_sentence_order(spec, results)
    seen = []
    for figure in figures._drawn(spec, results, data, read_or_gather(spec, results, data)):
        drawing = figure.drawing
        drawing.draw_without_rendering()
        canvas = drawing.bbox
        assert canvas.width / drawing.dpi == WIDTH_INCHES
        for part in (*drawing.axes, *drawing.legends, *drawing.texts):
            box = part.get_tightbbox(drawing.canvas.get_renderer())
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= canvas.width + 1 and box.y1 <= canvas.height + 1
            assert inside, (figure.name, part, box)
        texts = [text for text in drawing.findobj(Text) if text.get_text()]
        assert min(text.get_fontsize() for text in texts) >= SMALL, figure.name
        seen.append(figure.name)
        plt.close(drawing)
    assert len(seen) == 2 * 8 + 5  # eight of each family, three pages of tasks, the objectives of one, difficulties


def test_labels_of_neighbouring_data_fractions_do_not_touch(tmp_path: Path, drawn: None) -> None:
    from dataeff.figures.data_fractions import data_figure, series
    from dataeff.figures.style import variant_styles

    near = [Fraction(number, 100) for number in (100, 95, 90, 67, 50, 34, 33, 32, 16, 8, 4, 2, 1)]
    spec = with_fractions(grid_spec(), {data: ["baseline"] for data in near})
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    part = part_of(spec, results)
    drawing = data_figure(part, series(part), variant_styles(spec)).drawing
    drawing.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in drawing.axes[0].get_xticklabels()), key=lambda box: box.x0)
    assert len(boxes) > 7
    assert all(right.x0 > left.x1 + 1 for left, right in pairwise(boxes))
