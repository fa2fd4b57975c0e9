"""Figures of merit by registered name: classification, detection, and the intervals around them."""

from hccvision.metrics import classification, detection, statistics

__all__ = ["classification", "detection", "statistics"]
