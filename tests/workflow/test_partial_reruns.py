"""What edits of a study with groups of tasks and finetuning rerun, and that `dataeff preview` says the same.

The shape is the papers' (plans, trainings, held-out losses, groups of tasks, finetunings, tables, figures, report) in
far fewer jobs; the papers' own scale is dry-run below. Edits that test_reruns.py counts on the plain default study are
here for the jobs that it has none of: groups of tasks and finetunings.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.common import run_process
from dataeff.files import read_json, write_json
from dataeff.monitor.found_study import find_study
from dataeff.monitor.items import items_of
from dataeff.monitor.status import Status
from dataeff.study.specs import plan_spec, pretrain_spec
from tests.factory import ROOT
from tests.workflow.checkout import Checkout, Starter

MINE = "mine.yaml"
USING = ("--configfile", f"config/{MINE}")
GPT = ["gpt-baseline-100-s1234", "gpt-ltd-100-s1234", "gpt-cl_voc-100-s1234"]
BERT = ["bert-baseline-100-s1234", "bert-ltd-100-s1234"]
RUNS = [*GPT, *BERT]
DROPPING = [run for run in RUNS if "-ltd-" in run]
GROUPS, FINETUNED = ["probes", "short", "reading"], ["cola", "rte"]
TUNED = {"about": "own", "table": "own", "recipe": "once", "inputs": ["text"], "evaluation": {"acc": "validation"}}
STUDY: dict[str, Any] = {
    "recipes": {"once": {"about": "one training", "learning_rates": [1e-4], "seeds": [1]}},
    "finetuning": {name: {**TUNED, "data": data} for name, data in (("cola", "glue_cola"), ("rte", "glue_rte"))},
    "scale": "mine",
    "scales": {
        "mine": {
            "extends": "smoke",
            "about": "tasks in groups, and finetuning",
            "evaluation": {"tasks": ["last_word", "hellaswag", "copa", "boolq"]},
            "finetuning": {"tasks": FINETUNED},
        }
    },
    "grids": {
        "core": [
            {"family": "gpt", "variants": ["baseline", "ltd", "cl_voc"]},
            {"family": "bert", "variants": ["baseline", "ltd"]},
        ]
    },
}
CLOSING = {"tables core", "figures core", "report index"}
MOST_JOBS = 300


def trained(runs: list[str]) -> set[str]:
    """The jobs of runs from their plan on."""
    return {f"{stage} {run}" for stage in ("plan", "pretrain") for run in runs} | asked(runs)


def asked(runs: list[str], groups: list[str] = GROUPS, finetuned: list[str] = FINETUNED) -> set[str]:
    """Everything that is asked of runs."""
    prompted = {f"evaluate {run} {group}" for run in runs if run.startswith("gpt") for group in groups}
    tuned = {f"finetune {run} {task}" for run in runs if run.startswith("bert") for task in finetuned}
    return prompted | tuned | {f"evaluate heldout {run}" for run in runs}


def copy_package(study: Checkout) -> Path:
    package = study.folder / "src/dataeff"
    shutil.copytree(ROOT / "src/dataeff", package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, starter: Starter) -> Checkout:
    """That study, run to its end with the stand-in."""
    checkout = Checkout(tmp_path_factory.mktemp("partial") / "checkout", starter)
    (checkout.folder / "config" / MINE).write_text(yaml.safe_dump(STUDY, sort_keys=False))
    assert checkout.counts(checkout.dry_run(*USING)).total() < MOST_JOBS
    checkout.run(*USING)
    return checkout


@pytest.fixture
def mine(whole: Checkout, tmp_path: Path) -> Checkout:
    return whole.copy_to(tmp_path / "checkout")


def preview(study: Checkout, *arguments: str) -> dict[str, Any]:
    """What `dataeff preview` tells, in the study's folder; it changes no file of it."""
    places = (study.results, study.folder / ".snakemake")
    before = {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-m", "dataeff", "preview", "--json", *arguments, *USING],
        cwd=study.folder,
        env=study.starter.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for place in places for path in place.rglob("*") if path.is_file()}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_rules(jobs: set[str]) -> dict[str, int]:
    """How many jobs of each stage are among these."""
    stages = [" ".join(job.split()[:2]) if job.startswith("evaluate heldout") else job.split()[0] for job in jobs]
    names = ["evaluate_heldout" if stage == "evaluate heldout" else stage for stage in stages]
    return {name: names.count(name) for name in names}


