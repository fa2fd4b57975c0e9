"""Whether the probabilities of a classifier can be believed: Brier score, log loss and calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often cases of similar predicted probability are positive.

    Args:
        predicted: ``(B,)`` mean probability of each bin that holds cases.
        observed: ``(B,)`` share of its cases that are positive.
        counts: ``(B,)`` number of its cases.
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray


def reliability_curve(probabilities: np.ndarray, positive: np.ndarray, *, bins: int = 10) -> ReliabilityCurve:
    """Compare predicted probabilities with the share of cases that are positive, in bins of equal width.

    Args:
        probabilities: ``(N,)`` in [0, 1].
        positive: ``(N,) bool``.
        bins: number of bins of [0, 1].

    Returns:
        The bins that hold cases.

    Raises:
        ValueError: if ``bins`` is below 1.

    Example:
        >>> curve = reliability_curve(np.array([0.1, 0.1, 0.9]), np.array([False, True, True]), bins=2)
        >>> curve.observed.tolist(), curve.counts.tolist()
        ([0.5, 1.0], [2, 1])

    Source:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    if bins < 1:
        raise ValueError(f"expected at least one bin, got bins={bins}")
    probabilities, positive = np.asarray(probabilities, np.float64), np.asarray(positive, bool)
    number = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts = np.bincount(number, minlength=bins)
    kept = counts > 0
    predicted = np.bincount(number, probabilities, bins)[kept] / counts[kept]
    observed = np.bincount(number, positive, bins)[kept] / counts[kept]
    return ReliabilityCurve(predicted, observed, counts[kept])


@METRICS.register("brier", task="classification", higher_is_better=False)
def compute_brier(comparison: Comparison) -> Figure:
    """Compute the Brier score of the positive class: the mean squared error of its probability.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        The score in [0, 1]; 0 is best, and always saying 0.5 gives 0.25.

    Example:
        >>> print(compute_brier(Comparison([[0.9, 0.1], [0.2, 0.8]], [0, 1], classes=("normal", "cancer"))))
        0.0250

    Source:
        Brier, Monthly Weather Review 78 (1950), for one class against all others.
    """
    probability, positive = _positive_class(comparison)
    return Figure(float(np.mean((probability - positive) ** 2)), count=len(comparison))


@METRICS.register("log_loss", task="classification", higher_is_better=False)
def compute_log_loss(comparison: Comparison) -> Figure:
    """Compute the mean negative logarithm of the probability of the true class.

    Probabilities are normalised to sum to 1, and limited to the smallest positive float32 step from 0 and 1, so that
    one confident error gives 16 and not infinity.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        The loss, 0 or more; 0 is best.

    Example:
        >>> compute_log_loss(Comparison([[0.9, 0.1], [0.2, 0.8]], [0, 1], classes=("normal", "cancer")))
        Figure(0.164..., count=2)
    """
    table = comparison.probabilities
    total = table.sum(1, keepdims=True)
    table = np.divide(table, total, out=np.full_like(table, 1 / table.shape[1]), where=total > 0)
    tiny = float(np.finfo(np.float32).eps)
    true = np.clip(table[np.arange(len(table)), comparison.class_ids], tiny, 1 - tiny)
    return Figure(float(-np.log(true).mean()), count=len(comparison))


@METRICS.register("calibration_error", task="classification", higher_is_better=False)
def compute_calibration_error(comparison: Comparison, bins: int = 10) -> Figure:
    """Compute the expected calibration error (ECE) of the positive class.

    Args:
        comparison: of probabilities and class ids.
        bins: see `reliability_curve`.

    Returns:
        The mean distance of predicted and observed shares, weighted by cases, in [0, 1]; 0 is best.

    Example:
        >>> print(compute_calibration_error(Comparison([[0.9, 0.1], [0.2, 0.8]], [0, 1], classes=("normal", "cancer"))))
        0.1500

    Source:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    curve = reliability_curve(*_positive_class(comparison), bins=bins)
    error = np.average(np.abs(curve.predicted - curve.observed), weights=curve.counts)
    return Figure(float(error), count=len(comparison))


def _positive_class(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the positive class, and whether it is the true one."""
    c = comparison.positive_id
    return comparison.probabilities[:, c], comparison.class_ids == c
