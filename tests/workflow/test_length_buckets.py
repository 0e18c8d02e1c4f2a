"""The DAG of a run on length buckets: samples of its own beside the others', no difficulty of them."""

from __future__ import annotations

from tests.workflow.checkout import Checkout

RUN = "gpt-length_buckets-100-s1234"


def test_the_run_reads_samples_of_its_own(checkout: Checkout) -> None:
    checkout.edit("config.yaml", "grids.core", [{"family": "gpt", "variants": ["baseline", "length_buckets"]}])
    said = checkout.dry_run("--config", "scale=smoke", "--printshellcmds")
    counts = checkout.counts(said)
    assert (counts["samples"], counts["plan"], counts["pretrain"]) == (2, 2, 2)
    assert counts["analyze_map"] == counts["analyze"] == 0
    data = "results/data/packages_small"
    made = f"--spec {data}/specs/bpe4k/gpt-256-buckets/samples.yaml --tokens {data}/bpe4k/tokens/00 "
    assert made in said
    assert f"--spec results/smoke/specs/plan/{RUN}.yaml --samples {data}/bpe4k/gpt-256-buckets/samples --index " in said
    assert f"--plan results/smoke/plan/{RUN} --samples {data}/bpe4k/gpt-256-buckets/samples --tokens " in said
    assert f"--samples {data}/bpe4k/gpt-256/samples --index " in said


def test_the_analysis_leaves_them_out(checkout: Checkout) -> None:
    checkout.edit("config.yaml", "grids.core", [{"family": "gpt", "variants": ["cl_voc", "length_buckets"]}])
    said = checkout.dry_run("analysis", "--config", "scale=smoke", "--printshellcmds")
    assert checkout.counts(said)["analyze"] > 0
    assert "gpt-256-buckets" not in said
