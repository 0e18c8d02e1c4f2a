"""The finetuning table over made-up results, against the scores that it is read from."""

from __future__ import annotations

import csv
import shutil
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import pytest

from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.finetune.aggregate import honest_average, published_average
from dataeff.finetune.scores import FinetuneScores, read_finetune_scores
from dataeff.study.specs import GridSpec
from dataeff.tables import build, summary
from dataeff.tables.finetune import finetune_table
from dataeff.tables.results import read_runs
from dataeff.tables.statistics import estimate
from dataeff.tables.table import Column, Row, format_cell, read_table, write_table
from dataeff.tables.terminal import WIDTH
from tests.result_factory import both_families, finetuned_grid, only, write_results

SEEDS = (1234, 1235, 1236)


def berts(seeds: tuple[int, ...] = (1234,), table: str = "offline") -> GridSpec:
    """The finetuned runs alone."""
    return only(finetuned_grid(seeds, table), "bert")


def made(root: Path, spec: GridSpec) -> Path:
    return write_results(root, spec)[0]


def scores_of(results: Path, run: str) -> list[FinetuneScores]:
    return [read_finetune_scores(results / "finetune" / run / task / "scores.json") for task in ("reviews", "claims")]


def row_of(rows: list[Row], variant: str, data: str = "100%") -> Row:
    return next(row for row in rows if (row["variant"], row["data"]) == (variant, data))


def test_averages_are_of_the_columns_by_both_rules(tmp_path: Path) -> None:
    spec = berts()
    results = made(tmp_path, spec)
    table = finetune_table(spec, read_runs(spec, results))
    row = row_of(table.rows, "ltd")
    scores = scores_of(results, "bert-ltd-100-s1234")
    honest = {name: column for one in scores for name, column in one.honest_rule.columns.items()}
    published = {name: column for one in scores for name, column in one.published_rule.best.columns.items()}
    assert list(honest) == ["Reviews", "Claims", "Later claims"]
    assert row["offline_honest_average"] == pytest.approx(fmean(column.value for column in honest.values()))
    assert row["offline_honest_spread"] == honest_average(honest).half_width
    assert (row["offline_published_average"], row["offline_published_spread"]) == published_average(published)
    for name, column in published.items():
        assert row[f"offline_published_{name}"] == column.value
        assert row[f"offline_honest_{name}"] == honest[name].value
    assert "offline_honest_average_interval" not in row
    assert row["claim"] == "n = 1: no claim"
    assert "published_delta" not in row


def test_differences_are_to_the_baseline_of_the_same_seed(tmp_path: Path) -> None:
    spec = berts(SEEDS)
    runs = read_runs(spec, made(tmp_path, spec))
    table = finetune_table(spec, runs)

    def averages(variant: str, data: Fraction) -> list[float]:
        found = [run for run in runs if (run.run.variant, run.run.data) == (variant, data)]
        columns = [
            {name: column for one in run.finetuned.values() for name, column in one.honest_rule.columns.items()}
            for run in found
        ]
        return [honest_average(one).value for one in columns]

    for variant, data, shown in (("ltd", Fraction(1), "100%"), ("composed", Fraction(1, 2), "50%")):
        row = row_of(table.rows, variant, shown)
        for key, reference in (("delta", data), ("delta_full", Fraction(1))):
            pairs = zip(averages(variant, data), averages("baseline", reference), strict=True)
            expected = estimate([mine - base for mine, base in pairs])
            assert row[f"offline_honest_average_{key}"] == pytest.approx(expected.mean)
            assert row[f"offline_honest_average_{key}_interval"] == pytest.approx(expected.half_width)
    assert row_of(table.rows, "baseline")["offline_honest_average_delta"] is None


def test_published_averages_stand_beside_glue_alone(tmp_path: Path) -> None:
    """By differences: 88.17 - 87.29 for random-LTD at 100% of the data, recalled."""
    spec = berts(table="glue")
    table = finetune_table(spec, read_runs(spec, made(tmp_path, spec)))
    row = row_of(table.rows, "ltd")
    assert (row["published_delta"], row["published_delta_verified"]) == (0.0088, "no")
    column = next(column for column in table.columns if column.key == "published_delta")
    assert format_cell(column, row) == "+0.88†"
    assert column.section == "glue_published"
    assert row_of(table.rows, "baseline")["published_delta"] is None
    assert any("†: recalled" in note for note in table.notes)
    shown = {
        cell for column in table.columns if "published_delta" not in column.key for cell in [format_cell(column, row)]
    }
    assert not {"88.17", "87.29"} & shown


