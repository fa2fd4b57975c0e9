"""What a classifier reaches at every threshold: ROC, precision-recall and decision curves, and a chosen threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.registry import METRICS


@dataclass(frozen=True)
class ThresholdCurve:
    """Counts at every threshold; a case is called positive if its score is at least the threshold.

    Args:
        thresholds: ``(T,)`` descending, from infinity (no case is called positive) to the lowest score (all are).
        tp: ``(T,) int64``, positive cases called positive.
        fp: ``(T,) int64``, negative cases called positive.
        positives: number of positive cases.
        negatives: number of negative cases.

    Example:
        >>> curve = threshold_curve(np.array([0.1, 0.6, 0.8]), np.array([False, False, True]))
        >>> curve.sensitivity.tolist(), curve.specificity.tolist()
        ([0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.5, 0.0])
    """

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    positives: int
    negatives: int

    @property
    def sensitivity(self) -> np.ndarray:
        """``(T,)``: share of positive cases that are called positive; nan without positive cases."""
        return _share(self.tp, self.positives)

    @property
    def specificity(self) -> np.ndarray:
        """``(T,)``: share of negative cases that are called negative; nan without negative cases."""
        return _share(self.negatives - self.fp, self.negatives)

    @property
    def precision(self) -> np.ndarray:
        """``(T,)``: share of positive calls that are right; nan at infinity, where there are none."""
        calls = self.tp + self.fp
        return np.divide(self.tp, calls, out=np.full(len(calls), np.nan), where=calls > 0)

    def net_benefit(self, thresholds: np.ndarray) -> np.ndarray:
        """Compute the net benefit of treating the cases whose probability of disease is at least a threshold.

        Args:
            thresholds: ``(n,)`` probabilities in [0, 1), at which a patient would choose treatment.

        Returns:
            ``(n,)`` net benefit, in true positives per case.

        Raises:
            ValueError: for thresholds outside [0, 1).

        Example:
            >>> curve = threshold_curve(np.array([0.1, 0.6, 0.8]), np.array([False, False, True]))
            >>> curve.net_benefit(np.array([0.5]))
            array([0.])

        Source:
            Vickers and Elkin, "Decision curve analysis", Medical Decision Making 26 (2006).
        """
        wanted = np.asarray(thresholds, np.float64)
        if not ((wanted >= 0) & (wanted < 1)).all():
            raise ValueError(f"expected thresholds in [0, 1), got {wanted.tolist()}")
        at = np.searchsorted(-self.thresholds, -wanted, side="right") - 1  # the lowest score that is not below it
        cases = self.positives + self.negatives
        return self.tp[at] / cases - self.fp[at] / cases * wanted / (1 - wanted)

    def choose(self, *, sensitivity: float | None = None, specificity: float | None = None) -> float:
        """Choose a threshold on cases that are not those of the evaluation, such as the validation set.

        Args:
            sensitivity: the highest threshold that reaches at least this sensitivity.
            specificity: the lowest threshold that reaches at least this specificity; without both, the threshold of
                highest Youden index (sensitivity + specificity − 1), the highest of several.

        Returns:
            The threshold; infinity if only calling no case positive will do.

        Raises:
            ValueError: if both are given, one is outside [0, 1], or cases of a kind are missing.

        Example:
            >>> curve = threshold_curve(np.array([0.1, 0.6, 0.8]), np.array([False, False, True]))
            >>> curve.choose(), curve.choose(specificity=0.5)
            (0.8, 0.6)

        Source:
            Youden, "Index for rating diagnostic tests", Cancer 3 (1950).
        """
        if sensitivity is not None and specificity is not None:
            raise ValueError("expected a sensitivity or a specificity, got both: choose one")
        if not self.positives or not self.negatives:
            raise ValueError(f"expected cases of both kinds, got {self.positives} positive, {self.negatives} negative")
        for value in (sensitivity, specificity):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"expected a share in [0, 1], got {value}")
        if sensitivity is not None:
            at = int(np.argmax(self.sensitivity >= sensitivity - 1e-12))
        elif specificity is not None:
            at = int(np.flatnonzero(self.specificity >= specificity - 1e-12)[-1])
        else:
            at = int(np.argmax(np.round(self.sensitivity + self.specificity, 12)))
        return float(self.thresholds[at])


def threshold_curve(scores: np.ndarray, positive: np.ndarray) -> ThresholdCurve:
    """Count true and false positives at every threshold.

    Args:
        scores: ``(N,)`` finite numbers, higher for positive cases.
        positive: ``(N,) bool``.

    Returns:
        The curve, one point per distinct score and one at infinity.

    Raises:
        ValueError: for arrays of other shapes, or scores that are not finite.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.ndim != 1 or scores.shape != positive.shape or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"expected finite scores and flags of one shape (N,), got {scores.shape}, {positive.shape}")
    levels, level = np.unique(scores, return_inverse=True)
    tp, fp = (
        np.concatenate([[0], np.cumsum(np.bincount(level[part], minlength=len(levels))[::-1])])
        for part in (positive, ~positive)
    )
    thresholds = np.concatenate([[np.inf], levels[::-1]])
    return ThresholdCurve(thresholds, tp, fp, int(positive.sum()), int((~positive).sum()))


def curve_of(comparison: Comparison) -> ThresholdCurve:
    """Return the curve of the positive class against all others.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        The curve.
    """
    c = comparison.positive_id
    return threshold_curve(comparison.probabilities[:, c], comparison.class_ids == c)


@METRICS.register("average_precision", task="classification", higher_is_better=True)
def compute_average_precision(comparison: Comparison) -> Figure:
    """Compute the area under the precision-recall curve of the positive class, in steps, without interpolation.

    Args:
        comparison: of probabilities and class ids.

    Returns:
        The area in [0, 1]; nan where no case is positive.

    Example:
        >>> c = Comparison([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], [0, 0, 1], classes=("normal", "cancer"))
        >>> compute_average_precision(c)
        Figure(1.0, count=3)
    """
    curve = curve_of(comparison)
    if not curve.positives:
        return Figure.undefined(f"no case is {comparison.positive}", count=len(comparison))
    return Figure(float((np.diff(curve.sensitivity) * curve.precision[1:]).sum()), count=len(comparison))


def _share(part: np.ndarray, whole: int) -> np.ndarray:
    return part / whole if whole else np.full(len(part), np.nan)
