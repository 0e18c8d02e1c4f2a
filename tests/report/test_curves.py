"""The curves' data: probes of metrics.jsonl against what was spent, and their mean and range over seeds."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataeff.claims import read_claims
from dataeff.files import read_json, write_json
from dataeff.report import script_json
from dataeff.report.curves import curves_of
from dataeff.tables.results import read_runs
from tests.report.pages import Inputs


def of(inputs: Inputs, results: Path | None = None) -> list[dict[str, Any]]:
    results = results or inputs.results
    return curves_of(inputs.spec, read_runs(inputs.spec, results), results, read_claims(inputs.tables))


def group(curves: list[dict[str, Any]], variant: str, data: str) -> dict[str, Any]:
    (found,) = [entry for entry in curves[0]["groups"] if (entry["variant"], entry["data"]) == (variant, data)]
    return found


def probes(results: Path, run: str) -> list[dict[str, Any]]:
    lines = (results / "pretrain" / run / "metrics.jsonl").read_text().splitlines()
    return [row for line in lines if "heldout_loss" in (row := json.loads(line))]


def test_a_course_is_the_probes_of_its_run(inputs: Inputs) -> None:
    found = group(of(inputs), "ltd", "25%")
    (run,) = found["runs"]
    rows = probes(inputs.results, run["name"])
    assert len(rows) == 10
    assert run["loss"] == [round(row["heldout_loss"], 5) for row in rows]
    assert run["x"]["effective"] == [row["effective_tokens"] for row in rows]
    assert run["x"]["raw"] == [row["raw_tokens"] for row in rows]
    points = read_json(inputs.results / "pretrain" / run["name"] / "timings.json")["heldout_points"]
    assert run["x"]["seconds"] == [round(point["training_seconds"], 1) for point in points]
    assert found["band"] is None


def test_a_band_is_the_mean_and_range_over_seeds(three_seeds: Inputs) -> None:
    found = group(of(three_seeds), "baseline", "100%")
    losses = np.array([run["loss"] for run in found["runs"]])
    assert losses.shape == (3, 10)
    band = found["band"]
    np.testing.assert_allclose(band["mean"], losses.mean(axis=0), atol=2e-5)
    assert band["low"] == losses.min(axis=0).tolist()
    assert band["high"] == losses.max(axis=0).tolist()
    assert band["x"]["effective"] == found["runs"][0]["x"]["effective"]


def test_runs_without_seconds_at_the_probes_have_no_axis_of_time(three_seeds: Inputs, tmp_path: Path) -> None:
    results = tmp_path / "tiny"
    shutil.copytree(three_seeds.results, results)
    name = next(run.name for run in three_seeds.spec.runs if (run.variant, run.data) == ("baseline", Fraction(1)))
    path = results / "pretrain" / name / "timings.json"
    write_json(path, {**read_json(path), "heldout_points": []})
    found = group(of(three_seeds, results), "baseline", "100%")
    assert [run["x"]["seconds"] is None for run in found["runs"]] == [run["name"] == name for run in found["runs"]]
    assert found["band"]["x"]["seconds"] is None
    assert found["band"]["x"]["raw"]


def test_the_baseline_is_drawn_first_and_few_variants_are_all_drawn(inputs: Inputs) -> None:
    (curves,) = of(inputs)
    assert next(iter(curves["variants"])) == "baseline"
    assert curves["chosen"] == list(curves["variants"])
    assert curves["data"] == ["100%", "25%"]
    assert curves["unit"] == "nats/token"
    assert all(re.fullmatch(r"#[0-9a-fA-F]{6}", look["colour"]) for look in curves["variants"].values())


@pytest.mark.parametrize("text", ["</script>", "<!-- a comment", "a \u2028 line"])
def test_data_does_not_end_its_element(text: str) -> None:
    shown = script_json({"text": text})
    assert "<" not in shown
    assert json.loads(shown) == {"text": text}
