"""Whole runs in which something goes wrong: what is skipped, when they end, what they say, and that they continue."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataeff.files import read_json
from tests.pretrain import faults
from tests.pretrain.test_loop import assert_identical, content
from tests.pretrain.training import Material, Training

MANY = {"max_skipped": 6}
BOTH = [faults.gradients_are_no_numbers, faults.losses_are_no_numbers]


def finished(run: Training, fault: Callable[[], None]) -> Training:
    process = run.start(fault)
    process.join()
    assert process.exitcode == 0, run.log
    return run


# --- loss or gradient that is no number ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", BOTH)
def test_steps_without_numbers_are_passed_over(material: Material, tmp_path: Path, fault: Callable[[], None]) -> None:
    run = finished(material.training("baseline", tmp_path, **MANY), fault)
    assert [row["step"] for row in run.metrics if "skipped" in row] == list(range(5, 11))
    assert read_json(run.out / "run.json")["skipped_steps"] == list(range(5, 11))
    assert all(row["loss"] > 0 and row["gradient_norm"] > 0 for row in run.metrics if "skipped" not in row)
    skipped = [row for row in run.metrics if "skipped" in row]
    assert all((row["loss"] is None) == (fault is faults.losses_are_no_numbers) for row in skipped)
    assert "step 5 passed over: loss " in run.log


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_neither_makes_an_update_at_any_stage(material: Material, tmp_path: Path, zero_stage: int) -> None:
    """Both kinds leave the same weights: those without six of the steps."""
    runs = [
        finished(material.training("composed", tmp_path / fault.__name__, zero_stage=zero_stage, **MANY), fault)
        for fault in BOTH
    ]
    assert content(runs[0], "model.safetensors") == content(runs[1], "model.safetensors")
    assert runs[0].losses[-1] < runs[0].losses[0]


def test_all_ranks_pass_over_what_one_found(material: Material, tmp_path: Path) -> None:
    run = material.training("composed", tmp_path, **MANY)
    run.finish_ranks(2, faults.gradients_are_no_numbers)
    assert [row["step"] for row in run.metrics if "skipped" in row] == list(range(5, 11))
    assert run.log.count("step 5 passed over") == 1


def test_too_many_in_a_row_end_the_run_also_across_a_kill(material: Material, tmp_path: Path) -> None:
    run = material.training("baseline", tmp_path, max_skipped=5)
    process = run.start(faults.gradients_are_no_numbers)
    run.wait_for(process, lambda: run.rows() >= 8)
    process.kill()
    process.join()
    assert run.checkpoints[0] == 6
    process = run.start(faults.gradients_are_no_numbers)
    process.join()
    assert process.exitcode == 1, run.log
    said = run.log.splitlines()[-1]
    assert "gradient norm nan at step 10, as were the 5 steps before (max_skipped: 5), with the samples " in said
    assert "lower learning_rate.peak or lengthen warmup_tokens" in said
    assert "Traceback" not in run.log
    assert run.checkpoints == [9, 6]


# --- ranks that do not come ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stopped_rank_is_named_and_the_run_continues(
    material: Material, two_ranks: Training, tmp_path: Path, stopped: int
) -> None:
    run = material.training("composed", tmp_path, timeout_seconds=4)
    ranks = run.start_ranks(2)
    ranks.wait_for_rows(7)
    ranks.signal(signal.SIGSTOP, stopped)
    codes = ranks.ends(60)
    assert codes[stopped] == -signal.SIGKILL
    assert codes[1 - stopped] == 1
    said = [line for line in run.log.splitlines() if line.startswith("dataeff: error: ")]
    assert len(said) == 1
    assert f"{run.name}: rank {stopped} did not answer for " in said[0]
    assert_identical(run.finish_ranks(2), two_ranks)
    assert "continues after step" in run.log


def test_a_rank_that_stays_behind_is_named_with_its_place(material: Material, tmp_path: Path) -> None:
    run = material.training("composed", tmp_path, timeout_seconds=4)
    codes = run.start_ranks(2, faults.rank_1_reads_for_ever).ends(60)
    assert codes[0] == 1
    assert codes[1] in (1, -signal.SIGKILL)  # it may call the roll itself, or be ended by the other
    assert "rank 1 is still reading its samples at step 5, others wait training at step 5" in run.log


def test_a_killed_rank_is_said_by_the_other(material: Material, two_ranks: Training, tmp_path: Path) -> None:
    run = material.training("composed", tmp_path)
    ranks = run.start_ranks(2)
    ranks.wait_for_rows(5)
    ranks.signal(signal.SIGKILL, 1)
    assert ranks.ends(60) == [1, -signal.SIGKILL]
    assert run.log.splitlines()[-1] == f"dataeff: error: {run.name}: another rank has ended; what it said tells why"
    assert_identical(run.finish_ranks(2), two_ranks)


# --- memory, disk, files -------------------------------------------------------------------------------------


def test_out_of_memory_names_the_micro_batch_to_try(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = material.training("baseline", tmp_path)
    process = run.start(faults.memory_runs_out)
    process.join()
    assert process.exitcode == 1
    said = run.log.splitlines()[-1]
    assert said.startswith(
        f"dataeff: error: {run.name}: out of memory with micro_batch: 8; set micro_batch: 4 (or auto"
    )
    assert_identical(run.finish(), undisturbed["baseline"])


def assert_full(run: Training, kept: list[int]) -> None:
    said = run.log.splitlines()[-1]
    assert said.startswith(f"dataeff: error: {run.name}: {run.state} could not be written: a checkpoint takes about ")
    assert " bytes are free" in said or " are free" in said
    assert run.checkpoints == kept
    assert not list(run.state.glob(".saving-*"))


def test_a_file_that_may_not_grow_leaves_the_older_checkpoints(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path
) -> None:
    run = material.training("composed", tmp_path)
    process = run.start()
    run.wait_for(process, lambda: 3 in run.checkpoints)
    assert process.pid is not None
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    process.join()
    assert process.exitcode == 1, run.log
    assert_full(run, run.checkpoints)
    assert run.checkpoints
    assert_identical(run.finish(), undisturbed["composed"])
    assert "continues after step" in run.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3.5 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3500k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@dataclass(frozen=True)
class OtherState(Training):
    """A run whose state lies elsewhere."""

    elsewhere: Path = Path()

    @property
    def state(self) -> Path:
        return self.elsewhere / "state"


def test_a_full_disk_leaves_the_older_checkpoints(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path, small_disk: Path
) -> None:
    plain = material.training("composed", tmp_path / "run", keep_last=9)
    run = OtherState(plain.material, plain.family, plain.name, plain.place, plain.hardware, elsewhere=small_disk)
    run.fail()
    assert_full(run, run.checkpoints)
    kept = run.checkpoints
    assert kept
    run.hardware["keep_last"] = 1
    shutil.rmtree(run.state / f"step-{kept[-1]:08d}")  # a person makes room
    assert_identical(run.finish(), undisturbed["composed"])
    assert f"continues after step {kept[0]} " in run.log


@dataclass(frozen=True)
class OwnTokens(Training):
    """A run with token files of its own, which a test may harm."""

    @property
    def arguments(self) -> list[str]:
        words = super().arguments
        place = words.index("--tokens") + 1
        return [*words[:place], *(str(self.place / Path(word).name) for word in words[place:])]

    def copy_tokens(self) -> None:
        self.place.mkdir(exist_ok=True)
        for prefix in self.material.token_files(self.family):
            for ending in (".bin", ".idx"):
                shutil.copyfile(f"{prefix}{ending}", self.place / f"{prefix.name}{ending}")


@pytest.mark.parametrize("harm", ["shrinks", "vanishes"])
def test_a_token_file_that_is_lost_during_training_is_named(
    material: Material, undisturbed: dict[str, Training], tmp_path: Path, harm: str
) -> None:
    plain = material.training("composed", tmp_path)
    run = OwnTokens(plain.material, plain.family, plain.name, plain.place, plain.hardware)
    run.copy_tokens()
    file = run.place / "00.bin"
    size = file.stat().st_size
    process = run.start()
    run.wait_for(process, lambda: run.rows() >= 5)
    if harm == "shrinks":
        os.truncate(file, size // 2)
    else:
        file.unlink()
    process.join()
    assert process.exitcode == 1, run.log
    told = f"has {size // 2:,} bytes, at the start" if harm == "shrinks" else "vanished during training"
    assert run.log.splitlines()[-1].startswith(f"dataeff: error: {file}: {told}")
    run.copy_tokens()
    assert_identical(run.finish(), undisturbed["composed"])
