"""Average precision of one class, from the hits and misses of its detections in order of score."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.figure import Figure

NO_TRUTHS = "no image has a lesion to find"

_ELEVEN, _HUNDRED = np.arange(0, 1.1, 0.1), np.linspace(0, 1, 101)


def average_precision(flags: Any, num_truths: int, *, method: Literal["area", "11point", "coco"] = "area") -> Figure:
    """Compute the average precision of one class.

    Precision at a recall is the best precision at that recall or any higher. ``"area"`` is the area under it (VOC
    2010 and later), ``"11point"`` its mean at recalls 0, 0.1, ... 1 (VOC 2007), ``"coco"`` at 0, 0.01, ... 1.
    The recalls are floats as in the programs whose numbers are published (``voc_eval.py`` and pycocotools), where 3 of
    5 truths fall just short of ``np.arange``'s 0.6000000000000001.

    Args:
        flags: ``(N,)`` hit or miss of each detection, highest score first.
        num_truths: number of truths to find.
        method: one of the three.

    Returns:
        The average precision in [0, 1]; nan without truths.

    Raises:
        ValueError: if there are more hits than truths, or the method is unknown.

    Example:
        >>> average_precision([1, 0, 1, 0, 1], 3), average_precision([1, 0, 1, 0, 1], 3, method="11point")
        (Figure(0.755..., count=3), Figure(0.763..., count=3))
    """
    hit = as_array(flags).astype(bool).reshape(-1)
    if num_truths < hit.sum():
        raise ValueError(f"expected at most as many hits as truths, got {hit.sum()} hits of {num_truths} truths")
    value = average_precision_of_hits(hit, num_truths, method)
    return Figure(value, count=int(num_truths), reason=NO_TRUTHS)


def mean_over_classes(values: list[float], num_truths: int) -> Figure:
    """Return the mean of some classes' figures.

    Args:
        values: one per class that has truths.
        num_truths: of all classes.

    Returns:
        The mean; nan where no class has truths.
    """
    return Figure(float(np.mean(values)), count=num_truths) if values else Figure.undefined(NO_TRUTHS, count=0)


def average_precision_of_hits(hit: np.ndarray, num_truths: int, method: str) -> float:
    """Compute the average precision as a plain float.

    Args:
        hit: ``(N,) bool``, highest score first.
        num_truths: number of truths to find, at least the number of hits.
        method: as `average_precision`.

    Returns:
        The value in [0, 1]; nan without truths.

    Raises:
        ValueError: if the method is unknown.
    """
    check_method(method)
    if num_truths == 0:
        return math.nan
    ranks = np.flatnonzero(hit) + 1  # precision falls at every miss, so that only hits matter
    found = np.arange(1, len(ranks) + 1)
    envelope = np.maximum.accumulate((found / ranks)[::-1])[::-1]
    if method == "area":
        return float(envelope.sum() / num_truths)
    first = np.searchsorted(found / num_truths, _ELEVEN if method == "11point" else _HUNDRED)
    return float(np.append(envelope, 0.0)[first].mean())


def check_method(method: str) -> None:
    """Check the name of a way to compute average precision.

    Args:
        method: the name.

    Raises:
        ValueError: for an unknown one.
    """
    if method not in ("area", "11point", "coco"):
        raise ValueError(f"expected the method 'area', '11point' or 'coco', got {method!r}")
