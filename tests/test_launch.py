"""`dataeff run` beside living and killed snakemakes, with a Snakefile of one slow rule."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

SNAKEFILE = """
rule all:
    output: "done"
    shell: "touch started; sleep $(cat seconds); touch done"
"""
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--cores", "1"]
DATAEFF_RUN = [sys.executable, "-m", "dataeff", "run", "--cores", "1"]


class Folder:
    """A working folder with the Snakefile, and the processes that were started in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []
        (path / "Snakefile").write_text(SNAKEFILE)
        self.takes(60)

    def takes(self, seconds: float) -> None:
        (self.path / "seconds").write_text(str(seconds))

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Starts the command and waits until its job runs."""
        with (self.path / "log").open("w") as log:
            process = subprocess.Popen(
                command, cwd=self.path, stdout=log, stderr=log, text=True, start_new_session=True
            )
        self.processes.append(process)
        while not (self.path / "started").exists():
            assert process.poll() is None, (self.path / "log").read_text()
            time.sleep(0.02)
        return process

    def run(self, *targets: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*DATAEFF_RUN, *targets], cwd=self.path, capture_output=True, text=True)

    def locks(self) -> list[Path]:
        return list((self.path / ".snakemake/locks").glob("*"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    for process in made.processes:  # and the jobs that outlived them, which are in their session
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_lock_that_kill_9_left_is_removed(folder: Folder) -> None:
    process = folder.start(DATAEFF_RUN)
    process.kill()
    process.wait()
    assert folder.locks()
    folder.takes(0)
    done = folder.run("all")
    assert done.returncode == 0, done.stderr
    assert "A snakemake that was killed left its lock behind; removing it." in done.stdout
    assert (folder.path / "done").exists()
    assert not folder.locks()
    again = folder.run()
    assert again.returncode == 0
    assert "left its lock" not in again.stdout


def test_a_second_dataeff_run_is_refused(folder: Folder) -> None:
    process = folder.start(DATAEFF_RUN)
    locks = folder.locks()
    second = folder.run()
    assert second.returncode == 1
    assert second.stderr == (
        f"dataeff: error: {folder.path}: another `dataeff run` is at work in this folder; let it end or stop it first\n"
    )
    assert process.poll() is None
    assert folder.locks() == locks


def test_aliving_snakemake_s_lock_is_left(folder: Folder) -> None:
    process = folder.start(SNAKEMAKE)
    locks = folder.locks()
    assert locks
    second = folder.run()
    assert second.returncode == 1
    assert f"snakemake runs here already as process {process.pid}; let it end or stop it first" in second.stderr
    assert process.poll() is None
    assert folder.locks() == locks


def test_a_snakemake_of_another_folder_does_not_count(folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Folder(tmp_path_factory.mktemp("other"))
    folder.processes.append(other.start(SNAKEMAKE))
    process = folder.start(SNAKEMAKE)
    process.kill()
    process.wait()
    folder.takes(0)
    done = folder.run()
    assert done.returncode == 0, done.stderr
    assert other.processes[0].poll() is None
