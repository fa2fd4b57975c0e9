"""Confidence intervals under their former name; see `hccvision.metrics.intervals`."""

from hccvision.metrics.arrays import as_array
from hccvision.metrics.intervals import bootstrap, wilson

__all__ = ["as_array", "bootstrap", "wilson"]
