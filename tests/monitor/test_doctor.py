"""What the doctor says of machines and sites, sound ones and those that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from dataeff.files import write_json
from dataeff.monitor.doctor_files import bytes_needed, file_system, room
from dataeff.monitor.doctor_gpu import all_reduce, memory_for, state_bytes
from dataeff.monitor.doctor_network import to_fetch, unreachable
from dataeff.monitor.doctor_slurm import COMMANDS, Partition, gpus_of, minutes_of, of_partitions, partitions, slurm
from dataeff.monitor.doctor_software import compared, pins_of
from dataeff.monitor.finding import Finding, problem
from dataeff.study.load import Study, load_study
from dataeff.study.site import Site
from dataeff.study.types import Hardware
from tests.factory import ROOT, config

SINFO = ["gpu*|up|1-00:00:00|3|gpu:h100:8(S:0-1)", "gpu*|up|1-00:00:00|1|gpu:h100:4", "cpu|up|infinite|20|(null)"]
NODES = Hardware(nodes=2, processes=8, gpus=8, minutes=1440)


def study(**changes: Any) -> Study:
    return load_study(config(**{"scale": "smoke", **changes}), ROOT)


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.what: finding.level for finding in findings}


# --- software ------------------------------------------------------------------------------------------------


def test_pins_are_read_from_requirements_and_constraints() -> None:
    lines = ["# a remark==1", "lm-eval[hf]==0.4.13; extra == 'study'", "Ruamel_Yaml==1.2", "numpy>=2.0", ""]
    assert pins_of(lines) == {"lm-eval": "0.4.13", "ruamel-yaml": "1.2"}


def test_packages_are_compared_with_their_pins() -> None:
    missing, other = compared({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4"})
    assert (missing, other) == (["a"], ["c 4 for 3"])


# --- files ---------------------------------------------------------------------------------------------------


def test_a_sound_file_system(tmp_path: Path) -> None:
    assert set(levels(file_system("results", tmp_path))) == {"results, locks", "results, renames", "results, speed"}
    assert "problem" not in levels(file_system("results", tmp_path)).values()
    assert list(tmp_path.iterdir()) == []


def test_room_is_compared_with_what_models_and_checkpoints_take(tmp_path: Path) -> None:
    assert room(tmp_path, 1).level == "ok"
    assert room(tmp_path / "not/there/yet", 10**18).level == "problem"
    assert bytes_needed(study()) < 1e9 < bytes_needed(study(scale="paper"))


def test_a_file_system_that_takes_nothing_is_a_problem() -> None:
    """/proc takes no folder of anybody."""
    (finding,) = file_system("results", Path("/proc"))
    assert finding.level == "problem"


# --- network -------------------------------------------------------------------------------------------------


def test_only_what_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    small = study()
    wanted = to_fetch(small, tmp_path)
    names = {name for group in wanted.values() for name in group}
    assert ("https://mirror.example/simple",) in wanted
    assert {name.removeprefix("sources/") for name in names} == {
        *small.sources,
        *(f"datasets/{name}" for name in small.datasets),
    }
    for name in names:
        write_json(tmp_path / f"data/{name}.json", {})
    assert to_fetch(small, tmp_path) == {}


def test_a_server_that_answers_anything_is_reachable() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # answers 501 to everything
    thread = Thread(target=server.handle_request)
    thread.start()
    assert unreachable(f"http://127.0.0.1:{server.server_port}/simple") is None
    thread.join()
    server.server_close()
    assert unreachable(f"http://127.0.0.1:{server.server_port}/simple") is not None
    assert unreachable("no address") is not None


# --- SLURM ---------------------------------------------------------------------------------------------------


def test_what_sinfo_prints() -> None:
    assert partitions(SINFO) == [
        Partition("gpu", True, True, 1440, 3, 8),
        Partition("gpu", True, True, 1440, 1, 4),
        Partition("cpu", False, True, None, 20, 0),
    ]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30:00", 30), ("2:30:00", 150), ("1-02:00:00", 1560), ("infinite", None), ("n/a", None), ("7-00:00:00", 10080)],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("gres", "gpus"), [("gpu:8", 8), ("gpu:h100:8(S:0-1)", 8), ("gpu:a:2,gpu:b:2", 4), ("(null)", 0), ("gpu", 1)]
)
def test_gpus_of_a_node(gres: str, gpus: int) -> None:
    assert gpus_of(gres) == gpus


@pytest.mark.parametrize(
    ("hardware", "site", "expected"),
    [
        (NODES, Site(), {"partition": "ok", "time limit": "ok"}),
        (NODES.model_copy(update={"nodes": 4}), Site(), {"partition": "problem", "time limit": "ok"}),
        (NODES, Site(partition="cpu"), {"partition": "problem", "time limit": "ok"}),
        (NODES, Site(partition="gpus"), {"partition": "problem"}),
        (NODES.model_copy(update={"minutes": 2880}), Site(), {"partition": "ok", "time limit": "problem"}),
        (NODES.model_copy(update={"minutes": 2880}), Site(minutes=1440), {"partition": "ok", "time limit": "ok"}),
    ],
    ids=["fits", "too-many-nodes", "no-gpus", "unknown", "too-long", "continued"],
)
def test_trainings_against_partitions(hardware: Hardware, site: Site, expected: dict[str, str]) -> None:
    assert levels(of_partitions(partitions(SINFO), hardware, site)) == expected


def test_remedies_name_the_variable_and_its_value() -> None:
    (_, limit) = of_partitions(partitions(SINFO), NODES.model_copy(update={"minutes": 2880}), Site())
    assert limit.line == (
        "problem  time limit: trainings ask for 2880 minutes, gpu allows 1440; set DATAEFF_SLURM_MINUTES=1440: "
        "a training continues in the next job"
    )
    (unknown,) = of_partitions(partitions(SINFO), NODES, Site(partition="gpus"))
    assert unknown.remedy == "set DATAEFF_SLURM_PARTITION to one of: gpu, cpu"


def test_a_machine_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert levels(slurm(study(), Site(), wanted=False)) == {"SLURM": "ok"}
    assert levels(slurm(study(), Site(), wanted=True)) == {"SLURM": "problem"}
    for name in COMMANDS[1:]:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (finding,) = slurm(study(), Site(), wanted=False)
    assert finding.said == "sbatch not found"


# --- GPUs and ranks ------------------------------------------------------------------------------------------


def test_what_a_model_takes_of_a_gpu_by_zero_stage() -> None:
    """1.4 billion parameters in fp16: 16 bytes each, of which ZeRO 1 splits 12 over the ranks."""
    whole = study(scale="paper", hardware={"processes": 8, "gpus": 8, "nodes": 1, "zero_stage": 0})
    split = study(scale="paper", hardware={"processes": 8, "gpus": 8, "nodes": 1, "zero_stage": 1})
    assert state_bytes(split, "gpt") == pytest.approx(state_bytes(whole, "gpt") * (4 + 12 / 8) / 16)
    assert 20e9 < state_bytes(whole, "gpt") < 25e9
    assert [memory_for(whole, memory).level for memory in (20 * 10**9, 30 * 10**9, 80 * 10**9)] == [
        "problem",
        "warning",
        "ok",
    ]


def test_a_sum_over_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("SLURM_NNODES", raising=False)
    (finding,) = all_reduce(study(hardware={"processes": 2}))
    assert finding.level == "ok"
    assert finding.said.startswith("2 ranks by gloo, ")


# --- the command ---------------------------------------------------------------------------------------------


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dataeff", "doctor", "--root", str(ROOT), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_ends_with_1_where_something_is_in_the_way(tmp_path: Path) -> None:
    results = f"results={tmp_path / 'results'}"
    found = to_fetch(study(), tmp_path / "results")
    for name in (name for group in found.values() for name in group):
        write_json(tmp_path / f"results/data/{name}.json", {})
    done = doctor(
        "--config", "scale=smoke", results, f"cache={tmp_path / 'cache'}", PATH=str(Path(sys.executable).parent)
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "doctor: scale smoke, grid core"
    assert all(line.split()[0] in ("ok", "warning", "problem") for line in lines[1:-1])
    assert "ok       SLURM: not here; --profile slurm is for machines that have it" in lines
    problems = [line for line in lines if line.startswith("problem")]
    assert [line.split(":")[0] for line in problems] == ["problem  compiler"], "this PATH has none"
    assert done.returncode == 1
    assert lines[-1].startswith("1 problems, ")
    assert not (tmp_path / "cache").exists()


def test_torch_is_not_imported_unasked(tmp_path: Path) -> None:
    code = (
        "import sys, json; from dataeff.cli import main\n"
        "try:\n    main(['doctor', '--root', sys.argv[1], '--config', 'scale=smoke', 'results=' + sys.argv[2]])\n"
        "except SystemExit:\n    pass\n"
        "print(json.dumps([name for name in ('torch', 'numba', 'pandas', 'snakemake') if name in sys.modules]))"
    )
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_finding_is_one_line() -> None:
    assert problem("disk", "full", "make room").line == "problem  disk: full; make room"
