"""The DAG of every scale: it parses, and it has the jobs that the study's size asks for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.factory import ROOT
from tests.workflow.checkout import Checkout, Starter

SCALES = sorted(path.stem for path in (ROOT / "config/scales").glob("*.yaml"))
# Each family has its tokenizer, samples and analysis.
DATA = {
    "corpus_fetch": 7,
    "corpus": 1,
    "tokens_train": 2,
    "tokens": 4,
    "samples": 2,
    "analyze_map": 8,
    "analyze_frequency": 2,
    "analyze": 2,
    "evaluate_items": 2,
    "datasets": 2,
    "datasets_ready": 1,
    "evaluate_scan": 2,
    "evaluate_contamination": 1,
}
PACKAGES = {"corpus_fetch": 15, "tokens": 16, "analyze_map": 32, "datasets": 12, "evaluate_scan": 8, "finetune": 20}
NIGHT = PACKAGES | {"corpus_fetch": 13, "datasets": 2, "finetune": 8}
PILE = {
    "corpus_fetch": 3,  # two vocabularies and the held-out file
    **dict.fromkeys(("corpus_fetch_shard", "corpus_shard"), 30),
    "tokens": 60,
    "analyze_map": 120,
    "evaluate_items": 0,
    "datasets": 28,
    "evaluate_scan": 30,
    "evaluate": 44,  # four groups of the papers' tasks
    "finetune": 48,
}
# Two groups of tasks for each of eleven GPTs, two tasks for each of four BERTs.
RUNS = {"plan": 15, "pretrain": 15, "evaluate": 22, "evaluate_heldout": 15, "finetune": 8}
CLOSING = {"tables": 1, "figures": 1, "report": 1, "all": 1}


def _slow_if_a_size(scale: str) -> list[pytest.MarkDecorator]:
    """GPT-3's other sizes are `paper` with other numbers."""
    return [pytest.mark.slow] if scale.startswith("paper_gpt_") else []


@pytest.mark.parametrize("scale", [pytest.param(name, marks=_slow_if_a_size(name)) for name in SCALES])
def test_a_fresh_checkout_has_every_job_once(checkout: Checkout, scale: str) -> None:
    said = checkout.dry_run("--config", f"scale={scale}")
    own = {"tiny": {}, "smoke": {}, "cpu_night": NIGHT, "one_gpu": PACKAGES}.get(scale, PILE)
    assert checkout.counts(said) == +Counter({**DATA, **RUNS, **own, **CLOSING})
    expected = {path.name for path in checkout.folder.iterdir()}
    assert expected == {"Snakefile", "workflow", "config", "profiles", "results", ".snakemake"}


def test_the_papers_grid_has_every_evaluation_and_finetuning(checkout: Checkout) -> None:
    """30 GPTs at four groups of tasks (0 and 10 shots in one job), 16 BERTs at GLUE's eight and four older tasks."""
    counts = checkout.counts(checkout.dry_run("--config", "scale=paper", "grid=papers"))
    assert (counts["evaluate"], counts["evaluate_heldout"], counts["finetune"]) == (30 * 4, 46, 16 * 12)
    specs = {
        path.stem: yaml.safe_load(path.read_text()) for path in checkout.results.glob("paper/specs/evaluate/*.yaml")
    }
    asked = {task["published_as"] for spec in specs.values() for task in spec["tasks"].values() if task["published_as"]}
    assert (len(specs), len(asked)) == (4, 19)
    assert all(spec["shots"] == [0, 10] for spec in specs.values())
    tuned = [yaml.safe_load(path.read_text()) for path in checkout.results.glob("paper/specs/finetune/*.yaml")]
    trainings = {spec["name"]: len(spec["recipe"]["seeds"]) * len(spec["recipe"]["learning_rates"]) for spec in tuned}
    assert trainings == {
        **dict.fromkeys(("mnli", "qqp", "qnli", "sst2", "cola", "stsb", "mrpc", "rte"), 20),
        **dict.fromkeys(("megatron_mnli", "megatron_qqp", "race_middle", "race_high"), 5),
    }


def test_the_checkout_s_own_snakefile_from_another_folder(starter: Starter, tmp_path: Path) -> None:
    """`snakemake -s CHECKOUT/Snakefile` works in a folder of one's own, with the checkout's config and profile."""
    elsewhere = Checkout(tmp_path / "empty", starter)
    for name in ("Snakefile", "workflow", "config", "profiles"):
        (elsewhere.folder / name).rename(tmp_path / name)
    arguments = ("--snakefile", str(tmp_path / "Snakefile"), "--config", "scale=smoke")
    assert elsewhere.counts(elsewhere.dry_run(*arguments)) == Counter({**DATA, **RUNS, **CLOSING})
    assert elsewhere.results.is_dir()
    assert not (tmp_path / "results").exists()


def test_the_results_setting_moves_every_output(checkout: Checkout, tmp_path: Path) -> None:
    own = tmp_path / "own"
    said = checkout.dry_run("--config", f"results={own}")
    assert checkout.counts(said) == Counter({**DATA, **RUNS, **CLOSING})
    assert (own / "tiny/specs/plan/gpt-ltd-100-s1234.yaml").is_file()
    assert not checkout.results.exists()


def test_each_spec_is_an_input_of_one_job_kind(finished: Checkout) -> None:
    """A spec that no rule reads would make an edit of its slice rerun nothing."""
    said = finished.dry_run("all", "papers", "beyond", "cases", "lr_sweep", "--forceall", "--printshellcmds")
    specs = sorted(path for path in finished.results.rglob("specs/**/*.yaml"))
    unread = [path.name for path in specs if f" --spec {path.relative_to(finished.folder)} " not in said]
    assert len(specs) > 30
    assert unread == []


def test_a_scale_may_take_the_published_vocabulary(checkout: Checkout) -> None:
    """GPT-2's tokenizer is fetched, not trained on the corpus: one more file to bring."""
    own = {
        "scale": "mine",
        "scales": {"mine": {"extends": "smoke", "about": "own", "families": {"gpt": {"tokenizer": "gpt2"}}}},
    }
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(own))
    said = checkout.dry_run("--configfile", "mine.yaml")
    assert checkout.counts(said) == Counter({**DATA, "corpus_fetch": 8, **RUNS, **CLOSING})
    assert ": corpus fetch tokenizer_gpt2\n" in said
