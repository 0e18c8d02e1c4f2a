"""Tables: every number recomputed by hand from the result files; intervals, forms, the terminal's summary, errors."""

from __future__ import annotations

import csv
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest

from dataeff import tables
from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json, write_json
from dataeff.study.specs import GridSpec
from dataeff.study.types import Run
from dataeff.tables.results import percent, seed_counts
from dataeff.tables.statistics import claim, estimate, seeds_in_words
from dataeff.tables.table import Column, Table, escape_latex, format_cell, latex_text, read_table, write_table
from tests.result_factory import (
    BATCH,
    COMMIT,
    DOMAINS,
    FULL,
    HALF,
    LENGTH,
    both_families,
    grid_spec,
    heldout_loss,
    only,
    order_accuracy,
    task_value,
    training_seconds,
    write_results,
)

T_QUANTILE_3_SEEDS = 4.302652729911275
"""Student's t at 97.5% with 2 degrees of freedom, from a printed table."""


def built(tmp_path: Path, spec: GridSpec) -> tuple[Path, Path]:
    """(results/{scale}, its tables folder)."""
    results, data, _ = write_results(tmp_path, spec)
    out = results / "tables" / spec.grid
    tables.build(spec, results, out, data)
    return results, out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def row_of(path: Path, **wanted: str) -> dict[str, str]:
    found = [row for row in rows_of(path) if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def run(variant: str, data: Fraction = Fraction(1), seed: int = 1234) -> Run:
    return Run(family="gpt", variant=variant, data=data, seed=seed)


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("one"), grid_spec())


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("three"), grid_spec(seeds=(1, 2, 3)))


def test_a_row_per_group_in_the_grids_order(one_seed: tuple[Path, Path]) -> None:
    found = [(row["variant"], row["data"]) for row in rows_of(one_seed[1] / "quality.csv")]
    assert found == [(name, "100%") for name in FULL] + [(name, "50%") for name in HALF]


def test_differences_are_to_the_baseline_of_the_same_data_and_of_all_data(one_seed: tuple[Path, Path]) -> None:
    row = row_of(one_seed[1] / "quality.csv", variant="composed", data="50%")
    half = Fraction(1, 2)
    loss = heldout_loss(run("composed", half))
    assert float(row["heldout_loss"]) == pytest.approx(loss)
    assert float(row["heldout_loss_delta"]) == pytest.approx(loss - heldout_loss(run("baseline", half)))
    assert float(row["heldout_loss_delta_full"]) == pytest.approx(loss - heldout_loss(run("baseline")))
    average = {
        name: (task_value(run(name, half), "last_word", 10) + task_value(run(name, half), "word_order", 10)) / 2
        for name in ("composed", "baseline")
    }
    assert float(row["average_10shot_delta"]) == pytest.approx(average["composed"] - average["baseline"])
    seconds = training_seconds(run("composed", half))
    assert float(row["time_ratio"]) == pytest.approx(seconds / training_seconds(run("baseline", half)))
    assert float(row["time_ratio_full"]) == pytest.approx(seconds / training_seconds(run("baseline")))


def test_a_baseline_differs_from_nothing_but_from_all_data(one_seed: tuple[Path, Path]) -> None:
    full = row_of(one_seed[1] / "quality.csv", variant="baseline", data="100%")
    assert full["heldout_loss_delta"] == full["heldout_loss_delta_full"] == full["time_ratio"] == ""
    half = row_of(one_seed[1] / "quality.csv", variant="baseline", data="50%")
    assert half["heldout_loss_delta"] == ""
    difference = heldout_loss(run("baseline", Fraction(1, 2))) - heldout_loss(run("baseline"))
    assert float(half["heldout_loss_delta_full"]) == pytest.approx(difference)


def test_costs_are_the_runs_own(one_seed: tuple[Path, Path]) -> None:
    row = row_of(one_seed[1] / "quality.csv", variant="baseline", data="100%")
    assert (int(float(row["steps"])), int(float(row["raw_tokens"]))) == (220, 220 * BATCH * LENGTH)
    assert row["raw_tokens"] == row["effective_tokens"]


def test_one_seed_gives_no_interval_and_says_so(one_seed: tuple[Path, Path]) -> None:
    rows = rows_of(one_seed[1] / "quality.csv")
    assert {row["claim"] for row in rows} == {"n = 1: no claim"}
    assert {row[key] for row in rows for key in row if key.endswith("_interval")} == {""}
    for name in ("quality", "heldout_by_domain", "tasks"):
        text = (one_seed[1] / f"{name}.tex").read_text(encoding="utf-8")
        assert "n = 1: no interval is given and no claim is made" in text
        assert r"$\pm$" not in text


