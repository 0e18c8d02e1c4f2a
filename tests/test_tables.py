import csv
import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dataeff import tables
from dataeff.errors import DataeffError
from dataeff.study.specs import GridSpec
from dataeff.study.types import Run, Variant
from dataeff.tables.details import time_table
from dataeff.tables.statistics import claim, estimate
from dataeff.tables.table import Column, csv_text, escape_latex, format_cell, read_table
from tests.result_factory import DOMAINS, grid_spec, heldout_loss, task_value, training_seconds, write_results

SEEDS = (1, 2, 3)
T_95_OF_2_DEGREES = 4.302652729911275
"""The 97.5% quantile of Student's t with two degrees of freedom, from a printed table (4.3027) and more digits."""


def run_of(variant: str, data: Fraction, seed: int) -> Run:
    return Run(family="gpt", variant=variant, data=data, seed=seed)


def half_width(values: list[float]) -> float:
    mean = sum(values) / 3
    return T_95_OF_2_DEGREES * math.sqrt(sum((value - mean) ** 2 for value in values) / 2) / math.sqrt(3)


def made(root: Path, spec: GridSpec) -> tuple[Path, Path]:
    results, data, _ = write_results(root, spec)
    tables.build(spec, results, results / "tables" / spec.grid, data.parent)
    return results, results / "tables" / spec.grid


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("one"), grid_spec())


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made(tmp_path_factory.mktemp("three"), grid_spec(SEEDS))


def row_of(folder: Path, name: str, variant: str, data: str) -> dict[str, Any]:
    (row,) = [row for row in read_table(folder, name).rows if (row["variant"], row["data"]) == (variant, data)]
    return row


def csv_rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def small(root: Path, *names: str) -> tuple[GridSpec, Path]:
    spec = grid_spec(variants={name: Variant(about=name) for name in names})
    results, _, _ = write_results(root, spec, benchmarks=False)
    return spec, results


@pytest.mark.parametrize(("variant", "data"), [("ltd", Fraction(1)), ("composed", Fraction(1, 2))])
def test_differences_are_to_the_baseline_of_the_same_seed(
    three_seeds: tuple[Path, Path], variant: str, data: Fraction
) -> None:
    row = row_of(three_seeds[1], "quality", variant, "100%" if data == 1 else "50%")
    own = [heldout_loss(run_of(variant, data, seed)) for seed in SEEDS]
    same = [mine - heldout_loss(run_of("baseline", data, seed)) for mine, seed in zip(own, SEEDS, strict=True)]
    full = [mine - heldout_loss(run_of("baseline", Fraction(1), seed)) for mine, seed in zip(own, SEEDS, strict=True)]
    for key, values in (("", own), ("_delta", same), ("_delta_full", full)):
        assert row[f"heldout_loss{key}"] == pytest.approx(sum(values) / 3, abs=1e-12)
        assert row[f"heldout_loss{key}_interval"] == pytest.approx(half_width(values), rel=1e-9)
    assert row["claim"] == "95% t interval, n = 3"


def test_half_the_data_differ_from_full_data_by_more(three_seeds: tuple[Path, Path]) -> None:
    row = row_of(three_seeds[1], "quality", "composed", "50%")
    assert row["heldout_loss_delta_full"] - row["heldout_loss_delta"] == pytest.approx(
        sum(
            heldout_loss(run_of("baseline", Fraction(1, 2), seed)) - heldout_loss(run_of("baseline", Fraction(1), seed))
            for seed in SEEDS
        )
        / 3
    )


def test_averages_and_time_ratios_by_hand(three_seeds: tuple[Path, Path]) -> None:
    row = row_of(three_seeds[1], "quality", "composed", "100%")

    def average(variant: str, seed: int) -> float:
        return sum(task_value(run_of(variant, Fraction(1), seed), task, 10) for task in ("last_word", "word_order")) / 2

    deltas = [average("composed", seed) - average("baseline", seed) for seed in SEEDS]
    assert row["average_10shot"] == pytest.approx(sum(average("composed", seed) for seed in SEEDS) / 3)
    assert row["average_10shot_delta"] == pytest.approx(sum(deltas) / 3)
    ratios = [
        training_seconds(run_of("composed", Fraction(1), seed))
        / training_seconds(run_of("baseline", Fraction(1), seed))
        for seed in SEEDS
    ]
    assert row["time_ratio"] == pytest.approx(sum(ratios) / 3)
    assert row["time_ratio_interval"] == pytest.approx(half_width(ratios))


