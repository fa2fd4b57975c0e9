"""Average precision by the rules of Pascal VOC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hccvision.metrics.average_precision import average_precision_of_hits, check_method, mean_over_classes
from hccvision.metrics.comparison import Comparison
from hccvision.metrics.figure import Figure
from hccvision.metrics.matches import Matches
from hccvision.metrics.matching import Matching
from hccvision.metrics.rows import Images
from hccvision.registry import METRICS


def voc_figures(
    matches: Matches, *, method: Literal["area", "11point"] = "area", mean: str = "map", each: str = "ap"
) -> dict[str, Figure]:
    """Compute the average precision of each class that has truths, and their mean.

    Args:
        matches: by the VOC rule, at one IoU threshold.
        method: ``"area"`` (VOC 2010 and later) or ``"11point"`` (VOC 2007).
        mean: name of the mean.
        each: name of a class's figure, before a slash and the class name.

    Returns:
        The mean, nan without any truth, and one figure for each class that has truths.
    """
    counts = {label: int(count) for label, count in enumerate(matches.num_truths) if count}
    values = {label: average_precision_of_hits(matches.flags(label), count, method) for label, count in counts.items()}
    figures = {f"{each}/{matches.classes[k]}": Figure(value, count=counts[k]) for k, value in values.items()}
    return {mean: mean_over_classes(list(values.values()), sum(counts.values())), **figures}


def _voc_matching(settings: Mapping[str, Any]) -> Matching:
    return Matching((settings["iou_threshold"],), extra_pixel=settings["extra_pixel"])


@METRICS.register("voc_map", task="detection", higher_is_better=True, matching=_voc_matching)
def compute_voc_map(
    comparison: Comparison, *, iou_threshold: float = 0.5, extra_pixel: bool = False
) -> dict[str, Figure]:
    """Compute the mean average precision of Pascal VOC (2010 and later), the area under the curve.

    Args:
        comparison: of detections and truths.
        iou_threshold: a match needs at least this IoU.
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        ``voc_map``, the mean, and ``voc_map/<class>`` for each class that has truths.
    """
    matches = comparison.matches((iou_threshold,), extra_pixel=extra_pixel)
    return voc_figures(matches, mean="voc_map", each="voc_map")


@METRICS.register("voc07_map", task="detection", higher_is_better=True, matching=_voc_matching)
def compute_voc07_map(
    comparison: Comparison, *, iou_threshold: float = 0.5, extra_pixel: bool = False
) -> dict[str, Figure]:
    """Compute the mean average precision of Pascal VOC 2007, at eleven recalls.

    Args:
        comparison: of detections and truths.
        iou_threshold: a match needs at least this IoU.
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        ``voc07_map``, the mean, and ``voc07_map/<class>`` for each class that has truths.
    """
    matches = comparison.matches((iou_threshold,), extra_pixel=extra_pixel)
    return voc_figures(matches, method="11point", mean="voc07_map", each="voc07_map")


def voc_ap(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    method: Literal["area", "11point"] = "area",
    extra_pixel: bool = False,
) -> dict[str, Figure]:
    """Compute the average precision of each class and their mean, by the rules of Pascal VOC.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order; difficult ones are ignored.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: a match needs at least this IoU.
        method: ``"area"`` (VOC 2010 and later) or ``"11point"`` (VOC 2007).
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        ``ap/<class>`` for each class that has truths, and ``map``, their mean, nan without any.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> voc_ap(predictions, truths, classes=("tumor",))
        {'map': Figure(0.5, count=1), 'ap/tumor': Figure(0.5, count=1)}

    Source:
        Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88 (2010), section 4.2.
    """
    check_method(method)
    matches = Comparison.of_boxes(predictions, truths, classes, num_classes).matches(
        (iou_threshold,), extra_pixel=extra_pixel
    )
    return voc_figures(matches, method=method)


def voc_map(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    extra_pixel: bool = False,
) -> dict[str, Figure]:
    """Compute `voc_ap` by the area under the curve, as ``voc_map`` and ``voc_map/<class>``.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: a match needs at least this IoU.
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        The mean, and one figure for each class that has truths.

    Raises:
        ValueError: as `match`.

    Example:
        >>> voc_map([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}], classes=("tumor",))
        {'voc_map': Figure(nan, count=0, reason='no image has a lesion to find')}
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    return compute_voc_map(comparison, iou_threshold=iou_threshold, extra_pixel=extra_pixel)


def voc07_map(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    extra_pixel: bool = False,
) -> dict[str, Figure]:
    """Compute `voc_ap` at eleven recalls, as ``voc07_map`` and ``voc07_map/<class>``.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: a match needs at least this IoU.
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        The mean, and one figure for each class that has truths.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]}]
        >>> print(voc07_map(predictions, truths, classes=("tumor",))["voc07_map"])
        1.0000
    """
    comparison = Comparison.of_boxes(predictions, truths, classes, num_classes)
    return compute_voc07_map(comparison, iou_threshold=iou_threshold, extra_pixel=extra_pixel)