# --- edits ---------------------------------------------------------------------------------------------------


def test_nothing_changed(mine: Checkout) -> None:
    assert mine.todo(*USING) == set()
    assert preview(mine) == {"jobs": 0, "rules": {}, "gpu_hours": 0, "causes": []}


def test_pacing_of_a_method_in_both_families(mine: Checkout) -> None:
    """Two edits, since each family's pacing begins elsewhere; what shows the grid follows from both."""
    for family in ("gpt", "bert"):
        mine.edit(f"variants/{family}.yaml", "ltd.token_drop.pacing.start", "1/8")
    expected = trained(DROPPING) | CLOSING
    told = preview(mine)
    assert told["rules"] == of_rules(expected)
    gpt, bert = told["causes"]
    assert gpt["cause"] == "plan: variant.token_drop.pacing.start 1/16 -> 1/8"
    assert (gpt["about"], bert["about"]) == (["gpt-ltd-100-s1234"], ["bert-ltd-100-s1234"])
    assert gpt["gpu_hours"] + bert["gpu_hours"] == pytest.approx(told["gpu_hours"])
    assert gpt["gpu_hours"] > 0
    assert mine.todo(*USING) == expected


def test_shots_of_one_task_rerun_its_group(mine: Checkout) -> None:
    """Not the other groups, nor any training, nor the search for its items in the corpus."""
    path = mine.folder / "config/tasks.yaml"
    content = yaml.safe_load(path.read_text())
    content["tasks"]["boolq"]["shots"] = [0]
    path.write_text(yaml.safe_dump(content))
    expected = {f"evaluate {run} reading" for run in GPT} | CLOSING
    told = preview(mine)
    assert (told["jobs"], told["gpu_hours"]) == (len(expected), 0)
    assert "evaluate: tasks.boolq.shots none -> [0]" in [cause["cause"] for cause in told["causes"]]
    assert mine.todo(*USING) == expected


def test_one_finetuning_task(mine: Checkout) -> None:
    """A change of one task reruns that one, for each encoder."""
    mine.edit(MINE, "finetuning.rte.about", "mended")
    assert mine.todo(*USING) == {f"finetune {run} rte" for run in BERT} | CLOSING


@pytest.mark.slow
def test_one_more_seed(mine: Checkout) -> None:
    added = [run.replace("s1234", "s7") for run in RUNS]
    expected = trained(added) | CLOSING
    told = preview(mine, "--config", "seeds=[1234, 7]")
    assert told["rules"] == of_rules(expected)
    assert [cause["cause"] for cause in told["causes"]] == ["new run"]
    assert mine.todo(*USING, "--config", "seeds=[1234, 7]") == expected


def test_one_more_variant(mine: Checkout) -> None:
    study = json.loads(json.dumps(STUDY))
    study["grids"]["core"][0]["variants"].append("cl_seqtru")
    (mine.folder / "config" / MINE).write_text(yaml.safe_dump(study))
    assert mine.todo(*USING) == trained(["gpt-cl_seqtru-100-s1234"]) | CLOSING


def test_one_variant_less(mine: Checkout) -> None:
    """Its results stay; what shows the grid is made anew."""
    study = json.loads(json.dumps(STUDY))
    study["grids"]["core"][0]["variants"].remove("ltd")
    (mine.folder / "config" / MINE).write_text(yaml.safe_dump(study))
    assert mine.todo(*USING) == CLOSING
    assert (mine.results / "mine/pretrain/gpt-ltd-100-s1234/run.json").is_file()


def test_another_tokenizer_of_one_family(mine: Checkout) -> None:
    """All of that family from its tokens on, and nothing of the other."""
    mine.edit("corpora.yaml", "tokenizers.wordpiece4k.vocab_size", 999)
    todo = mine.todo(*USING)
    assert trained(BERT) | CLOSING <= todo
    others = todo - trained(BERT) - CLOSING
    assert {job.split()[0] for job in others} == {"tokens", "samples"}
    assert all("wordpiece4k" in job for job in others)