def test_three_seeds_give_the_t_interval_of_paired_differences(three_seeds: tuple[Path, Path]) -> None:
    row = row_of(three_seeds[1] / "quality.csv", variant="ltd", data="100%")
    losses = [heldout_loss(run("ltd", seed=seed)) for seed in (1, 2, 3)]
    paired = [loss - heldout_loss(run("baseline", seed=seed)) for loss, seed in zip(losses, (1, 2, 3), strict=True)]
    assert float(row["heldout_loss"]) == pytest.approx(sum(losses) / 3)
    mean = sum(paired) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in paired) / 2)
    assert float(row["heldout_loss_delta"]) == pytest.approx(mean)
    assert float(row["heldout_loss_delta_interval"]) == pytest.approx(T_QUANTILE_3_SEEDS * deviation / math.sqrt(3))
    assert (row["seeds"], row["claim"]) == ("3", "95% t interval, n = 3")
    text = (three_seeds[1] / "quality.tex").read_text(encoding="utf-8")
    assert r"$\pm$" in text
    assert "no claim" not in text


def test_seeds_in_words() -> None:
    runs = [
        Run(family="gpt", variant=variant, data=Fraction(1), seed=seed)
        for variant, seeds in (("baseline", 5), ("ltd", 3))
        for seed in range(seeds)
    ]
    assert seeds_in_words(seed_counts(runs)) == "3 or 5 seeds"
    assert seeds_in_words(seed_counts(runs[:5])) == "5 seeds"
    assert seeds_in_words([1, 1]) == "1 seed"


def test_two_seeds_are_no_claim() -> None:
    assert estimate([1.0, 2.0]).half_width is None
    assert estimate([1.0, 2.0]).mean == 1.5
    assert claim(2) == "n = 2: no claim"


def test_differences_need_the_baseline_of_every_seed(tmp_path: Path) -> None:
    spec = grid_spec(seeds=(1, 2))
    runs = [run for run in spec.runs if (run.variant, run.data, run.seed) != ("baseline", 1, 2)]
    _, out = built(tmp_path, spec.model_copy(update={"runs": runs}))
    row = row_of(out / "quality.csv", variant="ltd", data="100%")
    assert row["heldout_loss_delta"] == row["time_ratio"] == ""
    assert float(row["heldout_loss"]) > 0


def test_domains_long_in_csv_and_wide_in_latex(one_seed: tuple[Path, Path]) -> None:
    results, out = one_seed
    row = row_of(out / "heldout_by_domain.csv", variant="cl_voc", domain="Legal_text")
    score = {
        name: read_json(results / "evaluate" / f"gpt-{name}-100-s1234" / "heldout.json")["domains"]["Legal_text"]
        for name in ("cl_voc", "baseline")
    }
    for key in ("loss", "bits_per_byte"):
        assert float(row[key]) == score["cl_voc"][key]
        assert float(row[f"{key}_delta"]) == pytest.approx(score["cl_voc"][key] - score["baseline"][key])
    assert len(rows_of(out / "heldout_by_domain.csv")) == (len(FULL) + len(HALF)) * len(DOMAINS)
    table = read_table(out, "heldout_by_domain")
    column = next(column for column in table.columns if column.heading == "Legal_text")
    cells = {(row["variant"], row["data"]): format_cell(column, row) for row in table.rows}
    assert cells["baseline", "100%"] == f"{score['baseline']['bits_per_byte']:.3f}"
    assert cells["cl_voc", "100%"][0] in "+−"


def test_tasks_hold_every_score_with_its_chance(one_seed: tuple[Path, Path]) -> None:
    row = row_of(one_seed[1] / "tasks.csv", variant="ltd", task="word_order", shots="10")
    value = task_value(run("ltd"), "word_order", 10)
    assert float(row["value"]) == value
    assert float(row["value_delta"]) == pytest.approx(value - task_value(run("baseline"), "word_order", 10))
    assert (row["metric"], row["items"], row["chance"]) == ("acc", "200", "0.25")
    notes = read_table(one_seed[1], "tasks").notes
    assert any(note.startswith("word_order: acc over 200 items, chance 25%") for note in notes)


