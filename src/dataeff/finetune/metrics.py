"""The metrics of finetuning tasks, from a model's outputs: scikit-learn's and scipy's own.

`outputs` are logits [n, classes] (or one a choice), or values [n] of a regression; `labels` [n]. Arg-max ties go to the
first class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataeff.study.tasks import Metric


def measure(metric: Metric, labels: NDArray[np.generic], outputs: NDArray[np.float32]) -> float:
    """F1 is of class 1 where there are two classes, as GLUE has it, else the plain mean over classes.

    A correlation with a constant is 0 here, as scikit-learn has Matthews's: what never varies tells nothing.
    """
    if metric == "spearman":
        return _spearman(labels, outputs)
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # type: ignore[import-untyped]

    found = outputs.argmax(axis=1)
    if metric == "accuracy":
        return float(accuracy_score(labels, found))
    if metric == "matthews":
        return float(matthews_corrcoef(labels, found))
    average = "binary" if outputs.shape[1] == 2 else "macro"
    return float(f1_score(labels, found, average=average, zero_division=0.0))


def _spearman(labels: NDArray[np.generic], outputs: NDArray[np.float32]) -> float:
    from scipy.stats import spearmanr

    if len(labels) < 2 or (labels == labels[0]).all() or (outputs == outputs[0]).all():
        return 0.0
    return float(spearmanr(labels, outputs).statistic)
