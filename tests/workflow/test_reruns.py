"""What an edit reruns: exactly the jobs whose slice of the study changed, and what depends on them.

Counted on a finished study of the default shape whose jobs end at once (stand_in.py); each test edits a copy of it
as a user would and compares the jobs that Snakemake then lists.
"""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from dataeff.study.specs import evaluate_specs
from tests.factory import ROOT, config, load
from tests.workflow.checkout import Checkout

HALF = ["baseline", "composed", "baseline_flat_lr", "composed_flat_lr"]
FULL = ["baseline", "cl_seqtru", "cl_seqres", "cl_voc", "cl_seqtru_voc", "ltd", "composed"]
GPT = [f"gpt-{variant}-100-s1234" for variant in FULL] + [f"gpt-{variant}-50-s1234" for variant in HALF]
BERT = [f"bert-{variant}-100-s1234" for variant in ("baseline", "cl_seqtru_voc", "ltd", "composed")]
RUNS = GPT + BERT
DROPPING = [run for run in GPT if run.split("-")[1] in ("ltd", "composed", "composed_flat_lr")]
SELECTING = [run for run in GPT if run.split("-")[1] in ("cl_voc", "cl_seqtru_voc", "composed", "composed_flat_lr")]
ITEM, PAIRS = "bpe4k/gpt-256", "wordpiece4k/bert-128"


def analyses(item: str) -> set[str]:
    return {f"analyze vocab_rarity {item}", *(f"analyze map vocab_rarity {item} {part}" for part in (0, 1))}


def frequencies(item: str) -> set[str]:
    return {f"analyze frequency {item}", *(f"analyze map total_vocab_freq {item} {part}" for part in (0, 1))}


def tokens(item: str) -> set[str]:
    """Everything from the tokenizer on that a family's runs share."""
    name = item.split("/")[0]
    encoded = {f"tokens encode {name} {shard}" for shard in ("00", "01")}
    return {f"tokens train {name}", f"samples {item}"} | encoded | frequencies(item) | analyses(item)


REDUCE = f"analyze vocab_rarity {ITEM}"
CLOSING = {"tables core", "figures core", "report index"}
STUDY = load(config())
GROUPS, FINETUNING = list(evaluate_specs(STUDY)), list(STUDY.finetuning)
SCANS = {"evaluate scan 00", "evaluate scan 01", "evaluate contamination"} if STUDY.datasets else set()
ORDER = "evaluate items word_order"
CORPUS = {"corpus build", "evaluate items last_word", ORDER} | SCANS | tokens(ITEM) | tokens(PAIRS)
TINY = "scales/tiny.yaml"
VARIANTS = "variants/gpt.yaml"
TOKENIZERS = "corpora.yaml"
LTD = "ltd.token_drop.pacing.start"


def jobs(stages: str, runs: list[str] = RUNS) -> set[str]:
    """`jobs("plan pretrain", runs)`: the jobs of those stages, one per run. `evaluate` is all that is measured of its
    model: `heldout`, and `asked` or `finetuned`.
    """
    several = {
        "heldout": lambda run: {f"evaluate heldout {run}"},
        "asked": lambda run: {f"evaluate {run} {group}" for group in GROUPS if run.startswith("gpt")},
        "finetuned": lambda run: {f"finetune {run} {task}" for task in FINETUNING if run.startswith("bert")},
    }
    words = stages.replace("evaluate", "heldout asked finetuned").split()
    made = [several[word](run) if word in several else {f"{word} {run}"} for word in words for run in runs]
    return set().union(*made)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --- nothing changed -----------------------------------------------------------------------------------------


def test_a_finished_study_has_nothing_to_do(finished: Checkout) -> None:
    before = times(finished.results)
    assert finished.todo() == set()
    assert times(finished.results) == before
    assert len(DROPPING) == 4


def test_comments_and_commands_rerun_nothing(study: Checkout) -> None:
    """A remark in any file, or a mended command line, is no reason to train again."""
    configs = [path for path in (study.folder / "config").rglob("*.yaml") if path.parent.name != "schemas"]
    for path in (study.folder / "Snakefile", *(study.folder / "workflow/rules").glob("*.smk"), *configs):
        path.write_text("# a remark\n" + path.read_text())
    for rule in ("plan", "pretrain"):
        path = study.folder / f"workflow/rules/{rule}.smk"
        mended = path.read_text().replace(f"dataeff {rule} --spec", f"nice dataeff {rule} --spec")
        path.write_text(mended.replace("resources:", "priority: 3\n    resources:"))
        assert path.read_text().count("nice dataeff") == path.read_text().count("priority: 3") == 1
    assert study.todo() == set()


