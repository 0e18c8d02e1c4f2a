"""Logs that a resumed run continues, and the line that people watch."""

from __future__ import annotations

import json
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from dataeff.pretrain.meter import Log, Logs, Progress, peak_memory_bytes
from dataeff.pretrain.timing import PARTS, StepTimes
from dataeff.progress import clock


def row(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / step}) + "\n"


@pytest.mark.parametrize(
    ("text", "done", "kept"),
    [
        ("", 0, []),
        (row(1) + row(2) + row(3), 2, [1, 2]),
        (row(1) + row(2) + row(3), 0, []),
        (row(1) + row(2) + row(3)[:-1], 3, [1, 2]),  # whole, but for its end of line
        (row(1) + row(2) + row(3)[:7], 3, [1, 2]),
        (row(1) + row(2) + row(3)[:7], 1, [1]),
    ],
)
def test_a_resumed_log_holds_the_steps_done(tmp_path: Path, text: str, done: int, kept: list[int]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    rows: list[dict[str, Any]] = []
    log = Log(path, done, rows.append)
    assert [entry["step"] for entry in rows] == kept
    log.write({"step": done + 1, "loss": 0.5})
    assert path.read_text() == "".join(map(row, kept)) + json.dumps({"step": done + 1, "loss": 0.5}) + "\n"
    log.close()
    assert [entry["step"] for entry in rows] == [*kept, done + 1]
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_log_needs_no_file(tmp_path: Path) -> None:
    log = Log(tmp_path / "metrics.jsonl", 0, print)
    log.write({"step": 1})
    log.sync()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    log.close()


def test_the_line_that_people_watch(capsys: pytest.CaptureFixture[str]) -> None:
    """The rate is of this start alone: the 400,000 tokens that a resumed run finds done took it no time."""
    progress = Progress("gpt-ltd", 1_000_000, 400_000)
    time.sleep(0.05)
    entry = {"step": 4, "loss": 2.5, "learning_rate": 1e-3, "effective_tokens": 400_100, "heldout_loss": 2.25}
    progress.show(entry, 10)
    assert capsys.readouterr().out == ""  # nothing is due yet
    progress.show(entry, 10, now=True)
    said = capsys.readouterr().out
    assert "gpt-ltd  step 4/10  loss 2.5000  held-out 2.2500  lr 1.00e-03  400,100 tokens" in said
    assert 200 < int(said.split(" tokens/s")[0].split()[-1].replace(",", "")) <= 2000  # 100 tokens in 0.05 s
    assert said.rstrip().endswith("left")
    del entry["heldout_loss"]
    progress.show(entry, 10, now=True)
    assert "held-out" not in capsys.readouterr().out


def test_the_utilisation_is_told_where_it_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("gpt-ltd", 1_000_000, 0)
    entry = {"step": 4, "loss": None, "learning_rate": 1e-3, "effective_tokens": 100}
    progress.show(entry, 10, mfu=lambda: 0.4123, now=True)
    progress.show(entry, 10, mfu=lambda: None, now=True)
    known, unknown = capsys.readouterr().out.splitlines()
    assert " tokens/s  MFU 41.2%  " in known
    assert "MFU" not in unknown


def test_both_logs_of_a_step_and_its_account(tmp_path: Path) -> None:
    """What a resumed run finds of timings.jsonl adds up to what the run before had, less the steps not saved."""
    logs, accounts = Logs(tmp_path / "state", 0), []
    for step in (1, 2, 3):
        accounts.append(deepcopy(logs.account))
        times = StepTimes(0.5 * step, {**dict.fromkeys(PARTS, 0.0), "forward": 0.5 * step})
        logs.write({"step": step, "loss": 1.0}, times, {"startup": 2.0} if step == 1 else {"logging": 0.25})
    logs.sync()
    again = Logs(tmp_path / "state", 2)
    assert [entry["step"] for entry in again.rows] == [1, 2]
    assert again.account == accounts[2]
    assert again.account.step_seconds == 1.5
    assert again.account.run_seconds == 3.75
    for each in (logs, again):
        each.close()


def test_clock() -> None:
    found = [clock(seconds) for seconds in (0, 0.4, 65, 3725, 360_000, -3)]
    assert found == ["0:00", "0:00", "1:05", "1:02:05", "100:00:00", "0:00"]


def test_peak_memory_is_in_bytes() -> None:
    assert 10_000_000 < peak_memory_bytes() < 1_000_000_000_000
