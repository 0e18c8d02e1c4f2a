"""Checkpoints are whole or absent, the newest sound one of this very run is taken."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from dataeff.files import read_json
from dataeff.pretrain.average import WeightAverage
from dataeff.pretrain.checkpoint import Kept, bytes_needed, clear, list_checkpoints, load, newest_sound, save
from dataeff.pretrain.universal import Layout
from dataeff.study.types import Averaging

IDENTITY = {"spec_digest": "s", "plan_digest": "p"}
KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from dataeff.pretrain.checkpoint import save
class Engine:
    def save_checkpoint(self, folder, tag, save_latest):
        Path(folder, "weights").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
save(Engine(), Path(sys.argv[1]), 6, {}, rank=0, barrier=lambda: None)
"""


class Engine:
    """What of DeepSpeed's engine a checkpoint needs: it writes its state into a folder."""

    def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
        target = Path(folder, tag)
        target.mkdir()
        (target / "weights").write_text("some weights")

    def load_checkpoint(self, folder: str, tag: str) -> None:
        assert Path(folder, tag, "weights").read_text() == "some weights"


def save_steps(state: Path, *steps: int, **identity: str) -> None:
    for step in steps:
        save(Engine(), state, step, {**IDENTITY, **identity}, rank=0, barrier=lambda: None)


def steps_in(state: Path) -> list[int]:
    return [step for step, _ in list_checkpoints(state)]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, 3, 6, 9, 1000)
    assert steps_in(tmp_path) == [1000, 9]
    assert newest_sound(tmp_path, IDENTITY) == (1000, tmp_path / "step-00001000")


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (Kept(), [12, 9]),
        (Kept(last=1), [12]),
        (Kept(last=9), [12, 9, 6, 3]),
        (Kept(last=1, every=6), [12, 6]),
        (Kept(last=1, every=9), [12, 9]),
    ],
)
def test_what_is_kept(tmp_path: Path, kept: Kept, expected: list[int]) -> None:
    for step in (3, 6, 9, 12):
        save(Engine(), tmp_path, step, IDENTITY, rank=0, barrier=lambda: None, kept=kept)
    assert steps_in(tmp_path) == expected


def test_the_end_of_a_run_leaves_what_is_kept_for_good(tmp_path: Path) -> None:
    state = tmp_path / "state"
    save_steps(state, 8, 9)
    (state / "metrics.jsonl").touch()
    clear(state, Kept(every=4))
    assert sorted(path.name for path in state.iterdir()) == ["metrics.jsonl", "step-00000008"]
    clear(state, Kept(every=5))
    assert not state.exists()


def test_bytes_are_those_of_the_newest_or_an_estimate(tmp_path: Path) -> None:
    assert bytes_needed(tmp_path, 10, "fp32") == 120  # weights and two moments of 4 bytes
    assert bytes_needed(tmp_path, 10, "bf16") == 140
    save_steps(tmp_path, 3)
    files = [path for path in (tmp_path / "step-00000003").rglob("*") if path.is_file()]
    assert bytes_needed(tmp_path, 10, "fp32") == sum(path.stat().st_size for path in files) > 100


def test_what_cannot_be_written_gives_its_room_back(tmp_path: Path) -> None:
    class Full(Engine):
        def save_checkpoint(self, folder: str, tag: str, save_latest: bool) -> None:
            super().save_checkpoint(folder, tag, save_latest)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_steps(tmp_path, 3)
    with pytest.raises(OSError, match="No space left"):
        save(Full(), tmp_path, 6, IDENTITY, rank=0, barrier=lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_no_state_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest_sound(tmp_path / "nowhere", IDENTITY) is None


@pytest.mark.parametrize("other", ["spec_digest", "plan_digest"])
def test_another_run_s_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], other: str) -> None:
    save_steps(tmp_path, 3)
    save_steps(tmp_path, 6, **{other: "another"})
    assert newest_sound(tmp_path, IDENTITY) == (3, tmp_path / "step-00000003")
    said = capsys.readouterr().out
    assert said == f"checkpoint passed over: {tmp_path}/step-00000006 belongs to another {other}\n"


