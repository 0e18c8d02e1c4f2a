"""The GPU benchmark at toy size on a CPU: the same script, so that it works on the day that there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factory import ROOT

SCRIPT = ROOT / "bench/gpu/throughput.py"
LENGTHS = ["baseline", "1/8 of the length", "1/4 of the length", "1/2 of the length"]
KEPT = ["1/8 kept", "1/4 kept", "1/2 kept"]


def run(folder: Path, *options: str, path: str = "") -> tuple[subprocess.CompletedProcess[str], Path]:
    out = folder / "found.json"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), "--out", str(out), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False), out


@pytest.mark.parametrize(
    ("model", "rows"), [("gpt2-124m", [4, 28, 16, 8]), pytest.param("bert-large", [4, 4, 4, 4], marks=pytest.mark.slow)]
)
def test_every_kind_is_measured_in_every_case(tmp_path: Path, model: str, rows: list[int]) -> None:
    done, out = run(tmp_path, "--toy", "--models", model)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert found["toy"]
    assert found["software"]["torch"]
    assert found["hardware"]["cpu"]
    (measured,) = found["models"]
    assert measured["not_measured"] == []
    assert (found["complete"], measured["rows_out_of_memory"]) == (True, [])
    lines = measured["measured"]
    assert [(line["kind"], line["case"]) for line in lines] == [
        ("plain", "baseline"),
        *(("ours without engine", case) for case in [*LENGTHS, *KEPT]),
        *(("our loop", case) for case in LENGTHS),
        *(("our loop, dropping", case) for case in KEPT),
    ]
    assert all(line["seconds_per_step"] > 0 and line["of_plain"] > 0 for line in lines)
    loop = {line["case"]: line for line in lines if line["kind"].startswith("our loop")}
    assert [loop[case]["rows"] for case in LENGTHS] == rows
    operations = [loop[case]["flops_per_step"] for case in ("1/8 kept", "1/4 kept", "1/2 kept", "baseline")]
    assert operations == sorted(set(operations))
    assert loop["1/8 kept"]["effective_tokens_per_second"] < loop["1/8 kept"]["tokens_per_second"]


@pytest.mark.slow
def test_without_deepspeed_it_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['deepspeed'] = None  # as if not installed\n")
    wanted = "ours without engine;our loop;our loop, dropping"
    done, out = run(tmp_path, "--toy", "--models", "gpt2-124m", "--kinds", wanted, path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (measured,) = json.loads(out.read_text())["models"]
    assert [line["kind"] for line in measured["measured"]] == ["ours without engine"] * 7
    assert [fault["kind"] for fault in measured["not_measured"]] == ["our loop", "our loop, dropping"]
    assert all("DeepSpeed is not installed" in fault["fault"] for fault in measured["not_measured"])


FAILING = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import throughput
if __name__ == "__main__":
    task = throughput.Task("plain", throughput.toy(throughput.SETTINGS[0]), Path("nowhere"), throughput.TOY_TIMING, "")
    print(throughput.in_a_process(task, Path(sys.argv[2])))
"""


def test_the_fault_of_a_process_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FAILING, str(SCRIPT.parent), str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'fault': 'DataeffError: nowhere/tokenizer/tokenizer.json: no such file" in done.stdout


OUT_OF_MEMORY = """
import json, sys
sys.path.insert(0, sys.argv[1])
import throughput
if __name__ == "__main__":
    kept = []

    def measure(setting, kind):
        if kind == "our loop" and setting.rows > 2:
            return {"fault": "OutOfMemoryError: x", "out_of_memory": True}
        return {"lines": [{"kind": kind, "rows": setting.rows}]} if kind != "plain" else {"fault": "y"}

    setting, wanted = throughput.toy(throughput.SETTINGS[0]), ["plain", "ours without engine", "our loop"]
    throughput.fitting(setting, wanted, measure, {}, lambda model, complete: kept.append(json.dumps([model, complete])))
    print(json.dumps([json.loads(one) for one in kept]))
"""


def test_what_runs_out_of_memory_is_measured_with_half_the_rows_as_are_all_it_stands_beside(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(SCRIPT.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "out of memory: all kinds anew with 2 rows" in done.stdout
    kept = json.loads(done.stdout.splitlines()[-1])
    assert [(len(model["measured"]), complete) for model, complete in kept] == [
        (0, False),
        (1, False),
        (0, False),
        (1, False),
        (2, True),
    ]
    last = kept[-1][0]
    assert (last["rows"], last["rows_out_of_memory"]) == (2, [4])
    assert [line["rows"] for line in last["measured"]] == [2, 2]
    assert last["not_measured"] == [{"kind": "plain", "fault": "y"}]


MEMORY = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import throughput, kinds, torch
if __name__ == "__main__":
    kinds.measure = lambda task: torch.empty(2**50, dtype=torch.uint8)
    throughput.child(None, Path(sys.argv[2]))
"""


def test_memory_that_is_out_is_told_from_other_faults(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    subprocess.run([sys.executable, "-c", MEMORY, str(SCRIPT.parent), str(out)], capture_output=True, check=True)
    assert json.loads(out.read_text())["out_of_memory"]


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    done, out = run(tmp_path, "--toy", "--models", "gpt5")
    assert done.returncode == 1
    assert "gpt5" in done.stderr
    assert "gpt2-124m" in done.stderr
    assert not out.exists()


def test_without_a_gpu_only_toy_size_runs(tmp_path: Path) -> None:
    done, out = run(tmp_path)
    assert done.returncode == 1
    assert "--toy" in done.stderr
    assert not out.exists()
