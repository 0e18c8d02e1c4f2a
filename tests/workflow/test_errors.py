"""Mistakes as a user meets them: Snakemake stops before the DAG with one line that names the key and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.workflow.checkout import Checkout


def message(said: str) -> str:
    """The one line of an error, which must be the last one; all else is Snakemake saying what it reads."""
    lines = said.splitlines()
    told = [number for number, line in enumerate(lines) if line.startswith("dataeff: error: ")]
    assert told == [len(lines) - 1], said
    assert "Traceback" not in said
    assert 'File "' not in said
    return lines[-1].removeprefix("dataeff: error: ")


def refused(checkout: Checkout, *arguments: str) -> str:
    found = message(checkout.error(*arguments))
    written = [path for path in checkout.results.rglob("*") if path.is_file()]
    assert written == [], "a study with a mistake in it wrote something"
    return found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sede=[1]", "config: unknown key 'sede'; did you mean 'seeds'?"),
        ("scale=tinny", "config: scale: unknown scale 'tinny'; did you mean 'tiny'?"),
        ("grid=cor", "config: grid: unknown grid 'cor'; did you mean 'core'?"),
        ("seeds=[one]", "config: seeds[0]: a whole number is needed; found 'one'"),
        ("hardware={micro_bach: 2}", "config: hardware: unknown key 'micro_bach'; did you mean 'micro_batch'?"),
        (
            "grids={core: [{family: gpt, variants: [basline], data: [1]}]}",
            "config: grids.core[0].variants: unknown variant 'basline'; did you mean 'baseline'?",
        ),
    ],
)
def test_a_mistake_on_the_command_line(checkout: Checkout, setting: str, expected: str) -> None:
    assert refused(checkout, "--config", setting) == expected


OWN = {"extends": ["cl_seqtru", "cl_seqres"]}
LATE = {"extends": ["ltd"], "token_drop": {"keep_fisrt": 2}}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"grdi": "mine"}, "config: unknown key 'grdi'; did you mean 'grid'?"),
        (
            {"variants": {"gpt": {"late": LATE}}},
            "config: variants.gpt.late.token_drop: unknown key 'keep_fisrt'; did you mean 'keep_first'?",
        ),
        (
            {"variants": {"gpt": {"both": OWN}}},
            "variants.gpt.both: parents in conflict: 'cl_seqtru' sets curriculum.seqlen.apply to 'truncate', "
            "'cl_seqres' sets curriculum.seqlen.apply to 'reshape'; set it in 'both' or drop a parent",
        ),
        (
            {"variants": {"gpt": {"late": {"extends": ["lt"]}}}},
            "variants.gpt.late.extends: unknown parent 'lt'; did you mean 'ltd'?",
        ),
    ],
)
def test_a_mistake_in_a_file_of_one_s_own(checkout: Checkout, own: dict[str, object], expected: str) -> None:
    (checkout.folder / "my_study.yaml").write_text(yaml.safe_dump(own))
    assert refused(checkout, "--configfile", "my_study.yaml") == expected


def test_a_mistake_in_a_file_of_config_names_the_file(checkout: Checkout) -> None:
    file = checkout.folder / "config/scales/tiny.yaml"
    file.write_text(file.read_text().replace("shots:", "shot:"))
    assert refused(checkout) == f"{file}: evaluation: unknown key 'shot'; did you mean 'shots'?"


def test_a_mistake_leaves_a_finished_study_as_it_is(study: Checkout) -> None:
    before = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()}
    message(study.error("--config", "scale=tinny"))
    assert {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file()} == before
    assert study.todo() == set()


def test_values_on_the_command_line_have_their_types(checkout: Checkout) -> None:
    """Snakemake itself leaves what is inside a list or a mapping of `--config` as texts."""
    plan = checkout.results / "tiny/specs/plan/gpt-late-50-s7.yaml"
    jobs = checkout.todo(
        "--config",
        "seeds=[7]",
        "grid=mine",
        "grids={mine: [{family: gpt, variants: [late], data: [1/2]}]}",
        "variants={gpt: {late: {extends: [ltd], token_drop: {keep_first: 2, pacing: {over: 0.5}}}}}",
    )
    assert "plan gpt-late-50-s7" in jobs
    drop = yaml.safe_load(Path(plan).read_text())["variant"]["token_drop"]
    assert (drop["keep_first"], drop["pacing"]["over"]) == (2, "1/2")
