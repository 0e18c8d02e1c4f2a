"""Each state of a job from the files that it leaves, on a study that was frozen and whose files are laid by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataeff.cli import main
from dataeff.errors import DataeffError
from dataeff.files import write_json, write_text
from dataeff.monitor.found_study import FoundStudy, find_study
from dataeff.monitor.items import items_of
from dataeff.monitor.markers import Markers
from dataeff.monitor.states import owner_of
from dataeff.monitor.status import Snapshot, Status
from dataeff.monitor.status_view import shown
from dataeff.monitor.training import tokens_per_second
from dataeff.study.load import load_study
from dataeff.study.specs import plan_spec, pretrain_spec
from tests.factory import ROOT, config

RUN = "gpt-ltd-100-s1234"
STEPS, TOKENS = 40, 2048


class Site:
    """A folder as Snakemake leaves it: the frozen study, results, markers, locks."""

    def __init__(self, root: Path) -> None:
        self.root, self.results = root, root / "results"
        self.study = load_study(config(scale="smoke", grids=_one_grid()), ROOT)
        frozen = self.study.freeze(self.results / ".study").resolve()
        write_text(root / ".snakemake/dataeff.study", str(frozen))

    @property
    def scale(self) -> Path:
        return self.results / "smoke"

    def found(self) -> FoundStudy:
        return find_study(self.root, None, None, None)

    def snapshot(self) -> Snapshot:
        return Status(self.found()).snapshot()

    def state_of(self, stage: str, name: str) -> str:
        states = {(one.item.stage, one.item.name): one.state for one in self.snapshot().items}
        return states[stage, name]

    def mark(self, output: str, age: float = 0.0) -> None:
        """Snakemake's record of a job under way."""
        path = self.root / ".snakemake/incomplete" / urlsafe_b64encode(output.encode()).decode()
        write_text(path, "")
        _age(path, age)

    def lock(self) -> None:
        write_text(self.root / ".snakemake/locks/0.output.lock", "")

    def log(self, name: str, text: str, age: float = 0.0) -> None:
        write_text(self.scale / "logs" / name, text)
        _age(self.scale / "logs" / name, age)

    def plan(self, name: str = RUN, **changes: Any) -> None:
        digest = plan_spec(self.study, self.study.find_run(name)).digest
        facts = {"spec_digest": digest, "digest": "p" * 64, "steps": STEPS, "effective_tokens": STEPS * TOKENS}
        write_json(self.scale / f"plan/{name}/plan.json", {**facts, **changes})

    def finish(self, name: str = RUN, **changes: Any) -> None:
        digest = pretrain_spec(self.study, self.study.find_run(name)).digest
        facts = {"spec_digest": digest, "plan_digest": "p" * 64, "steps": STEPS, "heldout_loss": 4.5}
        write_json(self.scale / f"pretrain/{name}/run.json", {**facts, **changes})
        write_json(self.scale / f"pretrain/{name}/timings.json", {"effective_tokens_per_second": 1234.5})

    def train(self, steps: int, seconds: float = 0.5, probes: tuple[int, ...] = (5,)) -> None:
        """The logs of a training that has made so many steps."""
        state = self.scale / f"state/{RUN}"
        rows = [
            {"step": step, "loss": 6.0, "effective_tokens": step * TOKENS}
            | ({"heldout_loss": 5.0 + step / 100} if step in probes else {})
            for step in range(1, steps + 1)
        ]
        write_text(state / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        timings = [{"step": row["step"], "seconds": seconds} for row in rows]
        write_text(state / "timings.jsonl", "".join(json.dumps(row) + "\n" for row in timings))

    def own(self, host: str, pid: int, **more: Any) -> Path:
        path = self.scale / f"state/{RUN}.owner"
        write_json(path, {"host": host, "pid": pid, **more})
        return path


def _one_grid() -> dict[str, Any]:
    entries = [{"family": "gpt", "variants": ["baseline", "ltd", "cl_voc"]}, {"family": "bert", "variants": ["ltd"]}]
    return {"core": entries, "other": [{"family": "gpt", "variants": ["baseline"]}]}


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def trainer() -> Iterator[int]:
    """A living process that looks like one of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "dataeff"])
    yield process.pid
    process.kill()
    process.wait()


def of_run(snapshot: Snapshot, name: str = RUN) -> Any:
    return next(training for training in snapshot.trainings if training.run.name == name)


# --- one state after the other -------------------------------------------------------------------------------


def test_nothing_made_yet_is_pending(site: Site) -> None:
    snapshot = site.snapshot()
    assert {one.state for one in snapshot.items} == {"pending"}
    assert not snapshot.is_done


def test_every_item_has_its_own_files(site: Site) -> None:
    items = items_of(site.found())
    outputs = [path for item in items for path in item.outputs]
    assert len(set(outputs)) == len(outputs)
    assert len({item.log for item in items}) == len(items)


def test_a_training_that_runs_here_tells_how_far_it_is(site: Site, trainer: int) -> None:
    site.plan()
    site.train(10)
    site.own(socket.gethostname(), trainer)
    snapshot = site.snapshot()
    training = of_run(snapshot)
    assert (training.state, training.steps_done, training.steps) == ("running", 10, STEPS)
    assert training.tokens_per_second == pytest.approx(TOKENS / 0.5)
    assert training.left_seconds == pytest.approx(30 * 0.5)
    assert (training.heldout_loss, training.heldout_step) == (5.05, 5)
    line = next(line for line in shown(snapshot, 100) if line.startswith(RUN))
    assert line.split() == [RUN, "running", "10/40", "4.1K", "0:15", "5.0500", "0/3"]


def test_a_training_elsewhere_runs_until_it_is_silent_for_too_long(site: Site) -> None:
    """Its process cannot be seen; its logs can."""
    site.plan()
    site.train(10)
    site.own("node7", 1, slurm_job="4711")
    snapshot = site.snapshot()
    assert (of_run(snapshot).state, of_run(snapshot).remark) == ("running", "")
    assert any("job 4711 on node7" in line for line in shown(snapshot, 100))
    for path in (site.scale / "state").rglob("*"):
        _age(path, 2 * site.study.hardware.timeout_seconds)
    assert of_run(site.snapshot()).remark == "silent"


def test_a_training_that_was_killed_is_stopped(site: Site) -> None:
    """Its owner's file is left behind, with the number of a process that is gone or is another's now."""
    site.plan()
    site.train(10)
    site.log(f"pretrain/{RUN}.log", f"{RUN}  step 10/40  loss 6.0\n", age=500)
    for pid in (2**22 - 1, 1):
        site.own(socket.gethostname(), pid)
        snapshot = site.snapshot()
        assert of_run(snapshot).state == "stopped"
        assert of_run(snapshot).left_seconds is None
    assert any("step 10/40  loss 6.0" in line for line in shown(snapshot, 100))


def test_a_failed_job_shows_the_end_of_its_log(site: Site) -> None:
    site.log("plan/gpt-cl_voc-100-s1234.log", "reading\ndataeff: error: index: no such file; make it\n", age=70)
    snapshot = site.snapshot()
    assert [(one.item.stage, one.item.name, one.state) for one in snapshot.troubles] == [
        ("plan", "gpt-cl_voc-100-s1234", "failed")
    ]
    said = shown(snapshot, 100)
    assert any(line.startswith("failed: plan gpt-cl_voc-100-s1234, 1:10 ago: ") for line in said)
    assert "  dataeff: error: index: no such file; make it" in said


@pytest.mark.parametrize(
    "end",
    [
        "Traceback (most recent call last):\n  File x\nValueError: no",
        "slurmstepd: error: Detected 1 oom_kill event",
        "/bin/bash: line 1: dataeff: command not found",
    ],
)
def test_what_logs_of_failures_end_with(site: Site, end: str) -> None:
    site.log(f"plan/{RUN}.log", end + "\n")
    assert site.state_of("plan", RUN) == "failed"


def test_a_failure_that_was_mended_is_none(site: Site) -> None:
    site.log(f"plan/{RUN}.log", "dataeff: error: no\n")
    site.plan()
    assert site.state_of("plan", RUN) == "finished"


def test_a_job_under_way_shows_what_its_log_says(site: Site) -> None:
    site.lock()
    site.mark(f"results/smoke/plan/{RUN}/plan.json", age=30)
    site.log(f"plan/{RUN}.log", "plan: 40% of 100 steps, 0:10 left\n", age=20)
    assert site.state_of("plan", RUN) == "running"
    assert any("plan: 40% of 100 steps, 0:10 left" in line for line in shown(site.snapshot(), 100))


def test_a_submitted_job_waits_for_its_own_log(site: Site) -> None:
    """A log of an earlier time is not that of the job that waits in the queue."""
    site.lock()
    site.log(f"plan/{RUN}.log", "dataeff: error: earlier\n", age=900)
    site.mark(f"results/smoke/plan/{RUN}/plan.json", age=30)
    assert site.state_of("plan", RUN) == "submitted"


def test_a_job_whose_snakemake_was_killed_is_stopped(site: Site) -> None:
    site.mark(f"results/smoke/plan/{RUN}/plan.json", age=3000)
    site.log(f"plan/{RUN}.log", "at work\n", age=2000)
    assert site.state_of("plan", RUN) == "stopped"


def test_markers_of_long_paths_are_read(tmp_path: Path) -> None:
    """Snakemake cuts a name that is too long for a file into folders that begin with @."""
    output = "results/" + "x" * 300 + "/plan.json"
    name = urlsafe_b64encode(output.encode()).decode()
    write_text(tmp_path / ".snakemake/incomplete" / f"@{name[:254]}" / name[254:], "")
    markers = Markers.read(tmp_path, tmp_path / ".snakemake")
    assert list(markers.started) == [tmp_path / output]


# --- what is finished ----------------------------------------------------------------------------------------


def test_a_finished_run(site: Site) -> None:
    site.plan()
    site.finish()
    training = of_run(site.snapshot())
    assert (training.state, training.steps_done, training.heldout_loss) == ("finished", STEPS, 4.5)


@pytest.mark.parametrize("changed", [{"spec_digest": "another"}, {"plan_digest": "another"}])
def test_a_result_of_another_configuration_is_not_this_one_s(site: Site, changed: dict[str, Any]) -> None:
    site.plan()
    site.finish(**changed)
    assert of_run(site.snapshot()).state == "pending"


def test_what_follows_an_outdated_plan_is_pending(site: Site) -> None:
    site.plan(spec_digest="another")
    site.finish()
    write_json(site.scale / f"evaluate/{RUN}/heldout.json", {})
    assert site.state_of("pretrain", RUN) == site.state_of("evaluate", f"{RUN} heldout") == "pending"


def test_evaluations_are_counted_by_run(site: Site) -> None:
    site.plan()
    site.finish()
    write_json(site.scale / f"evaluate/{RUN}/heldout.json", {})
    write_json(site.scale / f"evaluate/{RUN}/probes/0shot/scores.json", {})
    assert site.snapshot().evaluations[RUN] == (1, 3), "the group is done when all its shots are"


def test_what_only_served_a_finished_thing_is_no_work_left(site: Site) -> None:
    """Parts of an index that is made may be deleted."""
    folder = site.results / "data/packages_small/bpe4k/gpt-256/analyze"
    write_json(folder / "vocab_rarity/manifest.json", {})
    write_text(folder / "frequency.npy", "")
    assert site.snapshot().counts("analyze") == {"finished": 6}


# --- which study, and how it is shown ------------------------------------------------------------------------


def test_the_study_is_found_from_elsewhere_by_its_results(site: Site, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert find_study(elsewhere, site.results, "smoke", "other").runs == site.study.grids["other"]
    with pytest.raises(DataeffError, match=r"no study was started here yet; start one \(`snakemake -n` will do\)"):
        find_study(elsewhere, None, None, None)
    with pytest.raises(DataeffError, match="no study of scale paper"):
        find_study(site.root, None, "paper", None)
    with pytest.raises(DataeffError, match="unknown grid 'cora'"):
        find_study(site.root, None, None, "cora")


def test_lines_fit_the_terminal(site: Site) -> None:
    site.log("plan/gpt-cl_voc-100-s1234.log", "dataeff: error: " + "long " * 100 + "\n")
    assert max(map(len, shown(site.snapshot(), 80))) == 80


def test_a_narrow_terminal_has_whole_columns(site: Site) -> None:
    """Of the widest names and steps: what is left out is the least, and nothing is cut in the middle."""
    site.plan()

    def headings(width: int) -> list[str]:
        return next(line.split() for line in shown(site.snapshot(), width) if line.startswith("run "))

    whole = headings(200)
    assert whole == ["run", "state", "step", "tokens/s", "left", "held-out", "tasks"]
    narrow = headings(60)
    assert narrow == [name for name in whole if name in narrow]
    assert {"run", "state", "step", "held-out"} <= set(narrow) < set(whole)


def test_a_study_of_another_version_is_said_in_one_line(site: Site) -> None:
    (frozen,) = (site.results / ".study").glob("*.json")
    study = json.loads(frozen.read_text())
    frozen.write_text(json.dumps({name: value for name, value in study.items() if name not in ("datasets", "tasks")}))
    with pytest.raises(DataeffError, match="the study of another version of dataeff") as told:
        find_study(site.root, None, None, None)
    assert "\n" not in str(told.value)


def test_the_command_prints_text_or_json(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.plan()
    main(["status", "--root", str(site.root)])
    assert "grid core at scale smoke: 4 runs" in capsys.readouterr().out
    main(["status", "--root", str(site.root), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["stages"]["plan"] == {"finished": 1, "pending": 3}
    assert [run["name"] for run in told["runs"]] == [run.name for run in site.study.grids["core"]]


def test_watching_ends_when_all_is_done(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for item in items_of(site.found()):
        for path in item.outputs:
            write_text(path, "{}")
    for run in site.study.grids["core"]:
        site.plan(run.name)
        site.finish(run.name)
    main(["status", "--root", str(site.root), "--watch", "0.1"])
    assert "all is done" in capsys.readouterr().out


def test_nothing_heavy_is_imported(site: Site) -> None:
    code = (
        "import sys; from dataeff.cli import main; main(['status', '--root', sys.argv[1]]); "
        "print([name for name in ('torch', 'numba', 'pandas', 'snakemake', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(site.root)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_pace_counts_the_steps_that_both_logs_have() -> None:
    rows = [{"step": step, "effective_tokens": step * 100} for step in range(5, 12)]
    timings = [{"step": step, "seconds": 2.0} for step in range(8, 15)]
    assert tokens_per_second(rows, timings) == pytest.approx(50.0)
    assert tokens_per_second(rows[:1], timings[:1]) is None


def test_an_owner_file_that_is_just_being_written_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "run.owner").write_text("")
    assert owner_of(tmp_path / "run.owner") is None
