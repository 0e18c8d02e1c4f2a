"""Figures: all files of a grid, equal bytes in two builds, one style a variant, and errors that name the file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from dataeff import figures
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json
from dataeff.study.specs import GridSpec, write_spec
from dataeff.study.types import MetricCurriculum, Pacing, Run, Variant
from dataeff.tables.results import group_by_seed, read_runs
from tests.result_factory import grid_spec, heldout_loss, write_results

ALL = {"loss_vs_effective_tokens", "quality_delta", "heldout_by_domain", "pacing", "difficulty_histogram"}
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


@pytest.mark.slow
def test_the_core_grid_has_all_figures(tmp_path: Path) -> None:
    spec = grid_spec()
    results, data, _ = write_results(tmp_path, spec)
    figures.build(spec, results, data, tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == ALL
    assert {file.stem for file in (tmp_path / "out").glob("*.pdf")} == ALL


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
    assert set(captions) == ALL
    assert all(entry["title"] and entry["caption"] for entry in captions.values())
    assert set(first) == {f"{name}.{suffix}" for name in ALL for suffix in ("pdf", "png")} | {
        figures.CAPTIONS,
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
    from dataeff.figures.training import read_probes

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

    from dataeff.figures.training import PLOTTED_STEPS, read_steps

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
    assert {file.stem for file in (tmp_path / "out").glob("*.png")} == ALL - {"difficulty_histogram"}
    assert set(read_json(tmp_path / "out" / figures.CAPTIONS)) == ALL - {"difficulty_histogram"}


def test_the_drawn_lines_are_the_probes_in_their_variants_styles(small: tuple[Path, Path], tmp_path: Path) -> None:
    from dataeff.figures.style import save, variant_styles
    from dataeff.figures.training import loss_figure

    spec, styles = small_spec(), variant_styles(small_spec())
    figure = loss_figure(group_by_seed(read_runs(spec, small[0])), small[0], styles)
    lines = figure.drawing.axes[0].lines
    assert [line.get_color() for line in lines] == [styles[run.variant].colour for run in spec.runs]
    assert [line.get_ydata()[-1] for line in lines] == [heldout_loss(run) for run in spec.runs]
    save(figure, tmp_path)


def differences_by_hand(seeds: tuple[int, ...]) -> list[float]:
    def loss(variant: str, seed: int) -> float:
        return heldout_loss(Run(family="gpt", variant=variant, data=Fraction(1), seed=seed))

    return [loss("easy_first", seed) - loss("baseline", seed) for seed in seeds]


def test_the_drawn_dot_and_bar_are_the_difference_and_its_interval(small: tuple[Path, Path], tmp_path: Path) -> None:
    from dataeff.figures.comparison import compared, quality_figure
    from dataeff.figures.style import save, variant_styles

    runs, values = read_runs(small_spec(), small[0]), differences_by_hand((1, 2, 3))
    panels = compared(group_by_seed(runs), runs)
    assert {key: [group.variant for group in members] for key, members in panels.items()} == {
        ("gpt", Fraction(1)): ["easy_first"]
    }
    figure = quality_figure(panels, runs, variant_styles(small_spec()))
    axis = figure.drawing.axes[0]
    (dot,) = [line for line in axis.lines if line.get_markersize() == 6 and line.get_marker() == "s"]
    assert np.ravel(dot.get_xdata()).tolist() == pytest.approx([np.mean(values)])
    ((segment,),) = [bar.get_segments() for container in axis.containers for bar in container.lines[2]]
    half_width = 4.302652729911275 * np.std(values, ddof=1) / 3**0.5
    assert segment[:, 0].tolist() == pytest.approx([np.mean(values) - half_width, np.mean(values) + half_width])
    assert "95% t interval" in figure.caption
    save(figure, tmp_path)


def test_one_seed_is_a_dot_without_a_bar_and_no_claim(small: tuple[Path, Path], tmp_path: Path) -> None:
    from dataeff.figures.comparison import compared, quality_figure
    from dataeff.figures.style import save, variant_styles

    runs = read_runs(small_spec((1,)), small[0])
    figure = quality_figure(compared(group_by_seed(runs), runs), runs, variant_styles(small_spec((1,))))
    assert list(figure.drawing.axes[0].containers) == []
    assert "no claim is made" in figure.caption
    save(figure, tmp_path)