def test_everything_touched(mine: Checkout) -> None:
    """In a random order of times, all later than any record of Snakemake's."""
    files = [path for path in mine.results.rglob("*") if path.is_file()]
    random.Random(7).shuffle(files)
    for number, path in enumerate(files):
        os.utime(path, ns=(time.time_ns() + number * 1_000_000,) * 2)
    assert mine.todo(*USING) == set()


def test_an_upgrade_that_raises_no_version(mine: Checkout) -> None:
    """Code that computes the same is no reason to compute it again."""
    package = copy_package(mine)
    for path in package.rglob("*.py"):
        path.write_text(path.read_text() + "\n# a newer release\n")
    init = package / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', init.read_text()))
    assert mine.todo(*USING, PYTHONPATH=str(package.parent)) == set()


def test_figures_alone(mine: Checkout) -> None:
    """The target all_figures makes figures, and of an edit only what these show."""
    shutil.rmtree(mine.results / "mine/figures/core")
    shutil.rmtree(mine.results / "mine/tables/core")
    assert mine.todo("all_figures", *USING) == {"figures core"} | _aim("figures")
    assert mine.todo("all_tables", *USING) == {"tables core"} | _aim("tables")
    mine.edit("variants/gpt.yaml", "ltd.token_drop.pacing.start", "1/8")
    rerun = trained(["gpt-ltd-100-s1234"])
    assert mine.todo("all_figures", *USING) == rerun | {"figures core"} | _aim("figures")


def test_the_canary_trains_nothing_of_the_study(mine: Checkout) -> None:
    """One job a family, on the data that is there."""
    canaries = {f"canary {run}" for run in ("gpt-ltd-100-s1234", "bert-ltd-100-s1234")}
    assert mine.todo("canary", *USING) == canaries | {"canary of scale mine"}


def _aim(what: str) -> set[str]:
    return {f"{what} of grid core at scale mine"}


def test_a_deleted_model_is_told_apart_from_an_edit(mine: Checkout) -> None:
    (mine.results / "mine/pretrain/gpt-ltd-100-s1234/model.safetensors").unlink()
    told = preview(mine)
    assert [(cause["cause"], cause["about"]) for cause in told["causes"]] == [
        ("pretrain: not there (never made, or deleted)", ["gpt-ltd-100-s1234"])
    ]


def test_preview_tells_a_mistake_in_one_line(mine: Checkout) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dataeff", "preview", "--config", "scale=none"],
        cwd=mine.folder,
        env=mine.starter.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("dataeff: error: config: scale: unknown scale 'none'")
    assert done.stderr.count("\n") == 1


# --- the whole of it -----------------------------------------------------------------------------------------


def test_status_knows_every_job(mine: Checkout) -> None:
    """A study that Snakemake has finished has no item left, and as many as there were jobs."""
    found = find_study(mine.folder, mine.results, None, None)  # the copied path in .snakemake is the original's
    for run in found.runs:
        plan, model = mine.results / f"mine/plan/{run.name}", mine.results / f"mine/pretrain/{run.name}"
        write_json(plan / "plan.json", {"spec_digest": plan_spec(found.study, run).digest, "digest": run.name})
        spec = pretrain_spec(found.study, run).digest
        write_json(model / "run.json", {"spec_digest": spec, "plan_digest": run.name})
        write_json(model / "timings.json", {})
    snapshot = Status(found).snapshot()
    assert [one.item.name for one in snapshot.items if one.state != "finished"] == []
    counts = mine.counts(mine.dry_run(*USING, "--forceall"))
    aims = {"all": 1, "datasets_ready": 1}
    assert len(items_of(found)) == counts.total() - sum(aims.values())


@pytest.mark.slow
def test_the_papers_study_is_parsed_soon_and_in_little_memory(checkout: Checkout) -> None:
    """`snakemake -n` of every row of the papers, at their own scale: within 15 s of a processor, and 400 MB."""
    command = [sys.executable, "-m", "snakemake", "papers", "--dry-run", "--quiet", "rules", "--config", "scale=paper"]
    done = run_process(command, checkout.folder, **checkout.starter.environment())
    print(f"{done.processor_seconds:.1f} s, {done.peak_bytes / 1e6:.0f} MB")
    assert done.processor_seconds < 15
    assert done.peak_bytes < 400e6
    (frozen,) = (checkout.results / ".study").iterdir()
    assert read_json(frozen)["scale_name"] == "paper"
