"""The twelve figures that COCO's own program prints: average precision and recall, also by size of the lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hccvision.metrics.average_precision import NO_TRUTHS, mean_over_classes
from hccvision.metrics.coco import COCO_THRESHOLDS, coco_table
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # areas in square pixels
COUNTS = (1, 10, 100)  # detections per image and class
_NAMES = ("map", "map_50", "map_75", *(f"map_{size}" for size in SIZES))
_RECALLS = (*(f"ar_{count}" for count in COUNTS), *(f"ar_{size}" for size in SIZES))


def _matching(settings: Mapping[str, Any]) -> Matching:
    return Matching(COCO_THRESHOLDS, rule="coco", max_detections=COUNTS[-1])


@METRICS.register(
    "coco_summary",
    task="detection",
    higher_is_better=dict.fromkeys((*_NAMES, *_RECALLS), True),
    matching=_matching,
)
def compute_coco_summary(comparison: Comparison) -> dict[str, Figure]:
    """Compute the twelve figures that COCO's own program prints, over the IoU thresholds 0.50, 0.55, ... 0.95.

    Sizes are those of COCO in pixels of the original image, by the area of the box: small up to 32², medium up to 96²,
    large above. See `compute_sensitivity_by_size` for sizes relative to the image.

    Args:
        comparison: of detections and truths.

    Returns:
        Average precision ``map``, ``map_50`` and ``map_75`` (at IoU 0.5 and 0.75), ``map_small``, ``map_medium`` and
        ``map_large``; average recall ``ar_1``, ``ar_10`` and ``ar_100`` of at most so many detections per image and
        class, ``ar_small``, ``ar_medium`` and ``ar_large``. Nan without truths of that size.
    """

    def matched(count: int = COUNTS[-1], size: str | None = None) -> Matches:
        how = Matching(COCO_THRESHOLDS, "coco", False, count, None if size is None else SIZES[size])
        return comparison.matched(how)

    by_count, by_size = {n: matched(n) for n in COUNTS}, {size: matched(size=size) for size in SIZES}
    whole = by_count[COUNTS[-1]]
    return {
        "map": _precision(whole),
        "map_50": _precision(whole, [0]),
        "map_75": _precision(whole, [5]),
        **{f"map_{size}": _precision(matches, size=size) for size, matches in by_size.items()},
        **{f"ar_{count}": _recall(matches) for count, matches in by_count.items()},
        **{f"ar_{size}": _recall(matches, size) for size, matches in by_size.items()},
    }


def coco_summary(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> dict[str, Figure]:
    """Compute the twelve figures that COCO's own program prints, over the IoU thresholds 0.50, 0.55, ... 0.95.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.

    Returns:
        As `compute_coco_summary`.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]}]
        >>> found = coco_summary(predictions, truths, num_classes=1)
        >>> print(found["map"], found["map_small"], found["map_large"], found["ar_1"])
        0.9000 0.9000 – 0.9000

    Source:
        Lin et al., "Microsoft COCO", ECCV 2014; ``COCOeval.summarize`` of pycocotools.
    """
    return compute_coco_summary(Comparison.of_boxes(predictions, truths, classes, num_classes))


def _precision(matches: Matches, thresholds: Sequence[int] = range(len(COCO_THRESHOLDS)), size: str = "") -> Figure:
    values = [row[t] for row in coco_table(matches).values() for t in thresholds]
    return _mean(values, matches, size)


def _recall(matches: Matches, size: str = "") -> Figure:
    values = [
        int(matches.flags(label, t).sum()) / int(count)
        for label, count in enumerate(matches.num_truths)
        if count
        for t in range(len(COCO_THRESHOLDS))
    ]
    return _mean(values, matches, size)


def _mean(values: list[float], matches: Matches, size: str) -> Figure:
    found = mean_over_classes(values, int(matches.num_truths.sum()))
    return found if found.defined else Figure.undefined(f"{NO_TRUTHS}{' that is ' * bool(size)}{size}", count=0)
