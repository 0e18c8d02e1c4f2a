"""Scores by task: recomputed from the items, with paired intervals, and labelled as what they are."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import pytest

from dataeff import tables
from dataeff.errors import DataeffError
from dataeff.evaluate.bootstrap import averaged, paired
from dataeff.evaluate.records import read_records, write_records
from dataeff.evaluate.rescore import rescore
from dataeff.study.types import Run
from dataeff.tables.prompted import averaged_probes, averaged_tasks
from dataeff.tables.results import read_runs
from dataeff.tables.table import format_cell, read_table
from tests.result_factory import asked_grid, grid_spec, task_records, task_value, write_results

Row = dict[str, str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(results/{scale}, its tables), three seeds of the core grid with tasks of the harness."""
    results, _, _ = write_results(tmp_path_factory.mktemp("tasks"), asked_grid((1, 2, 3)))
    tables.build(asked_grid((1, 2, 3)), results, results / "tables" / "core")
    return results, results / "tables" / "core"


def rows_of(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def row_of(folder: Path, **wanted: str) -> Row:
    (row,) = [row for row in rows_of(folder / "tasks.csv") if all(row[key] == value for key, value in wanted.items())]
    return row


def run(variant: str, seed: int) -> Run:
    return Run(family="gpt", variant=variant, data=Fraction(1), seed=seed)


def test_a_difference_has_the_interval_of_its_items(built: tuple[Path, Path]) -> None:
    """The paired bootstrap of the two runs' own items files, seeds averaged within each resample."""
    results, folder = built
    items = {
        (name, seed): rescore(results / "evaluate" / run(name, seed).name / "papers" / "10shot")["winogrande"]
        for name in ("ltd", "baseline")
        for seed in (1, 2, 3)
    }
    found = paired(
        [items["ltd", seed] for seed in (1, 2, 3)], [items["baseline", seed] for seed in (1, 2, 3)], "winogrande 10"
    )
    row = row_of(folder, variant="ltd", data="100%", task="winogrande", shots="10")
    assert float(row["value_delta"]) == pytest.approx(found.value)
    # The same items, resampled for all runs of the grid at once.
    assert float(row["value_delta_low"]) == pytest.approx(found.low, abs=1e-9)
    assert float(row["value_delta_high"]) == pytest.approx(found.high, abs=1e-9)
    assert float(row["value_delta_low"]) < found.value < float(row["value_delta_high"])
    base = row_of(folder, variant="baseline", data="100%", task="winogrande", shots="10")
    assert base["value_delta_low"] == base["value_delta"] == ""


@pytest.mark.parametrize(
    ("title", "key", "counted"),
    [
        # Neither the perplexity nor today's triviaqa, which stands beside the papers' scoring of it.
        ("average", "average_10shot", ["winogrande", "triviaqa_papers"]),
        ("average of probes", "probes_10shot", ["last_word", "word_order"]),
    ],
)
def test_sets_and_probes_are_averaged_apart(built: tuple[Path, Path], title: str, key: str, counted: list[str]) -> None:
    results, folder = built
    values = [task_value(run("ltd", seed), task, 10) for task in counted for seed in (1, 2, 3)]
    row = row_of(folder, variant="ltd", data="100%", task=title, shots="10")
    assert float(row["value"]) == pytest.approx(sum(values) / 6)
    assert (row["metric"], row["items"]) == (f"mean of {', '.join(counted)}", "400")
    quality = [row for row in rows_of(folder / "quality.csv") if (row["variant"], row["data"]) == ("ltd", "100%")]
    assert float(quality[0][key]) == pytest.approx(float(row["value"]))
    assert float(quality[0][f"{key}_delta"]) == pytest.approx(float(row["value_delta"]))
    runs = {result.run.name: result for result in read_runs(asked_grid((1, 2, 3)), results)}
    items = {
        name: [{task: runs[run(name, seed).name].items[10][task] for task in counted} for seed in (1, 2, 3)]
        for name in ("ltd", "baseline")
    }
    found = averaged(
        {
            f"{task} 10": ([part[task] for part in items["ltd"]], [part[task] for part in items["baseline"]])
            for task in counted
        }
    )
    assert float(row["value_delta_low"]) == pytest.approx(found.low, abs=1e-9)
    assert float(row["value_delta_high"]) == pytest.approx(found.high, abs=1e-9)


def test_probes_alone_are_the_average(tmp_path: Path) -> None:
    """Of a grid that asks nothing else, and then under that one name."""
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec)
    tables.build(spec, results, tmp_path / "out")
    rows = [row for row in rows_of(tmp_path / "out" / "tasks.csv") if row["task"].startswith("average")]
    assert {(row["task"], row["metric"]) for row in rows} == {("average", "mean of last_word, word_order")}
    assert not [key for key in rows_of(tmp_path / "out" / "quality.csv")[0] if key.startswith("probes_")]
    (note,) = [note for note in read_table(tmp_path / "out", "quality").notes if "plain mean" in note]
    assert "mean over 2 tasks (last_word, word_order)" in note


