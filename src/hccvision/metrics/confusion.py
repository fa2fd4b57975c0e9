"""Figures of a confusion matrix: accuracy, sensitivity, specificity and others, and the metrics of these names.

A share of no cases (0/0), such as the sensitivity where no case is positive, is undefined: nan with its reason.
Averages over classes leave out classes that do not occur, as scikit-learn's do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS

FIGURES: dict[str, str] = {
    "accuracy": "share of all cases that are called their true class",
    "balanced_accuracy": "mean sensitivity of the classes that occur in the truths",
    "sensitivity": "TP / (TP + FN): share of positive cases that are called positive",
    "specificity": "TN / (TN + FP): share of negative cases that are called negative",
    "precision": "TP / (TP + FP): share of positive calls that are right",
    "npv": "TN / (TN + FN): share of negative calls that are right (negative predictive value)",
    "f1": "2 TP / (2 TP + FP + FN): harmonic mean of precision and sensitivity",
    "macro_f1": "mean F1 of the classes that occur in truths or predictions",
    "kappa": "Cohen's kappa over all classes: agreement beyond chance",
    "mcc": "correlation of truths and predictions over all classes (Matthews, Gorodkin)",
}
DIRECTIONS = {**dict.fromkeys(FIGURES, True), "tp": True, "tn": True, "fp": False, "fn": False}


def figures(matrix: Any, *, positive: int | None = None, classes: Sequence[str] | None = None) -> dict[str, Figure]:
    """Compute every figure of `FIGURES` from a confusion matrix.

    Sensitivity, specificity, precision, NPV and F1 are of the positive class against all others; the rest are over
    all classes.

    Args:
        matrix: ``(K, K)`` counts, one row per true class and one column per called class, K at least 2.
        positive: class id regarded as disease; None is the last class.
        classes: the K class names, for the reasons of undefined figures.

    Returns:
        Name to figure: shares in [0, 1], kappa and mcc in [−1, 1]; nan with a reason where undefined.

    Raises:
        ValueError: if the matrix is not square, holds no case or a negative or fractional count, or lacks the class.

    Example:
        >>> f"{figures([[179, 3], [11, 173]])['accuracy']:.2%}"
        '96.17%'
        >>> figures([[2, 0], [0, 0]], classes=("normal", "cancer"))["sensitivity"].reason
        'no case is cancer'

    Source:
        MCC of K classes: Gorodkin, Computational Biology and Chemistry 28 (2004). Kappa: Cohen (1960).
    """
    counts = as_array(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ValueError(f"expected a (K, K) matrix of counts with K of at least 2, got shape {counts.shape}")
    if not ((counts >= 0) & (counts == np.floor(counts))).all() or counts.sum() < 1:
        raise ValueError(f"expected whole counts of 0 or more with at least one case, got {counts.tolist()}")
    tp, fn, fp, tn = one_against_rest(counts, positive)
    name = "positive" if classes is None else classes[-1 if positive is None else positive]
    # Python's integers: no overflow, and a perfect correlation is exactly 1
    rights, rows, columns = (list(map(int, c)) for c in (counts.diagonal(), counts.sum(1), counts.sum(0)))
    total, right = sum(rows), sum(rights)
    by_chance = sum(r * c for r, c in zip(rows, columns, strict=True))
    spread = (total**2 - sum(r * r for r in rows)) * (total**2 - sum(c * c for c in columns))
    recalls = [d / r for d, r in zip(rights, rows, strict=True) if r]
    f1s = [2 * d / (r + c) for d, r, c in zip(rights, rows, columns, strict=True) if r + c]
    agreement = right * total - by_chance
    one_class = "all cases are of one class"
    return {
        "accuracy": Figure.share(right, total),
        "balanced_accuracy": Figure(sum(recalls) / len(recalls), count=total),
        "sensitivity": Figure.share(tp, tp + fn, reason=f"no case is {name}"),
        "specificity": Figure.share(tn, tn + fp, reason=f"all cases are {name}"),
        "precision": Figure.share(tp, tp + fp, reason=f"no case was called {name}"),
        "npv": Figure.share(tn, tn + fn, reason=f"all cases were called {name}"),
        "f1": Figure.ratio(
            2 * tp, 2 * tp + fp + fn, reason=f"no case is {name}, and none was called {name}", count=total
        ),
        "macro_f1": Figure(sum(f1s) / len(f1s), count=total),
        "kappa": Figure.ratio(
            agreement, total**2 - by_chance, reason=f"{one_class} and were called that class", count=total
        ),
        "mcc": Figure.ratio(agreement, math.sqrt(spread), reason=f"{one_class}, or were called one class", count=total),
    }


def binary_figures(tp: int, fn: int, fp: int, tn: int) -> dict[str, Figure]:
    """Compute every figure of `FIGURES` from the four counts of a two-class table.

    Args:
        tp: positive cases called positive.
        fn: positive cases called negative.
        fp: negative cases called positive.
        tn: negative cases called negative.

    Returns:
        Name to figure, as `figures`.

    Raises:
        ValueError: if a count is negative or fractional, or all are 0.

    Example:
        >>> f"{binary_figures(tp=173, fn=11, fp=3, tn=179)['f1']:.3%}"
        '96.111%'
    """
    return figures([[tn, fp], [fn, tp]])


def one_against_rest(matrix: np.ndarray, positive: int | None) -> tuple[int, int, int, int]:
    """Return the counts of one class against all others.

    Args:
        matrix: ``(K, K)`` counts.
        positive: the class id; None is the last class.

    Returns:
        TP, FN, FP and TN.

    Raises:
        ValueError: if ``positive`` is not a class id.
    """
    if positive is not None and positive not in range(len(matrix)):
        raise ValueError(f"expected the positive class as an id from 0 to {len(matrix) - 1}, got {positive!r}")
    c = len(matrix) - 1 if positive is None else int(positive)
    tp, of_truth, of_calls, total = (int(n) for n in (matrix[c, c], matrix[c].sum(), matrix[:, c].sum(), matrix.sum()))
    return tp, of_truth - tp, of_calls - tp, total - of_truth - of_calls + tp


@METRICS.register("confusion", task="classification", higher_is_better=DIRECTIONS)
def compute_confusion(comparison: Comparison) -> dict[str, Figure]:
    """Compute the four counts of the positive class against all others, and all of `FIGURES`.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        ``tp``, ``fn``, ``fp``, ``tn`` and every figure of `figures`.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> found = compute_confusion(c)
        >>> found["tp"], found["fp"], found["specificity"]
        (Figure(1.0, is_count=True), Figure(1.0, is_count=True), Figure(0.5, count=2, successes=1))
    """
    matrix = comparison.confusion_matrix
    counts = one_against_rest(matrix, comparison.positive_id)
    named = dict(zip(("tp", "fn", "fp", "tn"), map(Figure.number, counts), strict=True))
    return {**named, **figures(matrix, positive=comparison.positive_id, classes=comparison.classes)}


@dataclass(frozen=True)
class OneFigure:
    """The metric of one figure of `FIGURES`.

    Args:
        name: of the figure.

    Example:
        >>> OneFigure("accuracy")(Comparison([[0.9, 0.1], [0.8, 0.2]], [0, 1], classes=("normal", "cancer")))
        Figure(0.5, count=2, successes=1)
    """

    name: str

    def __call__(self, comparison: Comparison) -> Figure:
        """Compute the figure."""
        matrix = comparison.confusion_matrix
        return figures(matrix, positive=comparison.positive_id, classes=comparison.classes)[self.name]


for _name in FIGURES:
    METRICS.register(_name, task="classification", higher_is_better=True)(OneFigure(_name))
