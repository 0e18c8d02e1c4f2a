"""Whole searches that really train: the smallest model, a few steps each."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from dataeff.errors import DataeffError
from dataeff.study.load import load_study
from dataeff.study.outside import raw_config
from dataeff.study.types import Pacing
from tests.tune.small import tune, write_study

QUICK = ("--multiples", "2", "--probes", "2", "--starts", "16", "32", "--durations", "1/2", "1")


def evidence_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "evidence.json").read_text())
    return found


@pytest.fixture(scope="module")
def searched(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("searched") / "out"
    tune(made, "cl_seqtru", *QUICK, "--out", str(out))
    return out


def test_what_is_chosen_is_the_smallest_start_and_the_longest_duration(searched: Path) -> None:
    """Of a small model nothing fluctuates: the first start and then the longest duration."""
    evidence = evidence_of(searched)
    assert evidence["without_pacing"]["verdict"] == "stable"
    assert [(part["start"], part["over"], part["verdict"]) for part in evidence["candidates"]] == [
        (16, "1/2", "stable"),
        (16, "1", "stable"),
    ]
    assert evidence["chosen"] == {
        "variant": "cl_seqtru_tuned",
        "start": 16,
        "start_in_config": "1/4",
        "over": "1",
    }
    assert "not verified" in evidence["limit_source"]


def test_the_trainings_saw_the_warmup_and_no_more(searched: Path) -> None:
    """2 x 1,024 tokens of warm-up: 4 whole steps of 512; of short samples more steps for the same tokens."""
    evidence = evidence_of(searched)
    without, *candidates = [evidence["without_pacing"], *evidence["candidates"]]
    assert (without["steps"], without["effective_tokens"]) == (4, 2048)
    for part in candidates:
        assert 4 < part["steps"] == part["steps_to_train"]
        assert 2048 <= part["effective_tokens"] < 2048 + 512
    for part in (without, *candidates):
        assert len(part["probes"]) == 4
        assert part["probes"][-1]["step"] == part["steps"]
        assert part["probes"][-1]["loss"] < part["probes"][0]["loss"]
        assert part["worst_ratio"] < 1.3


def test_the_pacing_is_a_variant_for_configfile(made: Path, searched: Path) -> None:
    assert f"# snakemake --cores all tuned_cl_seqtru --configfile {searched / 'pacing.yaml'}" in " ".join(
        (searched / "pacing.yaml").read_text().split()
    )
    study = load_study(raw_config(made, [searched / "pacing.yaml"]), made)
    run = study.grids["tuned_cl_seqtru"][1]
    assert (run.name, len(study.grids["tuned_cl_seqtru"])) == ("gpt-cl_seqtru_tuned-100-s1234", 2)
    pacing = study.variant(run).curriculum["seqlen"].pacing
    assert pacing == Pacing(start=Fraction(1, 4), end=Fraction(1), over=Fraction(1), multiple_of=8)
    assert study.variant(run).curriculum["seqlen"].apply == "truncate"


def test_only_evidence_is_left_and_it_is_used_again(
    made: Path, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = sorted((searched / "trainings").iterdir())
    assert [path.suffix for path in kept] == [".json"] * 3
    before, written = evidence_of(searched), [path.stat().st_mtime_ns for path in kept]
    tune(made, "cl_seqtru", *QUICK, "--out", str(searched))
    assert evidence_of(searched) == before
    assert [path.stat().st_mtime_ns for path in sorted((searched / "trainings").iterdir())] == written
    assert "measuring" not in capsys.readouterr().out


def test_the_bound_a_start_without_a_plan_and_what_is_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """random-LTD: 4 kept tokens round down to none; the bound leaves open how long 16 may last."""
    out = tmp_path / "out"
    words = ["--multiples", "2", "--probes", "2", "--starts", "4", "16", "--max-trainings", "3"]
    tune(made, "ltd", *words, "--out", str(out))
    told = " ".join(capsys.readouterr().out.split())
    assert "3 trainings, of the 6 that it may take (--max-trainings)" in told
    assert "recalled from arXiv 2212.03597 and 2108.06084, not verified against their text" in told
    assert "2.0K effective tokens a training (4 steps without the pacing), 4 probes" in told
    assert "4, 16 tokens, over 1/10" in told
    assert "chosen: 16 tokens over 1/10 of the nominal steps (16 tokens over 699/1000 before)" in told
    assert "the bound ended the search" in told
    refused, stable = evidence_of(out)["candidates"]
    assert (refused["verdict"], refused["steps"]) == ("not possible", 0)
    assert "start 4 rounds down to 0 with multiple_of 8" in refused["refused"]
    assert (stable["start"], stable["verdict"]) == (16, "stable")
    variant = yaml.safe_load((out / "pacing.yaml").read_text())["variants"]["gpt"]["ltd_tuned"]
    assert (variant["extends"], variant["token_drop"]) == (["ltd"], {"pacing": {"start": "1/4", "over": "1/10"}})


def test_where_every_candidate_fluctuates_or_diverges_nothing_is_chosen(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 1e30: the weights after the first are beyond what a float32 can multiply."""
    rate = {"peak": 1e30, "minimum": 5e-5, "warmup_tokens": 1024}
    root = write_study(tmp_path / "study", data=made, learning_rate=rate)
    (root / "results").symlink_to(made / "results")
    out = tmp_path / "out"
    out.mkdir()
    (out / "pacing.yaml").write_text("of an earlier search\n")
    with pytest.raises(DataeffError, match=r"no pacing of seqlen was chosen: every start fluctuates \(all 1 tried"):
        tune(root, "cl_seqtru", "--multiples", "2", "--probes", "2", "--starts", "16", "--out", str(out))
    assert not (out / "pacing.yaml").exists()
    evidence = evidence_of(out)
    assert evidence["chosen"] is None
    (candidate,) = evidence["candidates"]
    assert candidate["verdict"] == f"diverged at step {candidate['diverged_at']}"
    # The rates of the first two steps are 0.
    assert 3 <= candidate["diverged_at"] <= candidate["steps"] + 1 <= candidate["steps_to_train"]
    assert all(math.isfinite(probe["loss"]) for probe in candidate["probes"])
    assert "without the pacing it fluctuates too" in capsys.readouterr().out


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """A shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_search_that_is_interrupted_continues_and_ends_the_same(
    made: Path, searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], heeds_interrupts: None
) -> None:
    """Interrupted as from the keyboard, in its second training."""
    out = tmp_path / "out"
    words = ["cl_seqtru", *QUICK[:4], "--starts", "16", "--durations", "1/2", "--out", str(out)]
    thread = Thread(target=interrupt_in_second_training, args=(out / "trainings",))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tune(made, *words)
    thread.join()
    assert "stopped; finished trainings are kept" in capsys.readouterr().out
    (kept,) = (out / "trainings").glob("*.json")
    written = kept.stat().st_mtime_ns
    tune(made, *words)
    assert kept.stat().st_mtime_ns == written
    assert [path.suffix for path in (out / "trainings").iterdir()] == [".json"] * 2
    whole, continued = evidence_of(searched), evidence_of(out)
    assert continued["without_pacing"]["probes"] == whole["without_pacing"]["probes"]
    (candidate,) = continued["candidates"]
    assert candidate["probes"] == whole["candidates"][0]["probes"]


def interrupt_in_second_training(trainings: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        second = [path for path in trainings.glob("*/state") if path.parent.name != "measured"]
        if list(trainings.glob("*.json")) and second:
            break
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