@pytest.mark.parametrize(
    "setting",
    [
        "hardware={processes: 2, threads: 3, micro_batch: 4, zero_stage: 1, checkpoint_every: 7, heldout_points: 3, "
        "memory_mb: 900, minutes: 9}",
        "cache=elsewhere/cache",
    ],
    ids=["hardware", "cache"],
)
def test_how_a_study_is_run_is_no_part_of_it(study: Checkout, setting: str) -> None:
    assert study.todo("--config", setting) == set()


def test_the_order_and_layout_of_config_files_say_nothing(study: Checkout) -> None:
    path = study.folder / "config" / VARIANTS
    blocks = path.read_text().split("\n\n")
    path.write_text("\n\n".join([blocks[0], *reversed(blocks[1:])]))
    assert study.todo() == set()


def test_files_touched_with_the_same_content_rerun_nothing(study: Checkout) -> None:
    """A copied or restored results folder has times in no order at all."""
    files = [path for path in study.results.rglob("*") if path.is_file()]
    latest = max(times(study.results).values())
    random.Random(1).shuffle(files)
    for number, path in enumerate(files):
        os.utime(path, ns=(latest, latest + number * 1_000_000))
    assert study.todo() == set()


def test_an_edit_and_its_revert_rerun_nothing(study: Checkout) -> None:
    """Also where the edit was looked at by a dry run, which writes the edited specs."""
    old = study.edit(VARIANTS, LTD, "1/8")
    assert study.todo()
    study.edit(VARIANTS, LTD, old)
    assert study.todo() == set()


# --- an edit reruns its slice --------------------------------------------------------------------------------


def test_pacing_of_a_method_reruns_the_runs_that_have_it(study: Checkout) -> None:
    """The method, and every composition that extends it, at every data fraction; nothing else, and once."""
    before = times(study.results / "tiny")
    study.edit(VARIANTS, LTD, "1/8")
    assert study.todo() == jobs("plan pretrain evaluate", DROPPING) | CLOSING
    study.run()
    assert study.todo() == set()
    rewritten = {
        path.relative_to(study.results / "tiny").parts[:2]
        for path, time in times(study.results / "tiny").items()
        if before[path] != time
    }
    made = {(stage, run) for stage, run in rewritten if stage in ("plan", "pretrain", "evaluate")}
    assert made == {(stage, run) for stage in ("plan", "pretrain", "evaluate") for run in DROPPING}


PROBED = {f"evaluate {run} probes" for run in GPT}


@pytest.mark.parametrize(
    ("file", "key", "value", "expected"),
    [
        (TINY, "evaluation.shots", [0, 5], jobs("asked") | CLOSING),
        (TINY, "evaluation.items", 7, jobs("asked") | CLOSING),
        (TINY, "evaluation.heldout_bytes_per_domain", 777, jobs("heldout") | CLOSING),
        (TINY, "families.gpt.model.dropout", 0.3, jobs("pretrain evaluate", GPT) | CLOSING),
        (TINY, "families.bert.model.dropout", 0.3, jobs("pretrain evaluate", BERT) | CLOSING),
        (TINY, "families.gpt.learning_rate.peak", 0.5, jobs("plan pretrain evaluate", GPT) | CLOSING),
        (VARIANTS, "cl_voc.about", "rare words last", CLOSING),
        (TOKENIZERS, "tokenizers.bpe4k.vocab_size", 999, tokens(ITEM) | jobs("plan pretrain evaluate", GPT) | CLOSING),
        (TOKENIZERS, "corpora.packages_small.min_characters", 333, CORPUS | jobs("plan pretrain evaluate") | CLOSING),
        ("tasks.yaml", "tasks.word_order.choices", 3, {ORDER} | PROBED | CLOSING),
    ],
    ids=["shots", "items", "held-out", "model", "bert-model", "learning-rate", "about", "tokenizer", "corpus", "task"],
)
def test_an_edit_of_one_key(study: Checkout, file: str, key: str, value: object, expected: set[str]) -> None:
    study.edit(file, key, value)
    assert study.todo() == expected


def test_a_method_that_is_taken_out_reruns_no_other(study: Checkout) -> None:
    """Its results stay on the disk; only what shows the grid as a whole is made anew."""
    path = study.folder / "config/config.yaml"
    path.write_text(path.read_text().replace("cl_seqres, ", ""))
    assert study.todo() == CLOSING
    study.run()
    assert study.todo() == set()
    assert (study.results / "tiny/evaluate/gpt-cl_seqres-100-s1234/heldout.json").is_file()


def test_one_more_seed_adds_its_runs_only(study: Checkout) -> None:
    added = [run.replace("s1234", "s1") for run in RUNS]
    assert study.todo("--config", "seeds=[1234, 1]") == jobs("plan pretrain evaluate", added) | CLOSING


