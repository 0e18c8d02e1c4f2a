"""The papers' numbers: as they stand in config/papers/, and beside a grid's own results."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.study.published import published_of, read_published
from dataeff.study.types import Run
from dataeff.tables import build
from dataeff.tables.published import published_table
from dataeff.tables.results import read_runs
from dataeff.tables.table import format_cell, read_table
from tests.factory import ROOT
from tests.result_factory import grid_spec, write_results

PAPERS = ROOT / "config/papers"


def test_numbers_of_the_papers() -> None:
    rows = {(row.family, row.variant, row.percent, row.field): row for row in read_published(PAPERS)}
    assert rows["gpt", "baseline", 100, "avg_0shot"].value == 42.5
    assert rows["gpt", "composed", 100, "avg_0shot"].value == 43.8
    assert rows["gpt", "ltd_flat_lr", 67, "avg_0shot"].value == 42.5
    assert rows["bert", "baseline", 100, "glue_avg"].value == 87.29
    assert rows["bert", "ltd", 100, "glue_avg"].verified == "no"


def test_only_what_a_grid_needs_is_kept() -> None:
    rows = published_of(read_published(PAPERS), [Run(family="gpt", variant="ltd", data=Fraction(1), seed=1)])
    assert {(row.family, row.variant) for row in rows} == {("gpt", "ltd"), ("gpt", "baseline")}
    assert published_of(read_published(PAPERS), [Run(family="gpt", variant="own", data=Fraction(1, 3), seed=1)])


@pytest.mark.parametrize(
    ("line", "message"),
    [("1,CL_new,100,300,avg_0shot,1,x,yes,", "CL_new"), ("1,baseline,100,300,avg_0shot,x,x,yes,", "x")],
)
def test_a_wrong_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    head = "case,method,data_pct,tokens_B,field,value,source,verified,note\n"
    (tmp_path / "gpt3_1p3b_cases.csv").write_text(head + line + "\n")
    with pytest.raises(DataeffError, match=message):
        read_published(tmp_path)


def test_differences_stand_beside_ours(tmp_path: Path) -> None:
    spec = grid_spec((1, 2, 3))
    results, data, _ = write_results(tmp_path, spec)
    build(spec, results, tmp_path / "tables", data)
    table = read_table(tmp_path / "tables", "published")
    row = next(row for row in table.rows if (row["variant"], row["data"]) == ("ltd", "100%"))
    assert row["avg_0shot"] == 43.7
    assert row["avg_0shot_delta"] == pytest.approx(1.2)
    ours = [
        result.averages[0]
        for result in read_runs(spec, results)
        if result.run.variant == "ltd" and result.run.data == 1
    ]
    base = [
        result.averages[0]
        for result in read_runs(spec, results)
        if result.run.variant == "baseline" and result.run.data == 1
    ]
    assert row["avg_0shot_ours"] == pytest.approx(sum(ours) / 3 - sum(base) / 3)
    assert "avg_0shot_ours_interval" in row
    baseline = next(row for row in table.rows if (row["variant"], row["data"]) == ("baseline", "100%"))
    assert baseline["avg_0shot_delta"] is None
    column = next(column for column in table.columns if column.key == "avg_0shot_delta")
    assert format_cell(column, row) == "+1.2"
    assert any("have the published direction" in note for note in table.notes)


def test_a_grid_without_published_numbers_has_no_rows(tmp_path: Path) -> None:
    spec = grid_spec((1,)).model_copy(update={"published": []})
    results, _, _ = write_results(tmp_path, spec)
    table = published_table(spec, read_runs(spec, results))
    assert table.rows == []
    assert table.notes == ["The papers have no number for any run of this grid."]
