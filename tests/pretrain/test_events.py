"""TensorBoard's events, read back with its own reader: the same values as the logs', once each, whatever happened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataeff.errors import DataeffError
from dataeff.pretrain import events
from dataeff.pretrain.utilisation import Device, Utilisation
from tests.pretrain.training import Material, Training

OF_THE_PLAN = {name: f"plan/{name}" for name in ("learning_rate", "sequence_length", "kept_tokens")}
OF_THE_LOG = {"loss": "loss/train", "gradient_norm": "loss/gradient_norm", **OF_THE_PLAN}


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def points(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def row(step: int, **more: Any) -> dict[str, Any]:
    plan = {"learning_rate": 0.1, "sequence_length": 8, "kept_tokens": 8}
    tokens = {"raw_tokens": 64 * step, "effective_tokens": 32 * step}
    return {"step": step, "loss": 1 / step, "gradient_norm": 2.0, **plan, **tokens, **more}


def write_logs(folder: Path, rows: list[dict[str, Any]], seconds: float = 0.5) -> tuple[Path, Path]:
    metrics, timings = folder / "metrics.jsonl", folder / "timings.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = ({"step": row["step"], "seconds": seconds, "beside": {"logging": 0.25}} for row in rows)
    timings.write_text("".join(json.dumps(row) + "\n" for row in taken))
    return metrics, timings


def utilisation(steps: int, peak: float | None = None) -> Utilisation:
    return Utilisation(np.full(steps, 1e12), np.full(steps, 1e12), Device("a card", peak), 1)


# --- of a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A run with events, killed between two checkpoints and finished by a second start."""
    place = tmp_path_factory.mktemp("results") / "state"
    run = material.training("composed", place, tensorboard=True)
    run.kill_after(8)
    return run.finish()


def test_a_killed_run_s_events_are_its_log_s_rows_once_each(killed: Training) -> None:
    folder = killed.place.parent / "tensorboard" / killed.name
    assert "continues after step" in killed.log
    assert len(list(folder.iterdir())) == 1
    found, rows = read(folder), killed.metrics
    for name, tag in OF_THE_LOG.items():
        values = [row[name] for row in rows]
        assert [step for step, _ in points(found, tag)] == [row["step"] for row in rows]
        assert [value for _, value in points(found, tag)] == pytest.approx(values)
        over_tokens = points(found, tag.replace("/", "_over_effective_tokens/"))
        assert [tokens for tokens, _ in over_tokens] == [row["effective_tokens"] for row in rows]
        assert [value for _, value in over_tokens] == pytest.approx(values)
    heldout = {row["step"]: row["heldout_loss"] for row in rows if "heldout_loss" in row}
    assert dict(points(found, "heldout/loss")) == pytest.approx(heldout)
    assert len(heldout) == 2
    for tag in ("step_seconds", "raw_tokens_per_second", "effective_tokens_per_second", "model_teraflops_per_second"):
        assert len(points(found, f"speed/{tag}")) == len(rows)
        assert all(value > 0 for _, value in points(found, f"speed/{tag}"))
    assert not any("mfu" in tag for tag in found.Tags()["scalars"])


def test_events_change_nothing_of_a_run(killed: Training, undisturbed: dict[str, Training]) -> None:
    for name in ("metrics.jsonl", "model.safetensors"):
        assert (killed.out / name).read_bytes() == (undisturbed["composed"].out / name).read_bytes()


def test_a_run_without_them_writes_and_imports_none(undisturbed: dict[str, Training]) -> None:
    assert not (undisturbed["composed"].place.parent / "tensorboard").exists()


# --- of logs ---------------------------------------------------------------------------------------------------


def test_another_start_replaces_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard/run"
    drawn = events.Events(folder, 6, utilisation(6), *write_logs(tmp_path, []))
    for step in range(1, 6):
        drawn.write(row(step, loss=100.0), 0.5)
    drawn.close()
    logs = write_logs(tmp_path, [row(1), row(2), row(3)])
    again = events.Events(folder, 6, utilisation(6), *logs)
    again.write(row(4), 0.5)
    again.close()
    assert len(list(folder.iterdir())) == 1
    assert points(read(folder), "loss/train") == [(1, 1.0), (2, 0.5), (3, float(np.float32(1 / 3))), (4, 0.25)]
    times = [event.wall_time for event in read(folder).Scalars("loss/train")]
    assert np.diff(times[:3]) == pytest.approx(0.75)  # half a second a step, a quarter beside it


def test_rates_are_of_the_step_s_own_tokens_also_after_a_resume(tmp_path: Path) -> None:
    drawn = events.Events(tmp_path / "run", 3, utilisation(3, 10.0), *write_logs(tmp_path, [row(1), row(2)]))
    drawn.write(row(3), 0.25)
    drawn.close()
    found = read(tmp_path / "run")
    assert points(found, "speed/raw_tokens_per_second") == [(1, 128.0), (2, 128.0), (3, 256.0)]
    assert points(found, "speed/effective_tokens_per_second") == [(1, 64.0), (2, 64.0), (3, 128.0)]
    assert dict(points(found, "speed/mfu")) == pytest.approx({1: 0.2, 2: 0.2, 3: 0.4})


def test_a_step_that_was_passed_over_has_no_loss(tmp_path: Path) -> None:
    rows = [row(1), row(2, loss=None, gradient_norm=None, skipped=True), row(3, mlm_loss=0.25)]
    events.Events(tmp_path / "run", 3, utilisation(3), *write_logs(tmp_path, rows)).close()
    found = read(tmp_path / "run")
    assert [step for step, _ in points(found, "loss/train")] == [1, 3]
    assert [step for step, _ in points(found, "plan/kept_tokens")] == [1, 2, 3]
    assert points(found, "loss/mlm_loss") == [(3, 0.25)]


def test_a_long_run_is_thinned_but_for_its_heldout_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_POINTS", 5)
    rows = [row(step, **({"heldout_loss": 3.0} if step == 7 else {})) for step in range(1, 24)]
    events.Events(tmp_path / "run", 23, utilisation(23), *write_logs(tmp_path, rows)).close()
    assert [step for step, _ in points(read(tmp_path / "run"), "loss/train")] == [1, 5, 7, 10, 15, 20, 23]


def test_a_missing_package_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    events.check_installed("gpt-ltd")
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as Python itself marks what cannot be imported
    with pytest.raises(DataeffError, match=r"^gpt-ltd: hardware.tensorboard is true, and the package tensorboard is"):
        events.check_installed("gpt-ltd")


def test_the_package_is_imported_only_where_events_are_written() -> None:
    words = "import sys, dataeff.pretrain.loop; sys.exit(any(name.startswith('tensorboard') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", words]).returncode == 0
