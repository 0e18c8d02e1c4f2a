from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import zstandard

from dataeff import evaluate
from dataeff.errors import DataeffError
from dataeff.evaluate.scores import read_heldout, read_scores
from dataeff.files import sha256_file
from dataeff.provenance import provenance
from dataeff.study.specs import EvaluateSpec


@pytest.fixture(scope="module")
def out(
    spec: EvaluateSpec,
    model: Path,
    heldout: Path,
    items: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    evaluate.run(spec, model, heldout, items, folder)
    return folder


def test_every_declared_file_is_there_in_its_schema(out: Path, spec: EvaluateSpec, model: Path) -> None:
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    shots = [f"{count}shot/{name}" for count in (0, 2) for name in ("items.jsonl.zst", "scores.json")]
    assert files == [*shots, "heldout.json"]
    losses = read_heldout(out / "heldout.json")
    assert set(losses.domains) == {"Language Reference", "Library (prose)", "Github"}
    for count in (0, 2):
        scores = read_scores(out / f"{count}shot" / "scores.json")
        assert (scores.shots, scores.name, scores.spec_digest) == (count, "gpt-baseline-50-s7", spec.digest)
        assert scores.model_digest == losses.model_digest == sha256_file(model / "model.safetensors")
        assert scores.average == pytest.approx(sum(task.value for task in scores.tasks.values()) / 2)
        assert scores.software["lm_eval"] == provenance().software["lm_eval"]
        with (out / f"{count}shot" / "items.jsonl.zst").open("rb") as raw:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw)).read().splitlines()
        assert [json.loads(line)["task"] for line in lines] == ["last_word"] * 12 + ["word_order"] * 12


def test_a_second_run_writes_the_same_bytes(
    out: Path, spec: EvaluateSpec, model: Path, heldout: Path, items: list[Path], tmp_path: Path
) -> None:
    evaluate.run(spec, model, heldout, items, tmp_path / "again")
    for file in (path for path in out.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / file.relative_to(out)).read_bytes() == file.read_bytes()


def test_a_failed_run_leaves_the_folder_as_it_was(
    spec: EvaluateSpec, diverged: Path, heldout: Path, items: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "heldout.json").write_text("old")
    with pytest.raises(DataeffError, match="training diverged"):
        evaluate.run(spec, diverged, heldout, items, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["heldout.json"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["diverged", "out"]


def test_a_scores_file_of_another_schema_is_refused(out: Path, tmp_path: Path) -> None:
    content = json.loads((out / "0shot" / "scores.json").read_text())
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({**content, "schema": 2}))
    with pytest.raises(DataeffError, match=r"scores\.json: schema: .*found 2"):
        read_scores(path)
    content["tasks"]["last_word"]["value"] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(DataeffError, match=r"tasks\.last_word\.value: .*finite"):
        read_scores(path)


def test_provenance_needs_no_heavy_import() -> None:
    import subprocess
    import sys

    code = "import sys, dataeff.provenance as p; p.provenance(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