def test_the_baseline_has_no_difference_to_itself(one_seed: tuple[Path, Path]) -> None:
    full = row_of(one_seed[1], "quality", "baseline", "100%")
    half = row_of(one_seed[1], "quality", "baseline", "50%")
    assert full["heldout_loss_delta"] is None
    assert full["heldout_loss_delta_full"] is None
    assert full["time_ratio"] is None
    assert half["heldout_loss_delta"] is None
    expected = heldout_loss(run_of("baseline", Fraction(1, 2), 1234)) - heldout_loss(
        run_of("baseline", Fraction(1), 1234)
    )
    assert half["heldout_loss_delta_full"] == pytest.approx(expected)


def test_a_seed_without_a_baseline_gives_no_difference(tmp_path: Path) -> None:
    spec = grid_spec((1, 2), variants={"baseline": Variant(), "ltd": Variant()})
    spec = spec.model_copy(update={"runs": [run for run in spec.runs if run.name != "gpt-baseline-100-s2"]})
    left = [(run.variant, run.seed) for run in spec.runs]
    spec = spec.model_copy(update={"runs": [run for run in spec.runs if (run.variant, run.seed) != ("baseline", 2)]})
    assert ("baseline", 1) in left
    results, _, _ = write_results(tmp_path, spec, benchmarks=False)
    tables.build(spec, results, tmp_path / "out")
    assert row_of(tmp_path / "out", "quality", "ltd", "100%")["heldout_loss_delta"] is None


def test_estimate_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.half_width == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert estimate([1.0, 3.0]).half_width is None
    assert claim(2) == "n = 2: no claim"


def test_one_seed_gives_no_interval_and_says_so(one_seed: tuple[Path, Path], three_seeds: tuple[Path, Path]) -> None:
    for name in ("quality", "heldout_by_domain", "tasks"):
        table = read_table(one_seed[1], name)
        assert not [row for row in table.rows if any(row.get(key) is not None for key in row if "interval" in key)]
        assert any("n = 1: no interval is given and no claim is made" in note for note in table.notes), name
        with_three = read_table(three_seeds[1], name)
        assert any("±" in note for note in with_three.notes), name
        assert not any("no claim" in note for note in with_three.notes), name
    assert {row["heldout_loss_interval"] for row in csv_rows(one_seed[1], "quality")} == {""}
    assert "±" not in "".join(
        format_cell(column, row)
        for row in read_table(one_seed[1], "quality").rows
        for column in read_table(one_seed[1], "quality").columns
    )


def test_csv_holds_full_precision(three_seeds: tuple[Path, Path]) -> None:
    rows = csv_rows(three_seeds[1], "quality")
    assert len(rows) == 11
    for found, expected in zip(rows, read_table(three_seeds[1], "quality").rows, strict=True):
        for key in ("heldout_loss", "heldout_loss_interval", "average_0shot_delta", "training_seconds"):
            assert found[key] == ("" if expected.get(key) is None else repr(expected[key]))
    value = 1 / 3
    assert csv_text([Column(key="a", heading="a", digits=1)], [{"a": value}, {"a": None}]) == f"a\n{value!r}\n\n" or (
        csv_text([Column(key="a", heading="a", digits=1)], [{"a": value}, {"a": None}]) == f'a\n{value!r}\n""\n'
    )


def test_the_long_tables_have_a_row_a_domain_and_a_task(one_seed: tuple[Path, Path]) -> None:
    domains, tasks = csv_rows(one_seed[1], "heldout_by_domain"), csv_rows(one_seed[1], "tasks")
    assert len(domains) == 11 * len(DOMAINS)
    assert len(tasks) == 11 * 2 * 2
    assert {row["domain"] for row in domains} == set(DOMAINS)
    results = one_seed[0]
    for name, variant in (("baseline", "baseline"), ("ltd", "ltd")):
        row = next(row for row in domains if (row["variant"], row["data"], row["domain"]) == (name, "100%", DOMAINS[4]))
        path = results / "evaluate" / run_of(variant, Fraction(1), 1234).name / "heldout.json"
        assert float(row["bits_per_byte"]) == json.loads(path.read_text())["domains"][DOMAINS[4]]["bits_per_byte"]


