"""Average precision by the rules of COCO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hccvision.metrics.average_precision import average_precision_of_hits, mean_over_classes
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())


def coco_table(matches: Matches) -> dict[int, list[float]]:
    """Compute COCO's average precision of each class that has truths, at each IoU threshold.

    Args:
        matches: by the COCO rule.

    Returns:
        Class id to T values.
    """
    thresholds = range(len(matches.iou_thresholds))
    return {
        label: [average_precision_of_hits(matches.flags(label, t), int(count), "coco") for t in thresholds]
        for label, count in enumerate(matches.num_truths)
        if count
    }


def _coco_matching(settings: Mapping[str, Any]) -> Matching:
    return Matching(COCO_THRESHOLDS, rule="coco", max_detections=settings["max_detections"])


@METRICS.register(
    "coco_map",
    task="detection",
    higher_is_better=dict.fromkeys(("map", "map_50", "map_75"), True),
    matching=_coco_matching,
)
def compute_coco_map(comparison: Comparison, *, max_detections: int = 100) -> dict[str, Figure]:
    """Compute COCO's mean average precision, over the IoU thresholds 0.50, 0.55, ... 0.95 and all classes.

    Args:
        comparison: of detections and truths.
        max_detections: at most this number of detections per image and class, those of highest score.

    Returns:
        ``map``, ``map_50`` and ``map_75`` (at IoU 0.5 and 0.75), nan without any truth, and ``map/<class>`` for each
        class that has truths.
    """
    matches = comparison.matches(COCO_THRESHOLDS, "coco", max_detections=max_detections)
    table, counts = coco_table(matches), matches.num_truths
    total = int(counts.sum())
    per_class = {label: float(np.mean(values)) for label, values in table.items()}
    return {
        "map": mean_over_classes(list(per_class.values()), total),
        "map_50": mean_over_classes([values[0] for values in table.values()], total),
        "map_75": mean_over_classes([values[5] for values in table.values()], total),
        **{f"map/{matches.classes[k]}": Figure(value, count=int(counts[k])) for k, value in per_class.items()},
    }


def coco_map(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    max_detections: int = 100,
) -> dict[str, Any]:
    """Compute COCO's mean average precision, over the IoU thresholds 0.50, 0.55, ... 0.95 and all classes.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        max_detections: at most this number of detections per image and class, those of highest score.

    Returns:
        ``map``, ``map_50`` and ``map_75`` (at IoU 0.5 and 0.75), and ``map_per_class``, a list of K values, as plain
        floats. As in pycocotools, a class without truths is −1 and left out of the means, and all are −1 without any
        truth; the registered metric ``"coco_map"`` gives nan instead.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]}]
        >>> coco_map(predictions, truths, num_classes=2)
        {'map': 0.9, 'map_50': 1.0, 'map_75': 1.0, 'map_per_class': [0.9, -1.0]}

    Source:
        Lin et al., "Microsoft COCO", ECCV 2014; ``COCOeval`` of pycocotools, area "all".
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    table = coco_table(comparison.matches(COCO_THRESHOLDS, "coco", max_detections=max_detections))
    per_class = [_mean(table.get(label, [])) for label in range(len(comparison.classes))]
    return {
        "map": _mean([mean for mean in per_class if mean >= 0]),
        "map_50": _mean([values[0] for values in table.values()]),
        "map_75": _mean([values[5] for values in table.values()]),
        "map_per_class": per_class,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else -1.0
