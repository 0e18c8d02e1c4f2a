"""Hardware settings on their way from a configuration to the command."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from dataeff import cli
from dataeff.study.types import RUN_SETTINGS, SCHEDULED, Hardware
from dataeff.study.workflow import hardware_options
from tests.factory import config, load

PRETRAIN = "pretrain --spec a --plan b --samples c --tokens d --tokenizer e --heldout f --state g --out h"
OTHERS: dict[str, Any] = {
    "processes": 2,
    "threads": 3,
    "micro_batch": "auto",
    "zero_stage": 1,
    "activation_checkpointing": True,
    "compile": True,
    "checkpoint_every": 5,
    "keep_last": 4,
    "keep_every": 100,
    "heldout_points": 6,
    "max_skipped": 0,
    "timeout_seconds": 60,
    "tensorboard": True,
}


def parsed(words: str) -> argparse.Namespace:
    return cli.build_parser().parse_args(words.split())


def test_every_setting_of_a_run_is_an_option_with_the_same_default() -> None:
    assert set(OTHERS) == set(RUN_SETTINGS) == set(Hardware.model_fields) - set(SCHEDULED)
    found = parsed(PRETRAIN)
    assert {name: getattr(found, name) for name in RUN_SETTINGS} == Hardware().model_dump(include=set(RUN_SETTINGS))


@pytest.mark.parametrize("settings", [OTHERS, {"micro_batch": 3}])
def test_the_rule_s_options_say_what_the_configuration_does(settings: dict[str, Any]) -> None:
    study = load(config(scale="smoke", hardware=settings))
    found = parsed(f"{PRETRAIN} {hardware_options(study)}")
    assert {name: getattr(found, name) for name in RUN_SETTINGS} == study.hardware.model_dump(include=set(RUN_SETTINGS))
    assert {name: getattr(found, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--micro-batch most", "'most': a number of rows or auto is needed"),
        ("--activation-checkpointing yes", "'yes': true or false is needed"),
    ],
)
def test_other_words_are_refused(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"{PRETRAIN} {option}")
    assert said in capsys.readouterr().err
