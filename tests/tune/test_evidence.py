"""What a short training shows: the criterion, and what is read of its log."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from dataeff.tune.evidence import Evidence, Probe, read_metrics


def evidence(*losses: float, **changes: object) -> Evidence:
    fields = {
        "identity": "0",
        "start": 8,
        "over": "1/2",
        "steps": 2 * len(losses),
        "steps_to_train": 2 * len(losses),
        "effective_tokens": 100,
        "probes": [Probe(step=2 * number, loss=loss) for number, loss in enumerate(losses, 1)],
        "seconds": 1.0,
    }
    return Evidence.model_validate({**fields, **changes})


def test_the_worst_ratio_is_to_the_best_before_not_to_the_last() -> None:
    ratio, step = evidence(5.0, 4.0, 4.1, 4.2, 3.9).worst() or (0.0, 0)
    assert ratio == pytest.approx(math.exp(0.2))
    assert step == 8


def test_a_falling_loss_has_a_ratio_below_one() -> None:
    ratio, _ = evidence(5.0, 4.5, 4.4).worst() or (9.0, 0)
    assert ratio == pytest.approx(math.exp(-0.1))


@pytest.mark.parametrize(("rise", "verdict"), [(1.29, "stable"), (1.31, "fluctuates")])
def test_the_limit_is_of_perplexities(rise: float, verdict: str) -> None:
    seen = evidence(5.0, 4.0, 4.0 + math.log(rise))
    assert seen.verdict(1.3) == verdict
    assert seen.is_stable(1.3) == (verdict == "stable")
    assert seen.is_stable(rise + 0.01)


def test_divergence_and_refusal_count_as_fluctuation() -> None:
    assert evidence(5.0, 4.0, diverged_at=7).verdict(1.3) == "diverged at step 7"
    assert not evidence(5.0, 4.0, diverged_at=7).is_stable(1.3)
    assert evidence(refused="no pool").verdict(1.3) == "not possible"
    assert not evidence(5.0).is_stable(1.3)
    assert evidence(1e9, 0.0, 1e9).worst() == (math.exp(700.0), 6)


@pytest.mark.parametrize("lost", [math.nan, math.inf, None])
def test_of_a_log_whole_lines_are_read_up_to_a_loss_that_is_no_number(tmp_path: Path, lost: float | None) -> None:
    rows = [
        {"step": 1, "effective_tokens": 10},
        {"step": 2, "effective_tokens": 20, "heldout_loss": 4.0},
        {"step": 3, "effective_tokens": 30, "heldout_loss": lost},
        {"step": 4, "effective_tokens": 40, "heldout_loss": 3.0},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_metrics(path) == (3, 30, [Probe(step=2, loss=4.0)], 3)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]) + '{"step": 3, "eff')
    assert read_metrics(path) == (2, 20, [Probe(step=2, loss=4.0)], None)
    assert read_metrics(tmp_path / "none") == (0, 0, [], None)