def test_gpt_runs_are_no_rows(tmp_path: Path) -> None:
    spec = berts()
    results = made(tmp_path, spec)
    assert {row["family"] for row in finetune_table(spec, read_runs(spec, results)).rows} == {"bert"}
    nothing = both_families().model_copy(update={"runs": [], "finetuning": {}})
    table = finetune_table(nothing, [])
    assert (table.rows, table.filled_sections()) == ([], {})
    assert table.notes == [
        "No run of this grid was finetuned: models that continue text are prompted, and a scale can leave it out."
    ]


def test_it_is_written_as_the_other_tables_are(tmp_path: Path) -> None:
    spec = berts(SEEDS)
    table = finetune_table(spec, read_runs(spec, made(tmp_path, spec)))
    write_table(table, tmp_path / "tables")
    with (tmp_path / "tables" / "finetune.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5
    assert float(rows[1]["offline_honest_Later claims"]) == table.rows[1]["offline_honest_Later claims"]
    latex = (tmp_path / "tables" / "finetune.tex").read_text()
    assert latex.count("\\begin{tabular}") == 2
    notes = " ".join(table.notes)
    assert "reviews: is a review positive. Stands in for SST-2. accuracy; trained on 1,000 items, 6 trainings" in notes
    assert "Reviews: 200 items of validation, 100 of them chosen by, 3 cut to the length." in notes
    assert "so that it is too high" in notes


def test_scores_that_are_missing_are_named(tmp_path: Path) -> None:
    spec = berts()
    results = made(tmp_path, spec)
    shutil.rmtree(results / "finetune" / "bert-ltd-100-s1234" / "claims")
    with pytest.raises(DataeffError, match=r"finetune/bert-ltd-100-s1234/claims/scores\.json: no such file"):
        read_runs(spec, results)


def test_scores_of_other_weights_are_refused(tmp_path: Path) -> None:
    spec = berts()
    results = made(tmp_path, spec)
    path = results / "finetune" / "bert-ltd-100-s1234" / "claims" / "scores.json"
    write_json(path, {**read_json(path), "model_digest": "0" * 64})
    with pytest.raises(
        DataeffError, match=r"claims/scores\.json is of run 'bert-ltd-100-s1234', .* weights 000000000000"
    ):
        read_runs(spec, results)


def test_a_column_stands_once_in_a_table(tmp_path: Path) -> None:
    spec = berts()
    tasks = {**spec.finetuning, "again": spec.finetuning["reviews"]}
    twice = spec.model_copy(update={"finetuning": tasks})
    runs = read_runs(twice, made(tmp_path, twice))
    with pytest.raises(DataeffError, match=r"finetuning\.again\.evaluation: column 'Reviews' stands twice in table"):
        finetune_table(twice, runs)


@pytest.mark.parametrize("seeds", [(1234,), SEEDS], ids=["one seed", "three seeds"])
def test_the_summary_in_the_terminal_shows_the_average(tmp_path: Path, seeds: tuple[int, ...]) -> None:
    spec = berts(seeds)
    results = made(tmp_path, spec)
    build(spec, results, results / "tables" / "core")
    _add_prompted_rows(results / "tables" / "core", interval=len(seeds) > 1)
    lines = summary(results, "core").splitlines()
    assert max(len(line) for line in lines if not line.startswith("report: ")) <= WIDTH
    # Cells end where their heading does.
    average = lines[0].index("tuned") + len("tuned")
    difference = lines[0].index("diff", average) + len("diff")
    row = row_of(finetune_table(spec, read_runs(spec, results)).rows, "ltd")
    shown = next(line for line in lines if line.startswith("bert ltd"))
    assert shown[:average].split()[-1] == f"{100 * row['offline_honest_average']:.1f}"
    assert shown[average:difference].strip().startswith(f"{100 * row['offline_honest_average_delta']:+.1f}")
    assert next(line for line in lines if line.startswith("gpt ltd"))[:average].split()[-1] == "-"
    assert "tuned: average after finetuning, %" in " ".join(lines)


def _add_prompted_rows(folder: Path, interval: bool) -> None:
    """Rows of a family that is prompted, beside those of the finetuned one."""
    table = read_table(folder, "quality")
    columns = [
        Column(key=f"average_{shots}shot{end}", heading="", digits=1, scale=100.0, signed=bool(end), interval=True)
        for shots in (0, 10)
        for end in ("", "_delta")
    ]
    values = {
        "average_0shot": 0.331,
        "average_0shot_delta": -0.012,
        "average_10shot": 0.342,
        "average_10shot_delta": 0.015,
    }
    values |= {f"{key}_interval": 0.017 for key in list(values) if interval}
    absent = dict.fromkeys(values)
    others = [{**row, **values, "family": "gpt"} for row in table.rows]
    rows = [*others, *({**row, **absent} for row in table.rows)]
    write_table(table.model_copy(update={"columns": [*table.columns, *columns], "rows": rows}), folder)