def test_domain_cells_are_differences_but_for_the_baseline(one_seed: tuple[Path, Path]) -> None:
    def score(variant: str) -> float:
        path = one_seed[0] / "evaluate" / run_of(variant, Fraction(1), 1234).name / "heldout.json"
        return json.loads(path.read_text())["domains"][DOMAINS[0]]["bits_per_byte"]

    table = read_table(one_seed[1], "heldout_by_domain")
    (column,) = [column for column in table.columns if column.heading == DOMAINS[0]]
    baseline = row_of(one_seed[1], "heldout_by_domain", "baseline", "100%")
    other = row_of(one_seed[1], "heldout_by_domain", "ltd", "100%")
    assert baseline[column.key] == score("baseline")
    assert format_cell(column, baseline)[0].isdigit()
    assert other[column.key] == pytest.approx(score("ltd") - score("baseline"))
    assert format_cell(column, other)[0] in "+−"


def test_latex_escapes(one_seed: tuple[Path, Path]) -> None:
    assert escape_latex("a_b 50% & {c} #1 $ ^ ~ \\") == (
        r"a\_b 50\% \& \{c\} \#1 \$ \textasciicircum{} \textasciitilde{} \textbackslash{}"
    )
    assert escape_latex("−1 ± 2 × –") == r"$-$1 $\pm$ 2 $\times$ --"
    text = (one_seed[1] / "quality.tex").read_text(encoding="utf-8")
    assert r"gpt & cl\_seqtru\_voc & 100\% & 1 & " in text
    assert "$-$0." in text
    assert text.isascii()
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    first = text.splitlines()[1]
    columns = len(first.removeprefix(r"\begin{tabular}{").removesuffix("}"))
    assert body[0].replace(r"\&", "").count("&") == columns - 1
    domains = (one_seed[1] / "heldout_by_domain.tex").read_text(encoding="utf-8")
    assert r"GitHub \& <code>" in domains
    assert r"Legal\_text" in domains


def test_cells_for_people() -> None:
    column = Column(key="loss", heading="loss", digits=3, signed=True, interval=True)
    assert format_cell(column, {"loss": -0.0125}) == "−0.013" or format_cell(column, {"loss": -0.0125}) == "−0.012"
    assert format_cell(column, {"loss": 0.5, "loss_interval": 0.25}) == "+0.500 ± 0.250"
    assert format_cell(column, {"loss": None}) == "–"
    assert format_cell(Column(key="n", heading="n", digits=0, unit=" s"), {"n": 1234567.4}) == "1,234,567 s"
    share = Column(key="share", heading="share", digits=1, scale=100.0)
    assert format_cell(share, {"share": 0.1234}) == "12.3"


def test_time_table_from_benchmark_files(one_seed: tuple[Path, Path]) -> None:
    rows = {(row["stage"], row["level"]): row for row in read_table(one_seed[1], "time").rows}
    runs = grid_spec().runs
    seconds = {run.name: training_seconds(run) + 8 for run in runs}
    pretrain = rows["pretrain", "scale"]
    assert pretrain["jobs"] == 11
    assert pretrain["seconds"] == pytest.approx(sum(seconds.values()))
    assert pretrain["longest_seconds"] == pytest.approx(max(seconds.values()))
    assert seconds[pretrain["longest_job"]] == max(seconds.values())
    assert pretrain["peak_memory_mb"] == 910.5
    assert rows["plan", "scale"]["seconds"] == 16.5
    assert rows["plan", "scale"]["peak_memory_mb"] is None
    assert (rows["corpus", "data"]["jobs"], rows["corpus", "data"]["seconds"]) == (2, 8.5)
    assert rows["tokens", "data"]["longest_job"] == "bpe4k"
    total = sum(seconds.values()) + 16.5 + 3 * 4.25
    assert pretrain["share"] == pytest.approx(sum(seconds.values()) / total)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert read_table(one_seed[1], "time").rows[0]["stage"] == "pretrain"


