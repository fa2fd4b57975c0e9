"""Calibration: a temperature that makes probabilities believable, and how far detection scores are from the truth."""

from __future__ import annotations

from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matching import at_one_threshold
from hccvision.metrics.probabilities import reliability_curve
from hccvision.registry import METRICS

_TINY = 1e-12
_TEMPERATURES = (0.01, 100.0)


def fit_temperature(comparison: Comparison) -> float:
    """Fit the temperature of a classifier on cases that it was not trained on, such as the validation set.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        The temperature of lowest log loss, from 0.01 to 100; above 1 the classifier is too sure of itself.

    Example:
        >>> sure = np.array([[0.99, 0.01], [0.01, 0.99], [0.01, 0.99], [0.99, 0.01], [0.01, 0.99]])
        >>> comparison = Comparison(sure, [0, 1, 1, 0, 0], classes=("normal", "cancer"))
        >>> temperature = fit_temperature(comparison)
        >>> round(temperature, 2), soften(sure[:1], temperature).round(2).tolist()
        (3.31, [[0.8, 0.2]])

    Source:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    return _lowest_loss(comparison.probabilities, comparison.class_ids)


def fit_detection_temperature(comparison: Comparison, *, iou_threshold: float = 0.5) -> float:
    """Fit the temperature of a detector's scores, so that they tell how likely a detection is a lesion.

    Args:
        comparison: of detections and truths of images that it was not trained on.
        iou_threshold: a match needs at least this IoU; by the VOC rule.

    Returns:
        The temperature, from 0.01 to 100.

    Raises:
        ValueError: if there are no detections.
    """
    m = comparison.matches((iou_threshold,))
    counted = ~m.ignored[0]
    if not counted.any():
        raise ValueError("expected detections to fit a temperature to, got none: predict with a lower score_threshold")
    score = m.scores[counted]
    return _lowest_loss(np.stack([1 - score, score], 1), m.hits[0, counted].astype(np.int64))


def soften(probabilities: Any, temperature: float) -> np.ndarray:
    """Divide the logits of probabilities by a temperature.

    Args:
        probabilities: ``(N, K)`` that sum to 1, or ``(N,)`` of one class against all others, such as scores.
        temperature: above 0; 1 changes nothing.

    Returns:
        Probabilities of the same shape; their order does not change.

    Raises:
        ValueError: for a temperature that is not above 0.

    Example:
        >>> soften([0.9, 0.5], 2.0).round(2)
        array([0.75, 0.5 ])
    """
    if not 0 < temperature < np.inf:
        raise ValueError(f"expected a temperature above 0, got {temperature}")
    values = as_array(probabilities).astype(np.float64)
    table = values if values.ndim == 2 else np.stack([1 - values, values], 1)
    logits = np.log(np.maximum(table, _TINY)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    softened = powers / powers.sum(1, keepdims=True)
    return softened if values.ndim == 2 else softened[:, 1]


@METRICS.register("detection_calibration_error", task="detection", higher_is_better=False, matching=at_one_threshold)
def compute_detection_calibration_error(
    comparison: Comparison, *, iou_threshold: float = 0.5, bins: int = 10, score_threshold: float = 0.0
) -> Figure:
    """Compute the expected calibration error of detection scores (D-ECE): score against the share of hits.

    Args:
        comparison: of detections and truths; detections on difficult truths and in crowds are left out.
        iou_threshold: a match needs at least this IoU; by the VOC rule.
        bins: of equal width over [0, 1].
        score_threshold: lowest score of a detection that counts.

    Returns:
        The mean distance, weighted by detections, in [0, 1]; nan without detections.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> found = [{"boxes": [[0, 0, 10, 10], [50, 50, 60, 60]], "labels": [0, 0], "scores": [0.9, 0.2]}]
        >>> print(compute_detection_calibration_error(Comparison(found, truths, classes=("hcc",))))
        0.1500

    Source:
        Küppers et al., "Multivariate confidence calibration for object detection", CVPR workshops 2020, by score alone.
    """
    m = comparison.matches((iou_threshold,))
    counted = ~m.ignored[0] & (m.scores >= score_threshold)
    count = int(counted.sum())
    if not count:
        return Figure.undefined(f"nothing was detected with a score of at least {score_threshold:g}", count=0)
    curve = reliability_curve(m.scores[counted], m.hits[0, counted], bins=bins)
    return Figure(float(np.average(np.abs(curve.predicted - curve.observed), weights=curve.counts)), count=count)


def _lowest_loss(table: np.ndarray, true: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        softened = soften(table, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(softened[np.arange(len(true)), true], _TINY)).mean())

    low, high = np.log(_TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x))
