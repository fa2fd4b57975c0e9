"""Metrics by registered name, the comparison they read, and the figures and intervals they return."""

from hccvision.metrics import (
    afroc,
    calibration,
    classification,
    conformal,
    delong,
    detection,
    error_kinds,
    intervals,
    matching,
    paired_tests,
    per_class,
    probabilities,
    proportions,
    statistics,
    threshold_curves,
)
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.intervals import add_intervals
from hccvision.metrics.metric import Metric, compute_metrics, direction_of, find_metrics
from hccvision.metrics.published import CheckedFigures, check_report

__all__ = [
    "CheckedFigures",
    "Comparison",
    "Figure",
    "Metric",
    "add_intervals",
    "afroc",
    "calibration",
    "check_report",
    "classification",
    "compute_metrics",
    "conformal",
    "delong",
    "detection",
    "direction_of",
    "error_kinds",
    "find_metrics",
    "intervals",
    "matching",
    "paired_tests",
    "per_class",
    "probabilities",
    "proportions",
    "statistics",
    "threshold_curves",
]