def test_a_shot_without_sets_has_no_average(built: tuple[Path, Path]) -> None:
    """What is averaged is the same kind of task at every number of shots."""
    score = read_runs(asked_grid((1,)), built[0])[0].tasks
    without = {0: score[0], 10: {name: part for name, part in score[10].items() if part.dataset is None}}
    assert averaged_tasks(without, 0) == ["winogrande", "triviaqa_papers"]
    assert averaged_tasks(without, 10) == []
    assert averaged_probes(without, 10) == ["last_word", "word_order"]


def test_a_row_says_how_much_of_its_average_is_the_papers(built: tuple[Path, Path]) -> None:
    rows = rows_of(built[1] / "quality.csv")
    assert {row["claim"] for row in rows} == {"95% t interval, n = 3; average of 2 tasks, 2 of the papers' 19"}
    notes = read_table(built[1], "quality").notes
    (note,) = [note for note in notes if "plain mean" in note]
    assert note.startswith("Averages are the plain mean over 2 tasks (winogrande, triviaqa_papers)")
    assert "2 of them are among the papers' 19" in note
    assert any(note.startswith("Probes (last_word, word_order) have an average of their own") for note in notes)
    (other,) = [note for note in read_table(built[1], "published").notes if "19 tasks" in note]
    assert "in both: triviaqa, winogrande" in other


def test_both_scorings_of_a_task_are_labelled(built: tuple[Path, Path]) -> None:
    found = {row["task"]: row for row in rows_of(built[1] / "tasks.csv") if row["shots"] == "10"}
    assert (found["triviaqa"]["scoring"], found["triviaqa"]["published_as"]) == ("today", "")
    assert (found["triviaqa_papers"]["scoring"], found["triviaqa_papers"]["published_as"]) == ("papers", "triviaqa")
    notes = read_table(built[1], "tasks").notes
    assert any(note.startswith("triviaqa: exact_match") and "not in the average" in note for note in notes)
    assert any(note.startswith("triviaqa_papers: acc") and "papers' harness (0.2.0)" in note for note in notes)


def test_a_task_of_its_own_shots_has_a_section_there_alone(built: tuple[Path, Path]) -> None:
    table = read_table(built[1], "tasks")
    assert list(table.sections) == [
        "probes 0shot",
        "probes 10shot",
        "papers 0shot",
        "papers 10shot",
        "language 0shot",
    ]
    (column,) = [column for column in table.columns if column.section == "language 0shot"]
    assert column.heading == "wikitext (word_perplexity)"
    row = table.rows[0]
    assert format_cell(column, row).startswith(f"{row['wikitext 0']:.2f}")  # no share: not in percent
    assert not [row for row in rows_of(built[1] / "tasks.csv") if (row["task"], row["shots"]) == ("wikitext", "10")]


def rewritten(root: Path, change: str) -> Path:
    """The results of one seed, with the winogrande items of one run changed in place."""
    results, _, _ = write_results(root, asked_grid())
    place = results / "evaluate" / "gpt-ltd-100-s1234" / "papers" / "0shot"
    records = read_records(place / "items.jsonl.zst")
    if change == "answers":
        for record in records["winogrande"][:40]:
            record["metrics"]["acc"] = 1.0 - record["metrics"]["acc"]
            record["metrics"]["acc"] = 1.0
    else:
        for record in records["winogrande"]:
            record["item"] = f"other {record['item']}"
    write_records(place / "items.jsonl.zst", [record for part in records.values() for record in part])
    return results


def test_a_score_that_its_items_do_not_give_is_refused(tmp_path: Path) -> None:
    results = rewritten(tmp_path, "answers")
    with pytest.raises(DataeffError, match=r"gpt-ltd-100-s1234/papers/0shot: scores\.json gives 'winogrande' acc"):
        tables.build(asked_grid(), results, tmp_path / "out")


def test_runs_that_were_asked_other_items_cannot_be_paired(tmp_path: Path) -> None:
    results = rewritten(tmp_path, "items")
    with pytest.raises(DataeffError, match="task 'winogrande 0': 200 and 200 items, not the same ones"):
        tables.build(asked_grid(), results, tmp_path / "out")


def test_scores_of_other_tasks_than_the_grid_s_are_refused(tmp_path: Path) -> None:
    results, _, _ = write_results(tmp_path, asked_grid())
    file = results / "evaluate" / "gpt-ltd-100-s1234" / "language" / "0shot" / "scores.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "tasks": {}}))
    with pytest.raises(DataeffError, match=r"has the tasks \[\], the grid \['wikitext'\]; evaluate again"):
        tables.build(asked_grid(), results, tmp_path / "out")


def test_the_made_up_items_give_the_made_up_values() -> None:
    records = task_records(run("ltd", 1), "winogrande", "acc", 10)
    assert sum(record["metrics"]["acc"] for record in records) / 200 == task_value(run("ltd", 1), "winogrande", 10)
