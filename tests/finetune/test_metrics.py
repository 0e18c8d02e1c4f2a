"""Against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dataeff.finetune.metrics import measure


def logits(classes: list[int], count: int = 2) -> np.ndarray:
    """Outputs whose highest class is as given."""
    return np.eye(count, dtype=np.float32)[classes]


# Of the items of class 1 three are found and one is missed; of those of class 0 two are taken for 1.
LABELS = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
FOUND = logits([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])


def test_accuracy() -> None:
    assert measure("accuracy", LABELS, FOUND) == 7 / 10


def test_matthews() -> None:
    true_1, false_1, true_0, false_0 = 3, 2, 4, 1
    below = math.sqrt((true_1 + false_1) * (true_1 + false_0) * (true_0 + false_1) * (true_0 + false_0))
    assert measure("matthews", LABELS, FOUND) == pytest.approx((true_1 * true_0 - false_1 * false_0) / below)


def test_f1_of_two_classes_is_that_of_class_1() -> None:
    precision, recall = 3 / 5, 3 / 4
    assert measure("f1", LABELS, FOUND) == pytest.approx(2 * precision * recall / (precision + recall))


def test_f1_of_three_classes_is_the_mean_over_classes() -> None:
    # Class 0: 1 of 1 found, once too often; class 1: 1 of 2; class 2: 1 of 1.
    labels, found = np.array([0, 1, 1, 2]), logits([0, 1, 0, 2], 3)
    assert measure("f1", labels, found) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_spearman_takes_ranks_with_ties_in_the_middle() -> None:
    # Ranks 1, 2, 3, 4 against 1, 2.5, 2.5, 4: the correlation of these.
    labels, found = np.array([0.5, 1.0, 3.0, 5.0]), np.array([-9.0, 0.2, 0.2, 100.0], dtype=np.float32)
    expected = np.corrcoef([1, 2, 3, 4], [1, 2.5, 2.5, 4])[0, 1]
    assert measure("spearman", labels, found) == pytest.approx(expected)
    assert measure("spearman", labels, -found) == pytest.approx(-expected)


@pytest.mark.parametrize("metric", ["matthews", "f1"])
def test_one_class_for_all_tells_nothing(metric: str) -> None:
    assert measure(metric, LABELS, logits([0] * 10)) == 0.0  # type: ignore[arg-type]


def test_a_constant_has_no_rank() -> None:
    assert measure("spearman", np.array([1.0, 2.0, 3.0]), np.full(3, 0.25, dtype=np.float32)) == 0.0


def test_the_highest_logit_counts_not_its_sign() -> None:
    outputs = np.array([[-3.0, -2.0], [-1.0, -4.0]], dtype=np.float32)
    assert measure("accuracy", np.array([1, 0]), outputs) == 1.0
