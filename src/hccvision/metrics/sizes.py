"""Sensitivity for each range of lesion sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hccvision.metrics.arrays import as_array
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matching import at_one_threshold
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS

SIZE_EDGES = (0.1, 0.15, 0.25)


@METRICS.register(
    "sensitivity_by_size", task="detection", higher_is_better={"sensitivity": True}, matching=at_one_threshold
)
def compute_sensitivity_by_size(
    comparison: Comparison,
    *,
    edges: Sequence[float] = SIZE_EDGES,
    false_positives: float = 1.0,
    iou_threshold: float = 0.5,
) -> dict[str, Figure]:
    """Compute the share of lesions found for each range of sizes, at one score threshold for all.

    The size of a lesion is the square root of its share of the image's area: 0.1 is a square of a tenth of the side.
    The threshold is the lowest one with at most ``false_positives`` per image, so that models of different confidence
    can be compared.

    Args:
        comparison: of detections and truths, which need ``size``, the ``(height, width)`` of their image.
        edges: between the ranges of sizes, ascending, in (0, 1).
        false_positives: per image, over all images.
        iou_threshold: a match needs at least this IoU.

    Returns:
        ``sensitivity/<from>-<to> %`` and ``lesions/<from>-<to> %``, their number, for each range that has lesions, and
        the ``score_threshold``: 0.0 where all detections may pass, and above the best score where none may.

    Raises:
        ValueError: for edges out of order or range, a negative rate, or truths without ``size``.

    Source:
        The operating point is one of the free-response ROC's, see `compute_froc`.
    """
    limits = [0.0, *edges, 1.0]
    if any(not a < b for a, b in pairwise(limits)):
        raise ValueError(f"expected edges ascending within (0, 1), got {tuple(edges)}")
    if not false_positives >= 0:
        raise ValueError(f"expected 0 or more false positives per image, got {false_positives}")
    m = comparison.matches((iou_threshold,))
    image_sizes = comparison.per_image(_image_size)
    if np.isnan(image_sizes).any():
        index = int(np.flatnonzero(np.isnan(image_sizes).any(1))[0])
        raise ValueError(f"truths[{index}] lacks 'size', the (height, width) of its image in pixels")
    hits = m.hits[0]
    misses = m.scores[~hits & ~m.ignored[0]]  # descending
    allowed = int(false_positives * m.num_images)
    threshold = 0.0 if len(misses) <= allowed else float(np.nextafter(misses[allowed], np.inf))

    sides = m.truth_boxes[:, 2:] - m.truth_boxes[:, :2]
    sizes = np.sqrt(sides.prod(1) / image_sizes.prod(1)[m.truth_images])
    at = np.digitize(sizes, edges)  # a lesion of just an edge belongs to the range above it
    counts = np.bincount(at[~m.truth_ignored], minlength=len(limits) - 1)
    found = np.bincount(at[m.found[0, hits & (m.scores >= threshold)]], minlength=len(limits) - 1)
    figures: dict[str, Figure] = {}
    for (low, high), part, whole in zip(pairwise(limits), found.tolist(), counts.tolist(), strict=True):
        if whole:
            name = f"{100 * low:g}-{100 * high:g} %"
            figures[f"sensitivity/{name}"] = Figure.share(part, whole)
            figures[f"lesions/{name}"] = Figure.number(whole)
    return {**figures, "score_threshold": Figure(threshold)}


def _image_size(prediction: Any, truth: Mapping[str, Any]) -> tuple[float, float]:
    """Return ``(height, width)``, nan where it is not known."""
    size = truth.get("size")
    height, width = (np.nan, np.nan) if size is None else as_array(size).tolist()
    return height, width


def sensitivity_by_size(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    edges: Sequence[float] = SIZE_EDGES,
    false_positives: float = 1.0,
    iou_threshold: float = 0.5,
) -> dict[str, Figure]:
    """Compute the share of lesions found for each range of sizes, at one score threshold for all.

    The size of a lesion is the square root of its share of the image's area: 0.1 is a square of a tenth of the side.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order, each with ``size``, the ``(height, width)`` of its image.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        edges: between the ranges of sizes, ascending, in (0, 1).
        false_positives: per image, over all images.
        iou_threshold: a match needs at least this IoU.

    Returns:
        As `compute_sensitivity_by_size`.

    Raises:
        ValueError: as `match`, for edges out of order or range, a negative rate, or truths without ``size``.

    Example:
        >>> truths = [{"boxes": [[0, 0, 5, 5], [30, 30, 80, 80]], "labels": [0, 0], "size": (100, 100)}]
        >>> predictions = [{"boxes": [[31, 30, 80, 80]], "scores": [0.6], "labels": [0]}]
        >>> found = sensitivity_by_size(predictions, truths, edges=(0.1,))
        >>> {name: str(figure) for name, figure in found.items()}
        {'sensitivity/0-10 %': '0.0000', 'lesions/0-10 %': '1', 'sensitivity/10-100 %': '1.0000',
        'lesions/10-100 %': '1', 'score_threshold': '0.0000'}
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    return compute_sensitivity_by_size(
        comparison, edges=edges, false_positives=false_positives, iou_threshold=iou_threshold
    )