def test_time_table_leaves_out_what_comes_after_it(tmp_path: Path) -> None:
    head, line = "s\th:m:s\tmax_rss\n", "2.0\t0:00:02\t100.0\n"
    for path in ("plan/a.tsv", "tables/core.tsv", "figures/core.tsv", "report/index.tsv"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(head + line)
    assert [row["stage"] for row in time_table({"scale": tmp_path}).rows] == ["plan"]
    (tmp_path / "plan" / "b.tsv").write_text("nothing\n")
    with pytest.raises(DataeffError, match=r"plan/b\.tsv: not a benchmark file"):
        time_table({"scale": tmp_path})


def test_no_benchmark_files_is_said(tmp_path: Path) -> None:
    table = time_table({"scale": tmp_path / "none"})
    assert table.rows == []
    assert "No benchmark files were found" in table.notes[0]


@pytest.mark.parametrize(
    "file",
    [
        "pretrain/{run}/run.json",
        "pretrain/{run}/timings.json",
        "evaluate/{run}/heldout.json",
        "evaluate/{run}/10shot/scores.json",
    ],
)
def test_a_missing_result_is_named_and_nothing_is_written(tmp_path: Path, file: str) -> None:
    spec, results = small(tmp_path, "baseline", "ltd")
    path = results / file.format(run=spec.runs[1].name)
    path.unlink()
    with pytest.raises(DataeffError) as caught:
        tables.build(spec, results, tmp_path / "out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_scores_of_other_weights_are_refused(tmp_path: Path) -> None:
    spec, results = small(tmp_path, "baseline", "ltd")
    folder = results / "evaluate" / spec.runs[1].name
    edit(folder / "10shot" / "scores.json", model_digest="f" * 64)
    with pytest.raises(DataeffError, match="10shot/scores.json are of different weights") as caught:
        tables.build(spec, results, tmp_path / "out")
    assert str(folder) in str(caught.value)


def test_a_file_of_another_run_is_refused(tmp_path: Path) -> None:
    spec, results = small(tmp_path, "baseline", "ltd")
    edit(results / "pretrain" / spec.runs[1].name / "run.json", name=spec.runs[0].name)
    with pytest.raises(DataeffError, match=f"is of run '{spec.runs[0].name}'"):
        tables.build(spec, results, tmp_path / "out")


def test_a_missing_key_names_its_file(tmp_path: Path) -> None:
    spec, results = small(tmp_path, "baseline")
    path = results / "pretrain" / spec.runs[0].name / "run.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "steps"}))
    with pytest.raises(DataeffError, match="steps") as caught:
        tables.build(spec, results, tmp_path / "out")
    assert str(path) in str(caught.value)


def test_other_domains_and_an_empty_grid_are_errors(tmp_path: Path) -> None:
    spec, results = small(tmp_path, "baseline", "ltd")
    path = results / "evaluate" / spec.runs[1].name / "heldout.json"
    found = json.loads(path.read_text())
    found["domains"].pop(DOMAINS[0])
    path.write_text(json.dumps(found))
    with pytest.raises(DataeffError, match=f"{spec.runs[1].name} has the domains"):
        tables.build(spec, results, tmp_path / "out")
    with pytest.raises(DataeffError, match="grid 'core' has no runs"):
        tables.build(spec.model_copy(update={"runs": []}), results, tmp_path / "out")


def test_two_builds_are_byte_identical(one_seed: tuple[Path, Path], tmp_path: Path) -> None:
    results, first = one_seed
    tables.build(grid_spec(), results, tmp_path / "again", results.parent / "data" / "packages")
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("seeds", ["one_seed", "three_seeds"])
def test_summary_fits_a_terminal_and_names_the_report(seeds: str, request: pytest.FixtureRequest) -> None:
    results, _ = request.getfixturevalue(seeds)
    text = tables.summary(results, "core")
    *lines, last = text.splitlines()
    assert text.isascii()
    assert max(map(len, lines)) <= 100
    assert last == f"report: {results}/report/index.html"
    # 11 rows below a heading and a rule.
    assert [line.split()[0] for line in lines[2:13]] == [row["variant"] for row in read_rows(results)]
    assert ("+-" in text) == (seeds == "three_seeds")
    assert ("no claim" in text) == (seeds == "one_seed")
    loss = sum(row["heldout_loss"] for row in read_rows(results)[:1])
    assert f"{loss:.3f}" in lines[2]


def read_rows(results: Path) -> list[dict[str, Any]]:
    return read_table(results / "tables" / "core", "quality").rows


def test_summary_of_long_names_and_of_a_grid_with_its_own_page(tmp_path: Path) -> None:
    name = "a_composition_with_a_name_of_many_words"
    spec, results = small(tmp_path, "baseline", name)
    tables.build(spec, results, results / "tables" / "core")
    page = results / "report" / "core.html"
    page.parent.mkdir()
    page.write_text("")
    *lines, last = tables.summary(results, "core").splitlines()
    assert last == f"report: {page}"
    assert max(map(len, lines)) <= 100
    assert f"{name[:20]}.." in lines[3]


def test_summary_without_tables_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"tables/core/quality\.json: no such file"):
        tables.summary(tmp_path, "core")
