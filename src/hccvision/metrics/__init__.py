"""Metrics by registered name, the comparison they read, and the figures and intervals they return."""

from hccvision.metrics import classification, detection, intervals, matching, statistics
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
    "check_report",
    "classification",
    "compute_metrics",
    "detection",
    "direction_of",
    "find_metrics",
    "intervals",
    "matching",
    "statistics",
]
