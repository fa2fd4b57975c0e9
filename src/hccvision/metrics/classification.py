"""Figures of a classifier from its predictions and truths, by one function each.

These functions build a `Comparison` and compute the metric of the same name; to compute several, build it once.
Undefined figures, such as the sensitivity where no case is positive, are nan with a reason, see `Figure`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.confusion import FIGURES, binary_figures, compute_confusion, figures
from hccvision.metrics.figure import Figure
from hccvision.metrics.multilabel import YES, compute_exact_match, compute_multilabel_auc, compute_multilabel_f1
from hccvision.metrics.published import CheckedFigures, check_report
from hccvision.metrics.roc import compute_roc_auc

__all__ = [
    "FIGURES",
    "YES",
    "CheckedFigures",
    "binary_figures",
    "check_report",
    "confusion",
    "confusion_matrix",
    "exact_match",
    "figures",
    "multilabel_auc",
    "multilabel_f1",
    "roc_auc",
]


def confusion_matrix(predictions: Any, truths: Any, *, classes: Sequence[str]) -> np.ndarray:
    """Count how often each class was called each class.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1]; the highest is the call, the lowest id on a tie.
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.

    Returns:
        ``(K, K) int64``, one row per true class and one column per called class.

    Raises:
        ValueError: if there are no cases, or shapes, class ids or probabilities are not as above.

    Example:
        >>> probabilities = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]
        >>> confusion_matrix(probabilities, [0, 0, 1], classes=("normal", "cancer"))
        array([[1, 1],
               [0, 1]])
    """
    return Comparison(predictions, truths, classes=classes).confusion_matrix


def confusion(
    predictions: Any, truths: Any, *, classes: Sequence[str], positive: str | int | None = None
) -> dict[str, Figure]:
    """Compute the four counts of the positive class against all others, and all of `FIGURES`.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1].
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.
        positive: name or id of the class regarded as disease; None is the last class.

    Returns:
        ``tp``, ``fn``, ``fp``, ``tn`` and every figure of `figures`.

    Raises:
        ValueError: as `confusion_matrix`.

    Example:
        >>> found = confusion([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> print(found["tp"], found["fp"], found["specificity"])
        1 1 0.5000
    """
    return compute_confusion(_compare(predictions, truths, classes, positive))


def roc_auc(
    predictions: Any, truths: Any, *, classes: Sequence[str], positive: str | int | None = None
) -> dict[str, Figure]:
    """Compute the area under the ROC curve: how often a positive case scores above a negative one, ties counting half.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1]; the positive class's column is the score.
        truths: ``(N,)`` class ids ``0 ... K-1``.
        classes: the K class names in order.
        positive: name or id of the class regarded as disease, against all others; None is the last class.

    Returns:
        ``roc_auc`` in [0, 1]; nan where all cases are positive or none is.

    Raises:
        ValueError: as `confusion_matrix`.

    Example:
        >>> roc_auc([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        {'roc_auc': Figure(1.0, count=3)}

    Source:
        Hanley and McNeil, Radiology 143 (1982): the area is the Mann-Whitney statistic.
    """
    return {"roc_auc": compute_roc_auc(_compare(predictions, truths, classes, positive))}


def multilabel_auc(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, Figure]:
    """Compute the area under the ROC curve of every class, and their mean.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``multilabel_auc``, the mean over the classes that some images show and others do not, and
        ``multilabel_auc/<class>`` as `roc_auc`; nan where undefined.

    Raises:
        ValueError: if there are no cases, or shapes, truths or probabilities are not as above.

    Example:
        >>> multilabel_auc([[0.9, 0.2], [0.4, 0.1], [0.2, 0.8]], [[1, 1], [0, 0], [0, 1]], classes=("hcc", "cyst"))
        {'multilabel_auc': Figure(1.0, count=3), 'multilabel_auc/hcc': Figure(1.0, count=3),
        'multilabel_auc/cyst': Figure(1.0, count=3)}
    """
    return compute_multilabel_auc(Comparison(predictions, truths, classes=classes))


def multilabel_f1(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, Figure]:
    """Compute the F1 of every class, called present from a probability of 0.5, and their mean.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``multilabel_f1``, the mean over the classes that occur in truths or calls, and ``multilabel_f1/<class>``; nan
        where undefined.

    Raises:
        ValueError: as `multilabel_auc`.

    Example:
        >>> found = multilabel_f1([[0.9, 0.2], [0.7, 0.6]], [[1, 1], [1, 0]], classes=("hcc", "cyst"))
        >>> {name: str(figure) for name, figure in found.items()}
        {'multilabel_f1': '0.5000', 'multilabel_f1/hcc': '1.0000', 'multilabel_f1/cyst': '0.0000'}
    """
    return compute_multilabel_f1(Comparison(predictions, truths, classes=classes))


def exact_match(predictions: Any, truths: Any, *, classes: Sequence[str]) -> dict[str, Figure]:
    """Compute the share of images of which every class is called right, present from a probability of 0.5.

    Args:
        predictions: ``(N, K)`` probabilities in [0, 1], each class by itself.
        truths: ``(N, K)`` of 0 and 1.
        classes: the K class names in order.

    Returns:
        ``exact_match`` in [0, 1].

    Raises:
        ValueError: as `multilabel_auc`.

    Example:
        >>> exact_match([[0.9, 0.2], [0.4, 0.1]], [[1, 1], [0, 0]], classes=("hcc", "cyst"))
        {'exact_match': Figure(0.5, count=2, successes=1)}
    """
    return {"exact_match": compute_exact_match(Comparison(predictions, truths, classes=classes))}


def _compare(predictions: Any, truths: Any, classes: Sequence[str], positive: str | int | None) -> Comparison:
    if positive is None or isinstance(positive, str):
        return Comparison(predictions, truths, classes=classes, positive=positive)
    if positive not in range(len(classes)):
        raise ValueError(f"expected positive as a class name or an id from 0 to {len(classes) - 1}, got {positive!r}")
    return Comparison(predictions, truths, classes=classes, positive=classes[positive])
