"""DeLong's variance of areas under ROC curves: an interval of one, and a test of two on the same cases."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import check_confidence
from hccvision.metrics.paired_tests import PairedTest


def auc_interval(scores: Any, positive: Any, *, confidence: float = 0.95) -> Figure:
    """Compute an area under the ROC curve with DeLong's interval.

    Cases are taken as independent, such as one per patient.

    Args:
        scores: ``(N,)`` numbers, higher for positive cases.
        positive: ``(N,) bool``.
        confidence: of the interval, between 0 and 1.

    Returns:
        The area with its interval, cut off at 0 and 1. Without an interval, and with the reason as ``method``, where
        the area is 0 or 1 or there are fewer than two cases of a kind; undefined where there are none.

    Raises:
        ValueError: for arrays of other shapes or values.

    Example:
        >>> auc_interval([0.1, 0.5, 0.3, 0.4, 0.8, 0.9], [0, 0, 0, 1, 1, 1])
        Figure(0.888..., count=6, interval=(0.580..., 1.0), method='DeLong')

    Source:
        DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); computed as Sun and Xu, IEEE Signal Processing Letters
        21 (2014).
    """
    check_confidence(confidence)
    flags = _check(scores, positive)
    (area,), covariance = _areas([scores], flags)
    if not np.isfinite(area):
        return Figure.undefined(f"{'all cases are' if flags.any() else 'no case is'} positive", count=len(flags))
    area, variance = float(area), float(covariance[0, 0])
    if not variance > 0:
        return Figure(area, count=len(flags), method="no interval: DeLong's variance is 0 or undefined here")
    half = NormalDist().inv_cdf((1 + confidence) / 2) * variance**0.5
    return Figure(area, count=len(flags), interval=(max(0.0, area - half), min(1.0, area + half)), method="DeLong")


def auc_test(scores_a: Any, scores_b: Any, positive: Any, *, confidence: float = 0.95) -> PairedTest:
    """Test whether two classifiers have the same area under the ROC curve on the same cases.

    Cases are taken as independent, such as one per patient; for several of one patient use `permutation_test`.

    Args:
        scores_a: ``(N,)`` numbers of the first classifier.
        scores_b: ``(N,)`` numbers of the second.
        positive: ``(N,) bool``.
        confidence: of the interval of the difference, between 0 and 1.

    Returns:
        The difference with its interval, and the two-sided p-value, which is undefined where the variance is 0.

    Raises:
        ValueError: for arrays of other shapes or values.

    Example:
        >>> truths = [0, 0, 0, 0, 1, 1, 1, 1]
        >>> print(auc_test([1, 2, 5, 4, 3, 6, 7, 8], [5, 2, 6, 4, 1, 3, 7, 8], truths))
        0.3125 (95 %: -0.0749 to 0.6999), p = 0.1138

    Source:
        As `auc_interval`.
    """
    check_confidence(confidence)
    flags = _check(scores_a, positive)
    _check(scores_b, positive)
    areas, covariance = _areas([scores_a, scores_b], flags)
    if not np.isfinite(areas).all():
        undefined = Figure.undefined("all cases are positive, or none is", count=len(flags))
        return PairedTest(undefined, undefined)
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if not variance > 1e-15:
        reason = "the variance of the difference is 0 or undefined"
        return PairedTest(
            Figure(difference, count=len(flags), method=f"no interval: {reason}"),
            Figure.undefined(reason, count=len(flags)),
        )
    error, normal = variance**0.5, NormalDist()
    half = normal.inv_cdf((1 + confidence) / 2) * error
    return PairedTest(
        Figure(difference, count=len(flags), interval=(difference - half, difference + half), method="DeLong"),
        Figure(2 * normal.cdf(-abs(difference) / error), count=len(flags)),
    )


def _areas(scores: list[Any], positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the K areas and their ``(K, K)`` covariance; nan where they are undefined."""
    from scipy.stats import rankdata

    table = np.stack([as_array(s).astype(np.float64) for s in scores])
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return np.full(len(table), np.nan), np.full((len(table),) * 2, np.nan)
    ranks, of_positive, of_negative = (
        rankdata(part, axis=1) for part in (table, table[:, positive], table[:, ~positive])
    )
    below = (ranks[:, positive] - of_positive) / n  # share of negative cases below each positive one
    above = 1 - (ranks[:, ~positive] - of_negative) / m
    if m < 2 or n < 2:
        return below.mean(1), np.full((len(table),) * 2, np.nan)
    return below.mean(1), np.atleast_2d(np.cov(below)) / m + np.atleast_2d(np.cov(above)) / n


def _check(scores: Any, positive: Any) -> np.ndarray:
    values, flags = as_array(scores), as_array(positive)
    if values.ndim != 1 or values.shape != flags.shape or not len(values):
        raise ValueError(f"expected scores and flags of one shape (N,), got {values.shape} and {flags.shape}")
    if not np.isfinite(values).all() or not np.isin(flags, (0, 1)).all():
        raise ValueError("expected finite scores, and True or False for each case: check for NaN")
    return flags.astype(bool)
