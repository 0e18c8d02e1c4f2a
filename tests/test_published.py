"""The papers' numbers: as they stand in config/papers/, and beside a grid's own results."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from dataeff import tables
from dataeff.errors import DataeffError
from dataeff.study.base import FamilyName
from dataeff.study.published import PublishedResult, published_of, read_published
from dataeff.study.specs import GridSpec, grid_spec
from dataeff.study.types import Run
from dataeff.tables.agreement import directions, headline
from dataeff.tables.published import published_table
from dataeff.tables.results import read_runs
from dataeff.tables.statistics import estimate
from dataeff.tables.table import Table, format_cell, read_table
from tests.factory import ROOT, config, load
from tests.result_factory import (
    both_families,
    finetuned_grid,
    harness_task,
    heldout_loss,
    only,
    task_value,
    write_results,
)
from tests.result_factory import grid_spec as made_up_grid

PAPERS = ROOT / "config" / "papers"
HALF = Fraction(1, 2)


def run(variant: str, data: Fraction = Fraction(1), family: FamilyName = "gpt", seed: int = 1234) -> Run:
    return Run(family=family, variant=variant, data=data, seed=seed)


def numbers() -> dict[tuple[str, str, int, str], PublishedResult]:
    return {(*result.place, result.field): result for result in read_published(PAPERS).results}


def built(root: Path, spec: GridSpec) -> Path:
    results, _, _ = write_results(root, spec, benchmarks=False)
    tables.build(spec, results, results / "tables" / "core")
    return results / "tables" / "core"


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("one"), made_up_grid())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("both"), both_families((1, 2, 3)))


def row_of(folder: Path, variant: str, data: str, family: str = "gpt") -> dict[str, str]:
    with (folder / "published.csv").open(newline="", encoding="utf-8") as stream:
        found = [row for row in csv.DictReader(stream) if (row["variant"], row["data"]) == (variant, data)]
    (row,) = [row for row in found if row["family"] == family]
    return row


def cells(table: Table, section: str, heading: str) -> dict[tuple[str, str], str]:
    """(variant, data) -> the cell that people see under a heading."""
    (column,) = [column for column in table.shown_in(section) if column.heading == heading]
    return {(row["variant"], row["data"]): format_cell(column, row) for row in table.rows_in(section)}


# --- config/papers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value", "verified"),
    [
        (("gpt", "baseline", 100, "avg_0shot"), 42.5, "yes"),
        (("gpt", "baseline", 80, "avg_0shot"), 42.3, "yes"),
        (("gpt", "composed", 50, "avg_10shot"), 44.0, "yes"),
        (("gpt", "ltd", 67, "avg_0shot"), 43.1, "no"),
        (("gpt", "ltd_flat_lr", 67, "avg_0shot"), 42.5, "yes"),
        (("gpt", "ltd_flat_lr", 100, "avg_0shot"), 43.7, "yes"),
        (("gpt", "cl_seqres", 100, "hours_64xV100"), 248.0, "no"),
        (("bert", "cl_seqtru_voc", 100, "glue_avg"), 87.6, "yes"),
        (("bert", "ltd", 50, "glue_avg"), 87.32, "yes"),
        (("bert", "baseline", 50, "glue_avg"), 86.61, "no"),
    ],
)
def test_numbers_of_the_papers(place: tuple[str, str, int, str], value: float, verified: str) -> None:
    found = numbers()[place]
    assert (found.value, found.verified) == (value, verified)
    assert found.source


def test_what_is_not_reproduced_is_counted() -> None:
    published = read_published(PAPERS)
    assert published.not_reproduced == {"GPT-3 MoE 6.7B": 2, "ViT fine-tuning": 3, "GPT-2 fine-tuning": 10}
    assert len(published.tasks) == 19


def test_a_grid_gets_its_own_numbers_and_the_baselines_that_they_differ_from() -> None:
    found = published_of(read_published(PAPERS), [run("ltd", Fraction(2, 3)), run("own", Fraction(1, 3))])
    assert {result.place for result in found.results} == {
        ("gpt", "ltd", 67),
        ("gpt", "baseline", 67),
        ("gpt", "baseline", 100),
    }


@pytest.mark.parametrize("runs", [[run("own", Fraction(1, 3))], [run("baseline"), run("own")], []])
def test_a_grid_with_nothing_to_compare_gets_none(runs: list[Run]) -> None:
    assert published_of(read_published(PAPERS), runs).results == []


def test_every_case_of_the_papers_gpt_table_is_a_row_of_the_grid_papers() -> None:
    spec = grid_spec(load(config(scale="paper")), "papers")
    rows = {result.place for result in spec.published.results} & {
        (run.family, run.variant, round(run.data * 100)) for run in spec.runs
    }
    published = {(family, variant, percent) for family, variant, percent, _ in numbers() if family == "gpt"}
    # Read off a figure; and what the Random-LTD paper's setting is without less data.
    assert published - rows == {("gpt", "baseline", 80), ("gpt", "ltd_flat_lr", 100)}


def edited(folder: Path, name: str, edit: Callable[[str], str]) -> Path:
    shutil.copytree(PAPERS, folder)
    path = folder / name
    text = path.read_text(encoding="utf-8")
    path.unlink()
    path.write_text(edit(text), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("gpt3_1p3b_cases.csv", "2,CL_seqtru,", "2,CL_seqtri,", "unknown method 'CL_seqtri'; did you mean 'CL_seqtru'"),
        ("gpt3_1p3b_cases.csv", "avg_0shot,42.5,", "avg_0shot,4z.5,", r"cases.csv, line 3: value: a number is needed"),
        ("bert_large_cases.csv", "glue_avg,87.29,", "glue_avg,87.3,", r"random_ltd.csv: glue_avg of bert baseline 100"),
        ("bert_large_cases.csv", "Table 2,yes", "Table 2,maybe", "unknown verified 'maybe'"),
        ("gpt3_1p3b_cases.csv", "1,baseline,100,", "1,baseline,all,", "percentage of the data is a whole number"),
        ("random_ltd.csv", "42.5 / 42.5", "42.5", "line 4: value: 2 numbers are needed; found '42.5'"),
        ("random_ltd.csv", ",42.5 / 42.5,", ",", r"random_ltd.csv, line 4: 4 columns are needed"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    folder = edited(tmp_path / "papers", name, lambda text: text.replace(old, new, 1))
    with pytest.raises(DataeffError, match=message):
        read_published(folder)


def test_a_missing_file_is_named_and_a_missing_folder_is_none(tmp_path: Path) -> None:
    folder = edited(tmp_path / "papers", "random_ltd.csv", str)
    (folder / "random_ltd.csv").unlink()
    with pytest.raises(DataeffError, match=re.escape(str(folder / "random_ltd.csv"))):
        read_published(folder)
    assert read_published(tmp_path / "absent").results == []


# --- beside ours ---------------------------------------------------------------------------------------------


def test_published_and_our_differences_stand_side_by_side(one_seed: Path) -> None:
    row = row_of(one_seed, "composed", "50%")
    for key, value in (
        ("published_average_0shot", 0.428),
        ("published_average_0shot_delta", 0.428 - 0.420),
        ("published_average_0shot_delta_full", 0.428 - 0.425),
        ("published_average_10shot_delta", 0.440 - 0.427),
        ("published_average_10shot_delta_full", 0.0),
        ("published_hours_64xV100", 130),
        ("our_heldout_loss_delta", heldout_loss(run("composed", HALF)) - heldout_loss(run("baseline", HALF))),
        ("our_heldout_loss_delta_full", heldout_loss(run("composed", HALF)) - heldout_loss(run("baseline"))),
    ):
        assert float(row[key]) == pytest.approx(value), key
    average = {
        data: sum(task_value(run(name, data), task, 10) for task in ("last_word", "word_order")) / 2
        for name, data in (("composed", HALF), ("baseline", Fraction(1)))
    }
    assert float(row["our_average_10shot_delta_full"]) == pytest.approx(average[HALF] - average[Fraction(1)])
    assert row_of(one_seed, "ltd", "100%")["source"].endswith("blog T3,T7")


def test_levels_of_ours_stand_nowhere_in_the_table(one_seed: Path) -> None:
    columns = read_table(one_seed, "published").columns
    assert {column.key for column in columns if column.section == "levels_gpt"} == {
        "published_average_0shot",
        "published_average_10shot",
        "published_hours_64xV100",
    }
    assert all("_delta" in column.key for column in columns if column.key.startswith("our_"))


def test_the_baseline_on_all_data_differs_from_nothing(one_seed: Path) -> None:
    row = row_of(one_seed, "baseline", "100%")
    assert {value for key, value in row.items() if "_delta" in key} == {""}
    assert row["published_average_0shot"] == "0.425"
    half = row_of(one_seed, "baseline", "50%")
    assert half["published_average_0shot_delta"] == ""
    assert float(half["published_average_0shot_delta_full"]) == pytest.approx(-0.005)


def test_rows_are_those_that_the_papers_have(one_seed: Path) -> None:
    rows = [(row["variant"], row["data"]) for row in read_table(one_seed, "published").rows]
    full = ["baseline", "cl_seqtru", "cl_seqres", "cl_voc", "cl_seqtru_voc", "ltd", "composed"]
    assert rows == [(name, "100%") for name in full] + [("baseline", "50%"), ("composed", "50%")]


def test_unverified_numbers_are_marked_and_so_are_differences_to_them(one_seed: Path, both: Path) -> None:
    table = read_table(one_seed, "published")
    assert cells(table, "levels_gpt", "hours on 64 V100")["cl_voc", "100%"] == "257†"
    assert cells(table, "levels_gpt", "hours on 64 V100")["ltd", "100%"] == "263"
    assert any(note.startswith("†: recalled, not checked") for note in table.notes)
    glue = cells(read_table(both, "published"), "same_bert", "GLUE, published")
    assert glue == {("cl_seqreo", "100%"): "+0.19", ("ltd", "100%"): "+0.88†", ("composed", "50%"): "+0.83†"}
    assert row_of(both, "ltd", "100%", "bert")["published_average_glue_delta_verified"] == "no"
    assert row_of(both, "cl_seqreo", "100%", "bert")["published_average_glue_delta_verified"] == "yes"


def test_one_seed_is_marked_and_three_have_an_interval(one_seed: Path, both: Path) -> None:
    table = read_table(one_seed, "published")
    ours = cells(table, "same_gpt", "held-out loss, ours")
    assert all(cell.endswith("°") for cell in ours.values())
    assert any(note.startswith("°: n = 1: no interval is given") for note in table.notes)
    three = read_table(both, "published")
    assert "±" in cells(three, "same_gpt", "held-out loss, ours")["ltd", "100%"]
    assert not any("°" in cell for cell in cells(three, "same_gpt", "held-out loss, ours").values())
    paired = [heldout_loss(run("ltd", seed=seed)) - heldout_loss(run("baseline", seed=seed)) for seed in (1, 2, 3)]
    row = row_of(both, "ltd", "100%")
    assert float(row["our_heldout_loss_delta_interval"]) == pytest.approx(estimate(paired).half_width)


def test_other_tasks_than_the_papers_are_named(one_seed: Path, tmp_path: Path) -> None:
    (note,) = [note for note in read_table(one_seed, "published").notes if "19 tasks" in note]
    assert "hellaswag" in note
    assert "last_word, word_order; in both: none" in note
    spec = made_up_grid()
    theirs = {name: harness_task(name, published_as=name) for name in spec.published.tasks}
    spec = spec.model_copy(update={"tasks": theirs})
    results, _, _ = write_results(tmp_path, spec)
    assert not any("19 tasks" in note for note in published_table(spec, read_runs(spec, results)).notes)


def test_remarks_on_single_numbers_and_what_is_left_out_are_told(tmp_path: Path) -> None:
    runs = [run(name, data) for name in ("baseline", "ltd", "ltd_flat_lr") for data in (Fraction(1), Fraction(2, 3))]
    published = published_of(read_published(PAPERS), runs)
    spec = made_up_grid().model_copy(update={"runs": runs, "published": published})
    notes = read_table(built(tmp_path, spec), "published").notes
    assert any(note.startswith("ltd 66.7%, published 0-shot: CONFLICT") for note in notes)
    assert any(note.startswith("ltd_flat_lr 66.7%, published 0-shot: inference") for note in notes)
    assert notes[-1].endswith("2 of GPT-3 MoE 6.7B, 3 of ViT fine-tuning, 10 of GPT-2 fine-tuning.")


def test_without_published_numbers_the_csv_is_its_header(tmp_path: Path) -> None:
    every = made_up_grid().variants["gpt"]
    folder = built(tmp_path, made_up_grid(variants={"baseline": every["baseline"], "own": every["ltd"]}))
    (line,) = (folder / "published.csv").read_text(encoding="utf-8").splitlines()
    assert line.startswith("family,variant,data,seeds,published_average_0shot_delta,")
    table = read_table(folder, "published")
    assert (table.rows, table.filled_sections(), table.headline) == ([], {}, "")
    assert "no number for any run of this grid" in table.notes[0]
    assert "Sign as published" not in tables.summary(tmp_path / "results" / "tiny", "core")


def test_each_family_has_sections_of_its_own(both: Path, tmp_path: Path) -> None:
    table = read_table(both, "published")
    assert list(table.filled_sections()) == [
        f"{section}_{family}" for family in ("gpt", "bert") for section in ("same", "full", "levels")
    ]
    for section in table.sections:
        assert {row["family"] for row in table.rows_in(section)} == {section.rpartition("_")[2]}
    assert "GLUE" not in {column.heading[:4] for column in table.shown_in("same_gpt")}
    bert = read_table(built(tmp_path, only(both_families(), "bert")), "published")
    assert [column.heading for column in bert.shown_in("same_bert")][4:] == ["GLUE, published", "held-out loss, ours"]
    assert not any("19 tasks" in note for note in bert.notes)
    assert any(note.startswith("GLUE: no run here is fine-tuned") for note in bert.notes)


# --- how the signs agree -------------------------------------------------------------------------------------


def difference(
    published: float | None, ours: float | None, loss: float | None, data: str = "100%"
) -> dict[str, object]:
    """A row whose differences to either baseline are these, at 0 and at 10 shots."""
    row: dict[str, object] = {"family": "gpt", "variant": "x", "data": data, "seeds": 1}
    for delta in ("delta", "delta_full"):
        for shots in (0, 10):
            row |= {f"published_average_{shots}shot_{delta}": published, f"our_average_{shots}shot_{delta}": ours}
        row[f"our_heldout_loss_{delta}"] = loss
    return row


def test_signs_are_counted_with_a_lower_loss_as_better() -> None:
    rows = [
        difference(0.01, 0.3, -0.2),  # both better
        difference(0.01, -0.3, 0.2),  # published better, ours worse
        difference(-0.01, -0.3, 0.2, "50%"),  # both worse
        difference(0.0, 0.3, -0.2),  # no sign published
        difference(None, 0.3, -0.2),
        difference(0.01, 0.0, None),
    ]
    loss = "held-out loss against 0-shot"
    assert directions(rows, "same") == {"0-shot": (2, 3), "10-shot": (2, 3), loss: (2, 3)}
    assert directions(rows, "full") == {"0-shot": (1, 1), "10-shot": (1, 1), loss: (1, 1)}
    assert headline(rows) == (
        "Sign as published: 6 of 9 differences at the same data, 3 of 3 to 100% data; 1 seed: no claim"
    )
    assert headline(rows[3:]) == ""


def test_the_count_is_that_of_the_rows_and_ends_the_summary(one_seed: Path) -> None:
    table = read_table(one_seed, "published")
    pairs = [
        (row[f"published_average_{shots}shot_delta"], sign * row[f"our_{ours}_delta"])
        for row in table.rows
        for shots, ours, sign in ((0, "average_0shot", 1), (10, "average_10shot", 1), (0, "heldout_loss", -1))
        if row[f"published_average_{shots}shot_delta"] and row[f"our_{ours}_delta"]
    ]
    agreeing = sum(published * ours > 0 for published, ours in pairs)
    assert f"{agreeing} of {len(pairs)} differences at the same data" in table.headline
    assert "1 seed: no claim" in table.headline
    lines = tables.summary(one_seed.parents[1], "core").splitlines()
    assert lines[-3] == table.headline
    assert max(map(len, lines[:-1])) <= 100


def test_one_seed_is_no_claim_and_nor_is_this_scale(one_seed: Path, both: Path) -> None:
    assert "; at 1 seed and this scale the count is no claim" in read_table(one_seed, "published").notes[0]
    three = read_table(both, "published")
    assert "; at this scale the count is no claim" in three.notes[0]
    assert three.headline.endswith(" to 100% data")


def test_a_finetuned_glue_average_stands_beside_the_published_one(tmp_path: Path) -> None:
    folder = built(tmp_path, finetuned_grid((1, 2, 3), table="glue"))
    table = read_table(folder, "published")
    ours = cells(table, "same_bert", "GLUE, ours")
    assert "±" in ours["ltd", "100%"]
    assert directions(table.rows, "same")["GLUE"][1] == 3
    assert not any(note.startswith("GLUE: no run here") for note in table.notes)
    tuned = {(row["variant"], row["data"]): row for row in read_table(folder, "finetune").rows}
    row = row_of(folder, "ltd", "100%", "bert")
    assert float(row["our_average_glue_delta"]) == pytest.approx(tuned["ltd", "100%"]["glue_published_average_delta"])
