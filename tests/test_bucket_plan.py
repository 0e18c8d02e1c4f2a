"""Plans of length buckets: tokens of a step, pacing, how often the corpus is read, and which samples are taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from dataeff.bucket_plan import Buckets, bucket_lengths, bucket_summary
from dataeff.errors import DataeffError
from dataeff.files import read_json, write_json
from dataeff.order_buckets import BucketOrder
from dataeff.plan import TrainingPlan, build_plan, nominal_steps, run, schedules, steps_table
from tests.factory import paper_plan_spec, small_plan_spec

VARIANT = {"curriculum": {"seqlen": {"apply": "bucket", "pacing": {"start": "1/8", "end": 1, "over": "0.384"}}}}
PAPER = Buckets(
    bucket_lengths(2048), (90_000_000, 90_000_000, 85_000_000, 80_000_000, 60_000_000, 40_000_000, 80_000_000)
)
SMALL = Buckets((8, 16, 32, 64), (900, 400, 300, 250))


def write_samples(folder: Path, buckets: Buckets) -> Path:
    folder.mkdir()
    pairs = zip(buckets.lengths, buckets.samples, strict=True)
    facts = {"family": "gpt", "layout": "buckets", "samples": sum(buckets.samples)}
    described = [{"length": length, "samples": samples} for length, samples in pairs]
    write_json(folder / "samples.json", {**facts, "buckets": described})
    return folder


def test_every_step_has_the_same_tokens_at_paper_scale() -> None:
    spec = paper_plan_spec(VARIANT)
    plan = build_plan(spec, sum(PAPER.samples), {}, buckets=PAPER)
    table = plan.steps
    assert len(table) == 286_103 == nominal_steps(spec) + 1
    assert set(table["raw_tokens"]) == set(table["effective_tokens"]) == {512 * 2048}
    assert (table["rows"] * table["sequence_length"] == 512 * 2048).all()
    assert (table["rows"] == table["samples"]).all()
    assert (table["kept_tokens"] == table["sequence_length"]).all()
    assert plan.facts["epochs"] == round(286_103 * 512 * 2048 / PAPER.tokens, 4)
    baseline = steps_table(paper_plan_spec())
    assert (table["learning_rate"] == baseline["learning_rate"]).all()


def test_longer_buckets_open_with_the_pacing() -> None:
    """From 256 to 2048 over 0.384 of the steps, read at the 1-based step."""
    spec = paper_plan_spec(VARIANT)
    table = build_plan(spec, sum(PAPER.samples), {}, buckets=PAPER).steps
    length = table["sequence_length"].to_numpy()
    schedule = schedules(spec)["seqlen"]
    assert (schedule.start, schedule.end) == (256, 2048)
    assert (length <= schedule.at(np.arange(1, len(table) + 1))).all()
    for longest in (512, 1024, 2048):
        opened = int(np.ceil((longest - 256) / (2048 - 256) * schedule.total_steps)) - 1
        first = int((length == longest).argmax())
        assert opened <= first < opened + 200
        pools = table["pool_size"].to_numpy()
        assert pools[opened] - pools[opened - 1] == PAPER.samples[PAPER.lengths.index(longest)]
    assert table["pool_size"].iloc[0] == sum(PAPER.samples[:4])
    after = length[schedule.total_steps :]
    tokens = np.array([size * samples for size, samples in zip(PAPER.lengths, PAPER.samples, strict=True)])
    counts = [(after == longest).sum() for longest in PAPER.lengths]
    assert chisquare(counts, len(after) * tokens / tokens.sum()).pvalue > 0.001


def test_without_data_all_buckets_are_taken_to_have_the_same_tokens() -> None:
    spec = paper_plan_spec(VARIANT)
    table = steps_table(spec)
    assert len(table) == 286_103
    after = table["sequence_length"].to_numpy()[schedules(spec)["seqlen"].total_steps :]
    counts = [(after == longest).sum() for longest in bucket_lengths(2048)]
    assert chisquare(counts).pvalue > 0.001


def test_a_length_that_is_no_power_of_two_is_rounded_down() -> None:
    spec = small_plan_spec(VARIANT, sequence_length=96)
    plan = build_plan(spec, sum(SMALL.samples), {}, buckets=SMALL)
    assert set(plan.steps["raw_tokens"]) == {4 * 64}
    assert plan.steps["sequence_length"].max() == 64
    assert len(plan.steps) == 40 > nominal_steps(spec)


def test_the_stage_writes_and_reads_the_plan(tmp_path: Path) -> None:
    spec = small_plan_spec(VARIANT)
    said = run(spec, write_samples(tmp_path / "samples", SMALL), {}, tmp_path / "plan")
    plan = TrainingPlan.load(tmp_path / "plan")
    assert isinstance(plan.order, BucketOrder)
    assert {path.name for path in (tmp_path / "plan").iterdir()} == {
        "steps.parquet", "order.json", "counts.npy", "plan.json",
    }  # fmt: skip
    for row, ids in zip(plan.steps.itertuples(), plan.order.iterate(), strict=True):
        assert len(ids) == row.samples == row.rows
    facts = plan.facts["buckets"]
    assert facts == read_json(tmp_path / "plan/plan.json")["buckets"]
    assert list(facts) == ["8", "16", "32", "64"]
    assert sum(bucket["steps"] for bucket in facts.values()) == 40
    assert facts["64"]["samples_a_step"] == 4
    assert facts["8"] == {
        "samples": 900,
        "samples_a_step": 32,
        **{name: facts["8"][name] for name in ("steps", "passes")},
    }
    assert facts["8"]["passes"] == round(facts["8"]["steps"] * 32 / 900, 4)
    most = max(facts, key=lambda length: facts[length]["passes"])
    assert f"reads {40 * 256 / SMALL.tokens:.1%} of the corpus; buckets of 8 to 64 tokens, that of {most} read" in said
    again = build_plan(spec, sum(SMALL.samples), {}, buckets=SMALL)
    assert again.digest == plan.digest
    other = build_plan(spec, 1 + sum(SMALL.samples), {}, buckets=Buckets(SMALL.lengths, (901, 400, 300, 250)))
    assert other.digest != plan.digest


def test_a_step_of_more_samples_than_its_bucket_has_is_told() -> None:
    buckets = Buckets((8, 16, 32, 64), (900, 15, 0, 250))
    plan = build_plan(small_plan_spec(VARIANT), sum(buckets.samples), {}, buckets=buckets)
    assert bucket_summary(plan.facts).endswith("; a step of 16 tokens repeats samples within it")
    assert list(plan.facts["buckets"]) == ["8", "16", "64"]
    assert bucket_summary(build_plan(small_plan_spec(), 1000, {}).facts) == ""


def test_too_few_tokens_for_the_run_are_refused() -> None:
    with pytest.raises(DataeffError, match=r"40 steps of 256 tokens would read the corpus of 2000 tokens 5\.1 times"):
        build_plan(small_plan_spec(VARIANT), 250, {}, buckets=Buckets((8, 16, 32, 64), (250, 0, 0, 0)))


def test_samples_of_the_other_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataeffError, match=r"of one length, this variant takes length buckets.*gpt-64-buckets"):
        build_plan(small_plan_spec(VARIANT), 1000, {})
    folder = write_samples(tmp_path / "samples", SMALL)
    with pytest.raises(DataeffError, match=r"of length buckets, this variant takes one length.*gpt-64$"):
        run(small_plan_spec(), folder, {}, tmp_path / "plan")
    with pytest.raises(
        DataeffError, match=r"in buckets of 8, 16, 32, 64 tokens; sequence_length 128 needs 8, 16, 32, 64, 128"
    ):
        run(small_plan_spec(VARIANT, sequence_length=128), folder, {}, tmp_path / "plan")
    write_json(folder / "samples.json", {"layout": "buckets", "samples": 3, "buckets": [8]})
    with pytest.raises(DataeffError, match="not the facts of length buckets"):
        run(small_plan_spec(VARIANT), folder, {}, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


def test_a_study_is_checked_without_the_compiler() -> None:
    """Snakemake parses with this module; numba would cost it seconds."""
    program = "import sys, dataeff.bucket_plan, dataeff.plan; assert not {'numba', 'pandas'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