def test_time_adds_up_the_benchmark_files(one_seed: tuple[Path, Path]) -> None:
    path = one_seed[1] / "time.csv"
    training = row_of(path, stage="pretrain")
    seconds = {run.name: training_seconds(run) + 8 for run in grid_spec().runs}
    assert int(training["jobs"]) == len(seconds)
    assert float(training["seconds"]) == pytest.approx(sum(seconds.values()))
    assert float(training["longest_seconds"]) == pytest.approx(max(seconds.values()))
    assert training["peak_memory_mb"] == "910.5"
    assert row_of(path, stage="plan")["peak_memory_mb"] == ""
    assert (row_of(path, stage="tokens")["jobs"], row_of(path, stage="fetch")["longest_job"]) == ("2", "pubmed")
    assert row_of(path, stage="analyze")["longest_job"] == "vocab_rarity"
    rows = rows_of(path)
    assert "report" not in {row["stage"] for row in rows}
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)


def test_without_benchmarks_the_time_table_says_so(tmp_path: Path) -> None:
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    tables.build(spec, results, tmp_path / "out")
    assert read_table(tmp_path / "out", "time").rows == []
    assert "No benchmark files were found" in read_table(tmp_path / "out", "time").notes[0]


def test_two_builds_are_equal_and_whole(one_seed: tuple[Path, Path], tmp_path: Path) -> None:
    results, out = one_seed
    tables.build(grid_spec(), results, tmp_path / "again", results.parent / "data" / "packages")
    first, second = (
        {file.name: file.read_bytes() for file in folder.iterdir()} for folder in (out, tmp_path / "again")
    )
    assert first == second
    assert check_manifest(out) is None
    assert set(first) >= {f"{name}.{suffix}" for name in ("quality", "time") for suffix in ("csv", "tex", "json")}


@pytest.mark.parametrize(
    "file",
    [
        "pretrain/{run}/run.json",
        "pretrain/{run}/timings.json",
        "evaluate/{run}/heldout.json",
        "evaluate/{run}/probes/10shot/scores.json",
        "evaluate/{run}/probes/10shot/items.jsonl.zst",
    ],
)
def test_a_missing_result_is_named_and_nothing_is_written(tmp_path: Path, file: str) -> None:
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec)
    missing = results / file.format(run="gpt-cl_voc-100-s1234")
    missing.unlink()
    with pytest.raises(DataeffError, match=re.escape(str(missing))):
        tables.build(spec, results, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec)
    path = results / "pretrain" / "gpt-ltd-100-s1234" / "run.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "effective_tokens"})
    with pytest.raises(DataeffError, match=rf"{re.escape(str(path))}: effective_tokens"):
        tables.build(spec, results, tmp_path / "out")


def test_scores_of_other_weights_are_refused(tmp_path: Path) -> None:
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec)
    path = results / "evaluate" / "gpt-ltd-100-s1234" / "probes" / "0shot" / "scores.json"
    write_json(path, {**read_json(path), "model_digest": "0" * 64})
    with pytest.raises(DataeffError, match="different weights"):
        tables.build(spec, results, tmp_path / "out")


def test_the_results_of_another_run_are_refused(tmp_path: Path) -> None:
    spec = grid_spec()
    results, _, _ = write_results(tmp_path, spec)
    path = results / "pretrain" / "gpt-ltd-100-s1234" / "run.json"
    write_json(path, {**read_json(path), "name": "gpt-baseline-100-s1234"})
    with pytest.raises(DataeffError, match="is of run 'gpt-baseline-100-s1234'"):
        tables.build(spec, results, tmp_path / "out")


def test_a_grid_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="grid 'core' has no runs"):
        tables.build(grid_spec().model_copy(update={"runs": []}), tmp_path, tmp_path / "out")


# --- families ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return built(tmp_path_factory.mktemp("both"), both_families())


def test_what_a_family_is_not_measured_by_is_empty(both: tuple[Path, Path]) -> None:
    bert = row_of(both[1] / "quality.csv", family="bert", variant="ltd", data="100%")
    gpt = row_of(both[1] / "quality.csv", family="gpt", variant="ltd", data="100%")
    for key in ("bits_per_byte", "bits_per_byte_delta", "average_0shot", "average_10shot_delta"):
        assert bert[key] == ""
        assert gpt[key] != ""
    assert gpt["sentence_order_accuracy"] == ""
    runs = {name: Run(family="bert", variant=name, data=Fraction(1), seed=1234) for name in ("ltd", "baseline")}
    accuracy = {name: order_accuracy(run) for name, run in runs.items()}
    assert float(bert["sentence_order_accuracy"]) == accuracy["ltd"]
    assert float(bert["sentence_order_accuracy_delta"]) == pytest.approx(accuracy["ltd"] - accuracy["baseline"])
    difference = heldout_loss(runs["ltd"]) - heldout_loss(runs["baseline"])
    assert float(bert["heldout_loss_delta"]) == pytest.approx(difference)


