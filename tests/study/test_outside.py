"""A study loaded outside Snakemake is the one that Snakemake loads; runs in no grid are made up from their names."""

from argparse import Namespace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataeff.errors import DataeffError
from dataeff.study.load import load_study
from dataeff.study.outside import AskedRun, find_run, raw_config
from dataeff.study.specs import plan_spec
from dataeff.study.workflow import typed_config
from tests.factory import ROOT


def args(*settings: str, data: str | None = None, files: tuple[Path, ...] = ()) -> Namespace:
    return Namespace(root=ROOT, configfile=list(files), config=list(settings), data=Fraction(data) if data else None)


def found(name: str, *settings: str, data: str | None = None) -> AskedRun:
    return find_run(args("scale=tiny", *settings, data=data), name)


@pytest.mark.parametrize(
    "settings",
    [
        ["scale=smoke"],
        ["seeds=[1, 2]", "scale=smoke"],
        ["hardware={threads: 2}", "hardware={micro_batch: 4}"],
        ["grids={core: [{family: gpt, variants: [ltd], data: [1/4]}]}"],
        ["results=elsewhere", "cache=some/folder"],
    ],
)
def test_settings_mean_what_they_mean_to_snakemake(settings: list[str], tmp_path: Path) -> None:
    snakemake_cli = pytest.importorskip("snakemake.cli")
    from snakemake.utils import update_config

    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"seeds": [7], "hardware": {"threads": 3, "processes": 2}}))
    theirs: dict[str, Any] = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(theirs, yaml.safe_load(own.read_text()))
    update_config(theirs, snakemake_cli.parse_config(settings))
    ours = raw_config(ROOT, [own], settings)
    assert load_study(ours, ROOT) == load_study(typed_config(theirs, settings), ROOT)


def test_a_number_is_read_as_snakemake_reads_it() -> None:
    raw = raw_config(ROOT, settings=["a=1e-3", "b=3", "c=1/2", "d=[1/2, 3]", "e="])
    assert [raw[key] for key in "abcde"] == [0.001, 3, "1/2", ["1/2", 3], None]


def test_a_run_of_a_grid_is_found_in_it() -> None:
    asked = found("gpt-composed-50-s1234")
    assert asked.in_grid
    assert asked.run.data == Fraction(1, 2)


def test_a_run_of_no_grid_is_made_from_its_name() -> None:
    asked = found("gpt-cl_voc-35-s99")
    assert not asked.in_grid
    assert (asked.run.variant, asked.run.data, asked.run.seed) == ("cl_voc", Fraction(7, 20), 99)
    assert plan_spec(asked.study, asked.run).train_tokens == int(450_560 * 0.35)


def test_a_percentage_is_the_fraction_that_the_grids_know_by_it() -> None:
    assert found("gpt-cl_voc-67-s1234").run.data == Fraction(2, 3)
    assert found("gpt-cl_voc-67-s1234", data="0.67").run.data == Fraction(67, 100)


def test_two_fractions_of_one_percentage_are_asked_about() -> None:
    of = "{{family: gpt, variants: [{}], data: [{}]}}"
    grids = f"grids={{core: [{of.format('cl_seqtru', '2/3')}, {of.format('cl_voc', '0.67')}]}}"
    with pytest.raises(DataeffError, match=r"67% may be 2/3 or 67/100; say which with --data 2/3"):
        found("gpt-baseline-67-s1", grids)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("gpt-compsed-50-s1", None, "gpt-compsed-50-s1: unknown variant 'compsed'; did you mean 'composed'"),
        ("gtp-ltd-50-s1", None, "unknown family 'gtp'; did you mean 'gpt'"),
        ("gpt-composed-50", None, "unknown run 'gpt-composed-50'; runs are .*such as gpt-composed-50-s123[4-8]"),
        ("gpt-ltd-0-s1", None, "unknown run"),
        ("gpt-ltd-50-s1", "1/3", "--data 1/3: that is 33% and not the 50% of gpt-ltd-50-s1"),
    ],
)
def test_unknown_runs(name: str, data: str | None, message: str) -> None:
    with pytest.raises(DataeffError, match=message):
        found(name, data=data)


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"config\.yaml: no such file; .*--root"):
        raw_config(tmp_path)


def test_settings_that_are_none() -> None:
    with pytest.raises(DataeffError, match="'gpt-ltd-50-s1' is not KEY=VALUE"):
        raw_config(ROOT, settings=["scale=tiny", "gpt-ltd-50-s1"])
    with pytest.raises(DataeffError, match="is not YAML"):
        raw_config(ROOT, settings=["seeds=[1"])


def test_a_configfile_that_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(DataeffError, match=r"list\.yaml: a mapping"):
        raw_config(ROOT, [tmp_path / "list.yaml"])
