"""What is collected of a grid is enough for its tables, figures and page, and the numbers are the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataeff.errors import DataeffError
from dataeff.files import check_manifest, read_json
from dataeff.measured.build import build
from dataeff.measured.collect import collect, evenly
from dataeff.study.specs import GridSpec, read_spec, write_spec
from tests.measured.conftest import COMMAND, write_specs_of
from tests.result_factory import grid_spec, write_results


def test_tables_of_a_collected_grid_are_those_of_its_results(built: Path, collected: tuple[Path, Path]) -> None:
    folder, whole = collected
    made = built / "tables" / "core"
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in made.iterdir())
    assert len(names) > 10
    for name in names:
        assert (made / name).read_bytes() == (whole / name).read_bytes(), name
    assert (built / "report" / "index.html").stat().st_size > 100_000
    assert len(list((built / "figures" / "core").glob("*.png"))) >= 5
    assert (built / "figures" / "core" / "seen.png").is_file()  # from what was gathered: the orders are gone
    assert check_manifest(folder) is None


def test_what_is_kept_with_the_results(collected: tuple[Path, Path]) -> None:
    facts = read_json(collected[0] / "measured.json")
    assert (facts["command"], facts["seeds"]) == (COMMAND, [1, 2, 3])
    assert len(facts["hardware"]) == len(facts["software"]) == len(facts["commit"]) == 1


def test_long_runs_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataeff.measured import collect as module

    spec = grid_spec()
    results, data, _ = write_results(tmp_path, spec)
    write_specs_of(results, spec)
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    monkeypatch.setattr(module, "MOST_METRICS", 10)
    collect(spec, results, data, tmp_path / "out", COMMAND)
    name = spec.runs[0].name
    whole = pq.read_table(results / f"plan/{name}/steps.parquet").to_pandas()
    kept = pq.read_table(tmp_path / f"out/plan/{name}/steps.parquet").to_pandas()
    assert len(kept) == 10 < len(whole)
    assert kept.iloc[0].equals(whole.iloc[0])
    assert kept.iloc[-1].equals(whole.iloc[-1])
    lines = (results / f"pretrain/{name}/metrics.jsonl").read_text().splitlines()
    thinned = (tmp_path / f"out/pretrain/{name}/metrics.jsonl").read_text().splitlines()
    assert {line for line in lines if "heldout_loss" in line} <= set(thinned) <= set(lines)
    assert len(thinned) < len(lines)


def test_the_grid_kept_is_the_one_asked_for(tmp_path: Path) -> None:
    """Not the one that an earlier version left with the results."""
    spec = grid_spec()
    results, data, _ = write_results(tmp_path, spec)
    write_specs_of(results, spec)
    name = f"specs/grid/{spec.grid}.yaml"
    write_spec(results / name, spec.model_copy(update={"scale_about": "an earlier one"}))
    collect(spec, results, data, tmp_path / "out", COMMAND)
    assert read_spec(tmp_path / "out" / name, GridSpec) == spec


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    spec = grid_spec()
    results, data, _ = write_results(tmp_path, spec)
    write_specs_of(results, spec)
    missing = results / f"evaluate/{spec.runs[3].name}/heldout.json"
    missing.unlink()
    with pytest.raises(DataeffError, match=f"{missing}: no such file; finish the grid first"):
        collect(spec, results, data, tmp_path / "out", COMMAND)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_collected_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match="no collected grid"):
        build(tmp_path)


@given(st.integers(1, 10_000), st.integers(2, 500))
def test_places_are_even_and_hold_both_ends(count: int, most: int) -> None:
    places = evenly(count, most)
    assert places[0] == 0
    assert places[-1] == count - 1
    assert len(places) == min(count, most) == len(set(places))
    steps = [after - before for before, after in pairwise(places)]
    assert not steps or max(steps) - min(steps) <= 1