def test_rows_of_a_section_are_those_with_a_value_in_it(both: tuple[Path, Path]) -> None:
    quality = read_table(both[1], "quality")
    families = {name: [row["family"] for row in quality.rows_in(name)] for name in quality.sections}
    assert families["heldout"] == families["cost"] == ["gpt"] * 5 + ["bert"] * 5
    assert (families["order"], families["averages"]) == (["bert"] * 5, ["gpt"] * 5)
    latex = (both[1] / "quality.tex").read_text(encoding="utf-8")
    averages = latex.split("\\end{tabular}")[2]
    assert "0-shot average" in averages
    assert averages.count("gpt & ") == 5
    assert "bert & " not in averages
    assert any("Compare within a family only" in note for note in quality.notes)


def test_domains_of_a_masked_model_are_in_nats_per_masked_token(both: tuple[Path, Path]) -> None:
    results, out = both
    row = row_of(out / "heldout_by_domain.csv", family="bert", variant="ltd", data="100%", domain="Legal_text")
    score = read_json(results / "evaluate" / "bert-ltd-100-s1234" / "heldout.json")["domains"]["Legal_text"]
    assert float(row["loss"]) == score["loss"]
    assert (row["bits_per_byte"], row["sentence_order_accuracy"]) == ("", str(score["sentence_order_accuracy"]))
    domains = {row["domain"] for row in rows_of(out / "heldout_by_domain.csv") if row["family"] == "bert"}
    assert domains == set(DOMAINS[1:])
    table = read_table(out, "heldout_by_domain")
    assert {row["family"] for row in table.rows_in("domain")} == {"gpt"}
    assert {row["family"] for row in table.rows_in("masked")} == {"bert"}
    (column,) = [column for column in table.shown_in("masked") if column.heading == "Legal_text"]
    assert format_cell(column, table.rows_in("masked")[0]) == f"{table.rows_in('masked')[0]['masked Legal_text']:.3f}"


def test_tasks_are_those_of_the_family_that_answers_them(both: tuple[Path, Path], tmp_path: Path) -> None:
    assert {row["family"] for row in rows_of(both[1] / "tasks.csv")} == {"gpt"}
    _, out = built(tmp_path, only(both_families(), "bert"))
    assert rows_of(out / "tasks.csv") == []
    assert "a masked model continues no text" in read_table(out, "tasks").notes[0]
    assert "average_0shot" not in rows_of(out / "quality.csv")[0]
    assert "bits_per_byte" not in rows_of(out / "quality.csv")[0]


def test_a_missing_score_of_gpt_is_still_an_error_beside_bert(tmp_path: Path) -> None:
    spec = both_families()
    results, _, _ = write_results(tmp_path, spec)
    missing = results / "evaluate" / "gpt-ltd-100-s1234" / "probes" / "10shot" / "scores.json"
    missing.unlink()
    with pytest.raises(DataeffError, match=re.escape(str(missing))):
        tables.build(spec, results, tmp_path / "out")


def test_summary_of_both_families(both: tuple[Path, Path]) -> None:
    lines = lines_of(both)
    assert [line.split()[:2] for line in lines[2:4]] == [["gpt", "baseline"], ["gpt", "cl_voc"]]
    assert [line.split()[:2] for line in lines[7:9]] == [["bert", "baseline"], ["bert", "cl_seqreo"]]
    assert any("loss: held-out, nats/token (GPT), nats/masked token (BERT)" in line for line in lines)


# --- forms ---------------------------------------------------------------------------------------------------


