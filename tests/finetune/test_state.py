from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataeff.finetune.state import State
from dataeff.finetune.train import Epoch, Trained

FROM = {"spec_digest": "a", "model_digest": "b", "data_sha256": "c"}


def trained() -> Trained:
    outputs = [{"validation": np.random.default_rng(n).normal(size=(4, 2)).astype(np.float32)} for n in range(2)]
    return Trained(2e-5, 1234, 12, 3.5, [Epoch(0.1 + n, found) for n, found in enumerate(outputs)])


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    kept = trained()
    State(tmp_path / "state", FROM).keep(kept)
    found = State(tmp_path / "state", FROM).find(2e-5, 1234)
    assert found is not None
    assert (found.steps, found.seconds, found.seed) == (12, 3.5, 1234)
    for one, other in zip(kept.epochs, found.epochs, strict=True):
        assert one.training_loss == other.training_loss
        assert np.array_equal(one.outputs["validation"], other.outputs["validation"])
    assert State(tmp_path / "state", FROM).find(2e-5, 1235) is None
    assert State(tmp_path / "state", FROM).find(3e-5, 1234) is None


@pytest.mark.parametrize("key", FROM)
def test_what_was_made_from_something_else_runs_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    State(tmp_path, FROM).keep(trained())
    assert State(tmp_path, {**FROM, key: "other"}).find(2e-5, 1234) is None
    assert "is of another spec, model or data: this training runs again" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_damaged_file_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    State(tmp_path, FROM).keep(trained())
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert State(tmp_path, FROM).find(2e-5, 1234) is None
    assert "is damaged" in capsys.readouterr().out