def test_a_damaged_one_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_steps(tmp_path, 3, 6)
    (tmp_path / "step-00000006/engine/weights").write_text("some weight")
    assert newest_sound(tmp_path, IDENTITY) == (3, tmp_path / "step-00000003")
    assert "step-00000006/engine/weights has 11 bytes" in capsys.readouterr().out
    (tmp_path / "step-00000003/manifest.json").unlink()
    assert newest_sound(tmp_path, IDENTITY) is None


def test_the_manifest_tells_the_layout(tmp_path: Path) -> None:
    layout = Layout(2, 1, "bf16", 4)
    save(Engine(), tmp_path, 3, IDENTITY, rank=0, barrier=lambda: None, layout=layout)
    assert read_json(tmp_path / "step-00000003/manifest.json")["layout"] == {
        "world_size": 2,
        "zero_stage": 1,
        "precision": "bf16",
        "micro_batch": 4,
    }
    assert load(Engine(), tmp_path / "step-00000003", layout=Layout(2, 1, "bf16", 8)) == layout


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    for name in (".saving-00000003", ".universal-step-00000003", ".universal-step-00000003.half"):
        (tmp_path / name / "engine").mkdir(parents=True)
    save_steps(tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_saving_again_replaces(tmp_path: Path) -> None:
    save_steps(tmp_path, 3)
    save_steps(tmp_path, 3, spec_digest="new")
    assert newest_sound(tmp_path, {**IDENTITY, "spec_digest": "new"}) is not None


def test_killed_while_saving_the_old_one_stands(tmp_path: Path) -> None:
    save_steps(tmp_path, 3)
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)])
    assert done.returncode == -9
    assert newest_sound(tmp_path, IDENTITY) == (3, tmp_path / "step-00000003")
    save_steps(tmp_path, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000006"]


def half_way(network: nn.Module) -> WeightAverage:
    """The exponential average of a run of 6 steps after 3 of them."""
    average = WeightAverage(network, Averaging.model_validate({"kind": "ema", "over": "1/2"}), 6, 6)
    for step in (1, 2, 3):
        nn.init.constant_(network.weight, step)  # type: ignore[arg-type]
        average.observe(step)
    return average


def test_the_average_of_the_weights_is_part_of_it(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    average = half_way(network)
    save(Engine(), tmp_path, 3, IDENTITY, rank=0, barrier=lambda: None, average=average)
    found = newest_sound(tmp_path, IDENTITY, averaged=True)
    assert found is not None
    continued = WeightAverage(network, Averaging.model_validate({"kind": "ema", "over": "1/2"}), 6, 6)
    load(Engine(), found[1], continued)
    assert continued.states == 3
    assert continued.weights.keys() == average.weights.keys()
    for name, weight in average.weights.items():
        assert continued.weights[name].equal(weight)


def test_one_without_the_average_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Engine(), tmp_path, 3, IDENTITY, rank=0, barrier=lambda: None, average=half_way(nn.Linear(2, 1)))
    save_steps(tmp_path, 6)
    assert newest_sound(tmp_path, IDENTITY, averaged=True) == (3, tmp_path / "step-00000003")
    assert capsys.readouterr().out == (
        f"checkpoint passed over: {tmp_path}/step-00000006 lacks average.pt, which this run needs to continue its "
        f"average of the weights\n"
    )


def test_a_damaged_average_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(Engine(), tmp_path, 3, IDENTITY, rank=0, barrier=lambda: None, average=half_way(nn.Linear(2, 1)))
    file = tmp_path / "step-00000003/average.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert newest_sound(tmp_path, IDENTITY, averaged=True) is None
    assert "average.pt does not match its sha256" in capsys.readouterr().out