def test_latex_escapes_and_shape() -> None:
    assert escape_latex(r"a_b & 50% #1 {x} $y$ ~ ^ \z") == (
        r"a\_b \& 50\% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    column = Column(key="loss", heading="Δ loss", digits=2, signed=True, section="s", interval=True)
    table = Table(
        name="t",
        title="title",
        sections={"s": "S"},
        columns=[Column(key="variant", heading="variant"), column],
        rows=[{"variant": "cl_voc", "loss": -0.126, "loss_interval": 0.013}],
        notes=["100% & more"],
    )
    text = latex_text(table)
    assert r"cl\_voc & $-$0.13 $\pm$ 0.01 \\" in text
    assert r"\begin{tabular}{lr}" in text
    assert r"100\% \& more" in text
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 1


@pytest.mark.parametrize(
    ("column", "row", "text"),
    [
        (Column(key="x", heading="", digits=2), {"x": None}, "–"),
        (Column(key="x", heading="", digits=0), {"x": 1234567}, "1,234,567"),
        (Column(key="x", heading="", digits=1, scale=100.0), {"x": 0.256}, "25.6"),
        (Column(key="x", heading="", digits=1, signed=True), {"x": 0.25}, "+0.2"),
        (Column(key="x", heading="", digits=2, unit=" ×"), {"x": 0.5, "x_interval": 0.1}, "0.50 ± 0.10 ×"),
        (Column(key="x", heading="", digits=1, signed_by="d"), {"x": 2.0, "d": False}, "2.0"),
        (Column(key="x", heading="", digits=1, signed_by="d"), {"x": 2.0, "d": True}, "+2.0"),
        (Column(key="x", heading=""), {"x": "text"}, "text"),
    ],
)
def test_cells(column: Column, row: dict[str, object], text: str) -> None:
    assert format_cell(column, row) == text


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = Table(
        name="t",
        title="T",
        sections={"s": "S"},
        columns=[Column(key="a", heading="A", section="s", digits=3, interval=True)],
        rows=[{"a": 0.1, "a_interval": 0.2}, {"a": None}],
        notes=[],
    )
    write_table(table, tmp_path)
    assert read_table(tmp_path, "t") == table
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == "a,a_interval\n0.1,0.2\n,\n"


def test_percent() -> None:
    assert [percent(Fraction(text)) for text in ("1", "1/2", "2/3", "0.01")] == ["100%", "50%", "66.7%", "1%"]


# --- the terminal --------------------------------------------------------------------------------------------


def lines_of(folders: tuple[Path, Path]) -> list[str]:
    lines = tables.summary(folders[0], "core").splitlines()
    assert max(map(len, lines[:-1])) <= 100
    assert "\n".join(lines).isascii()
    return lines


def test_summary_of_one_seed(one_seed: tuple[Path, Path]) -> None:
    lines = lines_of(one_seed)
    assert len({len(line) for line in lines[: 2 + len(FULL) + len(HALF)]}) == 1
    assert [line.split()[0] for line in lines[2 : 2 + len(FULL)]] == FULL
    loss = heldout_loss(run("ltd"))
    ltd = lines[2 + FULL.index("ltd")].split()
    assert ltd[1:5] == ["100%", "1", f"{loss:.3f}", f"{loss - heldout_loss(run('baseline')):+.3f}"]
    assert "steps" in lines[0]
    assert any("no interval, no claim" in line for line in lines)
    assert lines[-1] == f"report: {one_seed[0] / 'report' / 'index.html'}"


def test_summary_of_three_seeds_gives_intervals_their_room(three_seeds: tuple[Path, Path]) -> None:
    lines = lines_of(three_seeds)
    assert "10-shot diff" in lines[0]
    assert re.search(r"[+-]\d\.\d{3}\+-\d\.\d{3}", lines[3])
    assert not any("no claim" in line for line in lines)


def test_summary_of_the_papers_size_fits(three_seeds: tuple[Path, Path], tmp_path: Path) -> None:
    results = tmp_path / "paper"
    table = read_json(three_seeds[1] / "quality.json")
    for row in table["rows"]:
        row |= {"variant": "a_variant_with_a_very_long_name", "effective_tokens": 3e11, "steps": 372_789}
        row |= {"training_seconds": 1_234_567.0}
    write_json(results / "tables" / "core" / "quality.json", table)
    lines = lines_of((results, results / "tables" / "core"))
    assert "300.00B" in lines[2]
    assert "a_variant_with_a_ver.." in lines[2]


def test_summary_names_another_grids_page(one_seed: tuple[Path, Path], tmp_path: Path) -> None:
    results = tmp_path / "scale"
    for name in ("tables/mine/quality.json", "report/mine.html"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text((one_seed[1] / "quality.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert tables.summary(results, "mine").endswith(f"report: {results / 'report' / 'mine.html'}")


def test_summary_without_tables_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=re.escape(str(tmp_path / "tables" / "core" / "quality.json"))):
        tables.summary(tmp_path, "core")


def test_the_factory_writes_what_the_stages_write(one_seed: tuple[Path, Path]) -> None:
    """Guards the fixture itself: its metrics end on a held-out loss, and its provenance is complete."""
    run_folder = one_seed[0] / "pretrain" / "gpt-baseline-100-s1234"
    last = json.loads((run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    record = read_json(run_folder / "run.json")
    assert (last["step"], last["heldout_loss"]) == (record["steps"], record["heldout_loss"])
    assert record["commit"] == COMMIT
