"""Counts of hits, false positives and missed lesions at one operating point."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hccvision.metrics.average_precision import NO_TRUTHS
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matching import at_one_threshold
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS

DIRECTIONS = {"tp": True, "fp": False, "fn": False, "sensitivity": True, "precision": True, "f1": True}


@METRICS.register("detection_counts", task="detection", higher_is_better=DIRECTIONS, matching=at_one_threshold)
def compute_detection_counts(
    comparison: Comparison, *, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> dict[str, Figure]:
    """Count hits, false positives and missed truths at one operating point, over all classes.

    Args:
        comparison: of detections and truths; difficult truths are ignored.
        score_threshold: lowest score of a detection that counts.
        iou_threshold: a match needs at least this IoU.

    Returns:
        ``tp``, ``fp``, ``fn``, ``sensitivity``, ``precision`` and ``f1``; the latter three nan where undefined.

    Raises:
        ValueError: if the score threshold is not finite.
    """
    if not math.isfinite(score_threshold):
        raise ValueError(f"expected a finite score threshold, got {score_threshold}")
    m = comparison.matches((iou_threshold,))
    called = (m.scores >= score_threshold) & ~m.ignored[0]
    tp, total, calls = int(m.hits[0, called].sum()), int(m.num_truths.sum()), int(called.sum())
    undetected = f"nothing was detected with a score of at least {score_threshold:g}"
    return {
        "tp": Figure.number(tp),
        "fp": Figure.number(calls - tp),
        "fn": Figure.number(total - tp),
        "sensitivity": Figure.share(tp, total, reason=NO_TRUTHS),
        "precision": Figure.share(tp, calls, reason=undetected),
        "f1": Figure.ratio(2 * tp, calls + total, reason=f"{NO_TRUTHS}, and {undetected}", count=total),
    }


def detection_counts(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> dict[str, Figure]:
    """Count hits, false positives and missed truths at one operating point, over all classes.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order; difficult ones are ignored.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        score_threshold: lowest score of a detection that counts.
        iou_threshold: a match needs at least this IoU.

    Returns:
        ``tp``, ``fp``, ``fn``, ``sensitivity``, ``precision`` and ``f1``; the latter three nan where undefined.

    Raises:
        ValueError: as `match`, or if the score threshold is not finite.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> found = detection_counts(predictions, truths, classes=("tumor",))
        >>> {name: str(figure) for name, figure in found.items()}
        {'tp': '1', 'fp': '1', 'fn': '0', 'sensitivity': '1.0000', 'precision': '0.5000', 'f1': '0.6667'}
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    return compute_detection_counts(comparison, score_threshold=score_threshold, iou_threshold=iou_threshold)
