"""The command: one parser for all stages, errors in one line, nothing heavy imported before it is needed."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataeff import cli
from dataeff.errors import DataeffError
from dataeff.study.types import Hardware
from dataeff.study.workflow import hardware_options
from tests.factory import config, load

HEAVY = {"torch", "transformers", "deepspeed", "lm_eval", "pandas", "matplotlib", "tokenizers", "numba", "snakemake"}
STAGES = {
    "corpus",
    "tokens",
    "samples",
    "analyze",
    "plan",
    "pretrain",
    "evaluate",
    "finetune",
    "tables",
    "figures",
    "report",
}
STEPS = {"analyze_map", "analyze_frequency", "analyze_reduce"}
PRETRAIN = "pretrain --spec s --plan p --samples a --tokenizer t --heldout h --state st --out o --tokens 00 01"


def leaves(
    parser: argparse.ArgumentParser, name: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that does something, by its words."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, sub in group.choices.items():
            yield from leaves(sub, (*name, word))


COMMANDS = dict(leaves(cli.build_parser()))


def run(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "dataeff", *words], capture_output=True, text=True, cwd=cwd)


def test_every_stage_has_a_command() -> None:
    assert {words[0] for words in COMMANDS} == STAGES | STEPS | {
        "inspect",
        "study",
        "export",
        "summary",
        "schemas",
        "measured",
        "tune",
        "run",
        "fetch-eval",
        "status",
        "preview",
        "canary",
        "doctor",
    }


@pytest.mark.parametrize("words", sorted(COMMANDS.keys() - {("run",)}), ids=" ".join)
def test_every_command_has_help_and_a_function(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    assert f"usage: dataeff {' '.join(words)}" in capsys.readouterr().out
    assert callable(COMMANDS[words].get_default("command"))


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """Snakemake starts the command for every job, and parses the study for every dry run."""
    code = (
        "import sys; from dataeff import cli; cli.build_parser(); import dataeff.study.workflow;"
        "from dataeff.study import checks; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & {name.split(".")[0] for name in done.stdout.split()} == set()


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = run("plan", "--spec", "nowhere.yaml", "--samples", "a", "--out", "o", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "dataeff: error: nowhere.yaml: no such file\n"
    assert list(tmp_path.iterdir()) == []


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors that are meant for people are shortened."""

    def broken(folder: Path) -> list[Path]:
        raise KeyError(folder)

    monkeypatch.setattr("dataeff.study.schemas.write_schemas", broken)
    with pytest.raises(KeyError):
        cli.main(["schemas", "--out", "x"])


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(folder: Path) -> list[Path]:
        raise KeyboardInterrupt

    monkeypatch.setattr("dataeff.study.schemas.write_schemas", stopped)
    with pytest.raises(SystemExit) as ended:
        cli.main(["schemas", "--out", "x"])
    assert ended.value.code == 130


@pytest.mark.parametrize("words", [[], ["corpus"], ["pretrian"], ["plan"], ["plan", "--spce", "x"]])
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage: dataeff" in capsys.readouterr().err


def test_the_rule_s_hardware_options_are_the_command_s() -> None:
    hardware = {
        "processes": 2,
        "threads": 3,
        "micro_batch": 4,
        "zero_stage": 1,
        "checkpoint_every": 5,
        "heldout_points": 6,
    }
    options = hardware_options(load(config(scale="smoke", hardware=hardware)))
    args = cli.build_parser().parse_args(f"{PRETRAIN} {options}".split())
    assert {name: getattr(args, name) for name in hardware} == hardware
    defaults = cli.build_parser().parse_args(PRETRAIN.split())
    assert {name: getattr(defaults, name) for name in hardware} == {
        name: getattr(Hardware(), name) for name in hardware
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--processes 0", "dataeff pretrain: processes: a number above 0 is needed; found 0"),
        ("--zero-stage 4", "dataeff pretrain: zero_stage: at most 3 is needed; found 4"),
    ],
)
def test_impossible_hardware_is_named(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(f"{PRETRAIN} {option}".split())
    assert ended.value.code == f"dataeff: error: {message}"


@pytest.mark.parametrize(
    "words", ["--cores all", "-n --cores 2 report --config scale=tiny", "all", "--help", "-- all", ""]
)
def test_run_gives_all_its_arguments_to_snakemake(words: str) -> None:
    assert cli.build_parser().parse_args(["run", *words.split()]).arguments == words.split()


def test_schemas_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["schemas", "--out", str(tmp_path)])
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written[0] == "config.schema.json"
    assert capsys.readouterr().out.count("written: ") == len(written)
    cli.main(["schemas", "--out", str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_errors_name_the_nearest() -> None:
    from dataeff.errors import unknown_name

    assert (
        str(unknown_name("scale", "tinny", ["tiny", "smoke"], "x")) == "x: unknown scale 'tinny'; did you mean 'tiny'?"
    )
    assert str(unknown_name("scale", "q", ["tiny", "smoke"], "x")) == "x: unknown scale 'q'; known: smoke, tiny"
    assert str(unknown_name("scale", "q", [], "x")) == "x: unknown scale 'q'; known: none"
    assert issubclass(DataeffError, Exception)
