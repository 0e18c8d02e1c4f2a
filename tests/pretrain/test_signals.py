"""Requests to stop: the step ends, is saved, the code is 75, and the same command continues bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataeff.pretrain.signals import EXIT_INTERRUPTED, SAME_REQUEST_SECONDS, STOPPING
from tests.pretrain.test_loop import assert_identical
from tests.pretrain.training import _ON_CPU, Material, Training

LISTENER = """
import sys, time
from dataeff.pretrain.signals import StopRequest
stop = StopRequest("a-run")
with stop.listening():
    if sys.argv[1] == "training":
        stop.training_begins()
    print("ready", flush=True)
    while not stop.asked:
        time.sleep(0.01)
    print(stop.signal_name, flush=True)
    time.sleep(60)
"""


def listener(stage: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", LISTENER, stage], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_before_training_there_is_nothing_to_save() -> None:
    process = listener("before")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=10)
    assert process.returncode == EXIT_INTERRUPTED
    assert said == "a-run: SIGTERM before the first step: nothing to save\n"


def test_a_signal_that_comes_twice_is_one_request_and_a_later_one_ends_at_once() -> None:
    process = listener("training")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout is not None
    assert process.stdout.readline() == "SIGUSR1\n"
    process.send_signal(signal.SIGTERM)  # as a launcher forwards what the scheduler sent to all
    time.sleep(SAME_REQUEST_SECONDS + 0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", STOPPING)
def test_a_run_stops_saved_and_continues(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path, number: signal.Signals
) -> None:
    run = material.training("composed", tmp_path)
    process = run.start()
    run.wait_for(process, lambda: run.rows() >= 4)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == EXIT_INTERRUPTED, run.log
    done = run.checkpoints[0]
    assert run.rows() == done >= 5
    said = run.log.splitlines()[-1]
    assert said == (
        f"{run.name}: {number.name}: stopped after step {done}, which is saved in {run.state}; the same command "
        f"continues (exit code 75)"
    )
    assert_identical(run.finish(), undisturbed["composed"])
    assert f"continues after step {done} " in run.log


def test_a_signal_to_one_rank_stops_all(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    run = material.training("composed", tmp_path)
    ranks = run.start_ranks(2)
    ranks.wait_for_rows(4)
    ranks.signal(signal.SIGTERM, 1)
    assert ranks.ends() == [EXIT_INTERRUPTED] * 2, run.log
    assert run.rows() == run.checkpoints[0]
    assert "a signal to another rank: stopped after step" in run.log
    assert_identical(run.finish_ranks(2), two_ranks)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_under_torchrun(material: Material, two_ranks: Training, tmp_path: Path, number: signal.Signals) -> None:
    """The command itself is sent the signal, as a scheduler does, and ends with the code."""
    run = material.training("composed", tmp_path, processes=2)
    run.place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dataeff", *run.arguments]
    with (run.place / "log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **_ON_CPU}, stdout=log, stderr=log)
        while run.rows() < 3:
            assert process.poll() is None, run.log
            time.sleep(0.002)
        process.send_signal(number)
        assert process.wait(timeout=60) == EXIT_INTERRUPTED, run.log
    assert run.rows() == run.checkpoints[0]
    assert f"{number.name}: stopped after step" in run.log
    assert_identical(run.finish_ranks(2), two_ranks)
