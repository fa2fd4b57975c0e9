"""The area under the ROC curve."""

from __future__ import annotations

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS


def roc_area(scores: np.ndarray, positive: np.ndarray, *, name: str = "positive") -> Figure:
    """Compute the area under the ROC curve: how often a positive case scores above a negative one, ties counting half.

    Args:
        scores: ``(N,)`` numbers.
        positive: ``(N,) bool``, whether the case is positive.
        name: of the class, for the reason.

    Returns:
        The area in [0, 1]; nan where all cases are positive or none is.

    Example:
        >>> roc_area(np.array([0.1, 0.6, 0.8]), np.array([False, False, True]))
        Figure(1.0, count=3)

    Source:
        Hanley and McNeil, Radiology 143 (1982): the area is the Mann-Whitney statistic.
    """
    levels, level = np.unique(scores, return_inverse=True)
    positive_at = np.bincount(level[positive], minlength=len(levels))
    negative_at = np.bincount(level[~positive], minlength=len(levels))
    pairs = int(positive.sum()) * int((~positive).sum())
    if not pairs:
        return Figure.undefined(f"{'all cases are' if positive.any() else 'no case is'} {name}", count=len(positive))
    won = (positive_at * (np.cumsum(negative_at) - negative_at / 2)).sum()
    return Figure(float(won / pairs), count=len(positive))


@METRICS.register("roc_auc", task="classification", higher_is_better=True)
def compute_roc_auc(comparison: Comparison) -> Figure:
    """Compute the area under the ROC curve of the positive class against all others.

    Args:
        comparison: of probabilities and class ids; the positive class's column is the score.

    Returns:
        The area in [0, 1]; nan where all cases are positive or none is.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> compute_roc_auc(c)
        Figure(1.0, count=3)
    """
    positive = comparison.class_ids == comparison.positive_id
    return roc_area(comparison.probabilities[:, comparison.positive_id], positive, name=comparison.positive)
