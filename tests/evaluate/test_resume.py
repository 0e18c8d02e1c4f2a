from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from dataeff import evaluate
from dataeff.evaluate.resume import Finished, TaskResult
from dataeff.study.specs import EvaluateSpec
from tests.evaluate.conftest import MadeUp
from tests.evaluate.local_data import group_spec

RUN = """
import sys
from pathlib import Path
from dataeff import evaluate
from dataeff.study.specs import EvaluateSpec
spec, model, state, out, *datasets = sys.argv[1:]
evaluate.run(EvaluateSpec.model_validate_json(spec), Path(model), [], [Path(file) for file in datasets],
             Path(state), Path(out))
"""
NAMES = ["winogrande", "openbookqa", "lambada", "wikitext", "triviaqa"]


@pytest.fixture(scope="module")
def group(made_up: MadeUp) -> EvaluateSpec:
    return group_spec(made_up.datasets, NAMES, shots=(0, 3))


def test_a_killed_evaluation_continues_with_what_is_not_done(
    group: EvaluateSpec, made_up: MadeUp, long_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 as soon as something is done; what follows is the same to the last byte as without it."""
    state, out = tmp_path / "state", tmp_path / "out"
    files = [str(manifest) for manifest in made_up.of(group)]
    command = [sys.executable, "-c", RUN, group.model_dump_json(), str(long_model), str(state), str(out), *files]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(state.glob("*shot.json.zst")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = {path.name for path in state.glob("*shot.json.zst")}
    assert 0 < len(done) < 9
    assert not out.exists()

    evaluate.run(group, long_model, [], made_up.of(group), state, out)
    said = capsys.readouterr().out
    assert f"{len(done)} of 9 were done before and are kept" in said
    scored = [line.split()[1] + "-" + line.split()[2].rstrip(":") for line in said.splitlines() if " items" in line]
    assert {f"{name}.json.zst" for name in scored}.isdisjoint(done)
    assert len(scored) + len(done) == 9
    assert not state.exists()

    evaluate.run(group, long_model, [], made_up.of(group), tmp_path / "other", tmp_path / "whole")
    for file in (path for path in (tmp_path / "whole").rglob("*") if path.is_file()):
        assert (out / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()


def some_result(made_up: MadeUp, model: Path, tmp_path: Path) -> TaskResult:
    from dataeff.evaluate.records import read_records
    from dataeff.evaluate.scores import read_scores

    spec = group_spec(made_up.datasets, ["lambada"], shots=(0,))
    evaluate.run(spec, model, [], made_up.of(spec), tmp_path / "state", tmp_path / "out")
    place = tmp_path / "out" / "0shot"
    score = read_scores(place / "scores.json").tasks["lambada"]
    return TaskResult(score, read_records(place / "items.jsonl.zst")["lambada"])


def test_only_what_was_made_of_the_same_is_reused(
    made_up: MadeUp, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = some_result(made_up, model, tmp_path)
    data = result.score.data_sha256
    state = Finished(tmp_path / "kept", "a" * 64, "b" * 64)
    assert state.load("lambada", 0, data) is None
    state.save("lambada", 0, result)
    assert state.load("lambada", 0, data) == result
    assert state.load("lambada", 3, data) is None
    assert state.load("lambada", 0, "c" * 64) is None
    assert Finished(tmp_path / "kept", "c" * 64, "b" * 64).load("lambada", 0, data) is None
    assert Finished(tmp_path / "kept", "a" * 64, "c" * 64).load("lambada", 0, data) is None
    (file,) = (tmp_path / "kept").iterdir()
    capsys.readouterr()
    for damaged in (file.read_bytes()[:-20], b"", zstandard.compress(b'{"key": 1'), zstandard.compress(b"[]")):
        file.write_bytes(damaged)
        assert state.load("lambada", 0, data) is None
        assert "is damaged" in capsys.readouterr().out