OWN_STUDY = """
grid: mine
grids:
  mine:
    - {family: gpt, variants: [baseline, ltd_late]}
variants:
  gpt:
    ltd_late:
      about: random-LTD in the second half of the layers
      extends: [ltd]
      token_drop: {keep_first: 2}
"""


def test_a_study_of_one_s_own_runs_its_own_jobs_only(study: Checkout) -> None:
    """A file by --configfile, no tracked file edited; and the default study is still done afterwards."""
    (study.folder / "my_study.yaml").write_text(OWN_STUDY)
    own = {"tables mine", "figures mine", "report index"}
    assert study.todo("--configfile", "my_study.yaml") == (
        jobs("plan pretrain evaluate", ["gpt-ltd_late-100-s1234"]) | own
    )
    study.run("--configfile", "my_study.yaml")
    assert study.todo("--configfile", "my_study.yaml") == set()
    assert study.todo() == {"report index"}, "of the default study, only its page is to be shown again"


def test_a_second_scale_shares_the_data_and_leaves_the_first_done(study: Checkout) -> None:
    smoke = ("--config", "scale=smoke")
    own = {"datasets of scale smoke"} | SCANS
    assert study.todo(*smoke) == jobs("plan pretrain evaluate") | own | CLOSING
    study.run(*smoke)
    assert study.todo(*smoke) == set()
    assert study.todo() == set()


# --- outputs that are gone, stages that mean something else --------------------------------------------------


LTD_RUN = ["gpt-ltd-100-s1234"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("plan/gpt-ltd-100-s1234/order.json", jobs("plan pretrain evaluate", LTD_RUN) | CLOSING),
        ("pretrain/gpt-ltd-100-s1234/model.safetensors", jobs("pretrain evaluate", LTD_RUN) | CLOSING),
        ("evaluate/gpt-ltd-100-s1234/probes/10shot/scores.json", {"evaluate gpt-ltd-100-s1234 probes"} | CLOSING),
        ("tables/core/quality.csv", {"tables core", "report index"}),
        ("figures/core", {"figures core", "report index"}),
        ("report/index.html", {"report index"}),
    ],
    ids=["plan", "model", "scores", "table", "figures", "report index"],
)
def test_a_deleted_result_is_made_again(study: Checkout, path: str, expected: set[str]) -> None:
    """And what depends on it; also where the report is there and newer than all that it was made from."""
    place = study.results / "tiny" / path
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert study.todo() == expected


def test_shared_data_is_made_again_when_something_needs_it(study: Checkout) -> None:
    """A study that is done may lose its data to save space; a new run then brings back what it reads."""
    for path in study.results.rglob("data/*/bpe4k/gpt-256/analyze/vocab_rarity/order.npy"):
        path.unlink()
    assert study.todo() == set()
    study.edit(VARIANTS, "cl_voc.curriculum.vocab_rarity.pacing.root", 3)
    assert study.todo() == {REDUCE} | jobs("plan pretrain evaluate", SELECTING) | CLOSING


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("CorpusSpec", CORPUS | jobs("plan pretrain evaluate") | CLOSING),
        (
            "AnalyzeSpec",
            set.union(*(analyses(item) | frequencies(item) for item in (ITEM, PAIRS)))
            | jobs("plan pretrain evaluate", [*SELECTING, *(run for run in BERT if "voc" in run or "composed" in run)])
            | CLOSING,
        ),
        ("PlanSpec", jobs("plan pretrain evaluate") | CLOSING),
        ("PretrainSpec", jobs("pretrain evaluate") | CLOSING),
        ("ItemsSpec", {"evaluate items last_word", ORDER} | PROBED | CLOSING),
        ("EvaluateSpec", jobs("asked") | CLOSING),
        ("HeldoutSpec", jobs("heldout") | CLOSING),
        ("FinetuneSpec", jobs("finetuned") | (CLOSING if FINETUNING else set())),
        ("ContaminationSpec", SCANS),
        ("GridSpec", CLOSING),
    ],
)
def test_a_stage_s_new_version_reruns_it_and_what_follows(study: Checkout, spec: str, expected: set[str]) -> None:
    """A developer raises `version` in the stage's spec where its output means something else."""
    package = study.folder / "src/dataeff"
    shutil.copytree(ROOT / "src/dataeff", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / "study/specs.py"
    head, body = path.read_text().split(f"class {spec}(Spec):\n", 1)
    stage, rest = body.split("\n\n\n", 1)
    raised = re.sub(r"\n    version: int = \d+", "", stage).replace("    stage:", "    version: int = 9\n    stage:", 1)
    path.write_text(f"{head}class {spec}(Spec):\n{raised}\n\n\n{rest}")
    assert study.todo(PYTHONPATH=str(package.parent)) == expected
