"""One owner at a time, told apart from a dead one by the kernel."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataeff.errors import DataeffError
from dataeff.pretrain import owner
from dataeff.pretrain.owner import owned

HOLD = """
import sys, time
from pathlib import Path
from dataeff.pretrain.owner import owned
with owned(Path(sys.argv[1])):
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
"""
COUNT = """
import sys
from pathlib import Path
from dataeff.pretrain.owner import owned
counter = Path(sys.argv[2])
for _ in range(40):
    with owned(Path(sys.argv[1]), poll_seconds=0.0005):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that holds the lock; returns when it does."""
    ready = path.with_name("ready")
    ready.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(ready), str(seconds)], text=True)
    while not ready.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_the_lock_is_removed_at_the_end_and_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "made/here/run.owner"
    with owned(path):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()
    with pytest.raises(KeyError), owned(path):
        raise KeyError
    assert not path.exists()


def test_a_second_process_waits_then_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.owner"
    other = hold(path, seconds=0.5)
    begun = time.monotonic()
    with owned(path, poll_seconds=0.01):
        assert other.wait() == 0
        assert time.monotonic() - begun > 0.2
        assert f'"pid": {os.getpid()}' in path.read_text()
    said = capsys.readouterr().out
    assert re.fullmatch(rf"{path}: in use by host .*, pid {other.pid}; waiting for it up to 3600 s\n", said)


def test_a_second_process_gives_up_and_names_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run.owner"
    other = hold(path, seconds=60)
    try:
        with (
            pytest.raises(
                DataeffError, match=rf"{path}: still in use by host .*, pid {other.pid}; let it end or stop it"
            ),
            owned(path, wait_seconds=0.1, poll_seconds=0.02),
        ):
            raise AssertionError("the lock was given to two")
        assert path.exists()
    finally:
        other.kill()
        other.wait()


def test_kill_9_of_the_owner_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "run.owner"
    other = hold(path, seconds=60)
    other.kill()
    other.wait()
    assert f'"pid": {other.pid}' in path.read_text()  # its file is still there
    with owned(path, wait_seconds=0):
        assert f'"pid": {os.getpid()}' in path.read_text()
        assert f'"pid": {other.pid}' not in path.read_text()


def test_a_job_id_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    second = owned(tmp_path / "run.owner", wait_seconds=0)
    with owned(tmp_path / "run.owner"), pytest.raises(DataeffError, match="slurm_job 77"):
        second.__enter__()


@pytest.mark.parametrize("taken", [True, False])
def test_a_file_removed_between_open_and_lock_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """The owner before may end in that moment, and a third process may have made a new file by then."""
    path, real = tmp_path / "run.owner", fcntl.flock

    def flock_late(descriptor: int, operation: int) -> None:
        path.unlink()
        if taken:
            path.touch()
        real(descriptor, operation)

    monkeypatch.setattr(owner.fcntl, "flock", flock_late)
    assert owner._try(path) is None
    monkeypatch.setattr(owner.fcntl, "flock", real)
    with owned(path, wait_seconds=0):
        assert path.exists()


def test_many_processes_never_hold_it_together(tmp_path: Path) -> None:
    """Reading, adding one and writing back loses counts as soon as two do it at a time."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path / "run.owner"), str(counter)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert counter.read_text() == "160"
