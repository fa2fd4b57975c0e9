"""Figures of a detector: VOC and COCO average precision, FROC, and counts at a working point; plain numpy.

Everywhere ``predictions`` holds one dictionary per image with ``boxes (N, 4)``, ``scores (N,)`` and ``labels (N,)``,
``truths`` one with ``boxes (M, 4)``, ``labels (M,)`` and, if wanted, ``difficult (M,)`` and ``size``, the image's
``(height, width)``: tensors or arrays, boxes xyxy in pixels, labels ``0 ... K-1``. An image without lesions has none of
them, and counts as an image.

Detections are first matched to truths (`matching.match`); every figure is then a way of counting hits and misses. A
share of nothing (0/0) is 0.0, except in `coco_map`, which keeps pycocotools' −1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from hccvision.metrics.matching import Images, match
from hccvision.metrics.statistics import as_array
from hccvision.registry import METRICS

COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
FROC_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def average_precision(flags: Any, num_truths: int, *, method: Literal["area", "11point", "coco"] = "area") -> float:
    """Give the average precision of one class.

    Precision at a recall is the best precision at that recall or any higher. ``"area"`` is the area under it (VOC
    2010 and later), ``"11point"`` its mean at recalls 0, 0.1, ... 1 (VOC 2007), ``"coco"`` at 0, 0.01, ... 1.
    The recalls are floats as in the programs whose numbers are published (``voc_eval.py`` and pycocotools), where 3 of
    5 truths fall just short of ``np.arange``'s 0.6000000000000001.

    Args:
        flags: ``(N,)`` hit or miss of each detection, best score first.
        num_truths: how many truths there are to find.
        method: one of the three.

    Returns:
        The average precision in [0, 1]; 0.0 without truths.

    Raises:
        ValueError: if there are more hits than truths, or the method is unknown.

    Example:
        >>> average_precision([1, 0, 1, 0, 1], 3), average_precision([1, 0, 1, 0, 1], 3, method="11point")
        (0.755..., 0.763...)
    """
    _check_method(method)
    hit = as_array(flags).astype(bool).reshape(-1)
    found = np.cumsum(hit)
    if num_truths < hit.sum():
        raise ValueError(f"expected at most as many hits as truths, got {hit.sum()} hits of {num_truths} truths")
    if num_truths == 0:
        return 0.0
    precision = found / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if method == "area":
        return float(envelope[hit].sum() / num_truths)
    points = np.arange(0, 1.1, 0.1) if method == "11point" else np.linspace(0, 1, 101)
    first = np.searchsorted(found / num_truths, points)
    return float(np.append(envelope, 0.0)[first].mean())


def voc_ap(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    method: Literal["area", "11point"] = "area",
    extra_pixel: bool = False,
) -> dict[str, float]:
    """Give the average precision of each class and their mean, by the rules of Pascal VOC.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order; difficult ones are neither to be found nor false to find.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: the least IoU of a match.
        method: ``"area"`` (VOC 2010 and later) or ``"11point"`` (VOC 2007).
        extra_pixel: add one pixel to widths and heights, as the development kit does.

    Returns:
        ``ap/<class>`` for each class that has truths, and ``map``, their mean, 0.0 without any.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> voc_ap(predictions, truths, classes=("tumor",))
        {'map': 0.5, 'ap/tumor': 0.5}

    Source:
        Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88 (2010), section 4.2.
    """
    _check_method(method)
    matches = match(
        predictions,
        truths,
        classes=classes,
        num_classes=num_classes,
        iou_thresholds=(iou_threshold,),
        extra_pixel=extra_pixel,
    )
    per_class = {
        f"ap/{name}": average_precision(matches.flags(label), int(matches.num_truths[label]), method=method)
        for label, name in enumerate(matches.classes)
        if matches.num_truths[label]
    }
    return {"map": _mean(list(per_class.values()), 0.0), **per_class}


@METRICS.register("voc_map", task="detection")
def voc_map(predictions: Images, truths: Images, *, classes: Sequence[str], **options: Any) -> dict[str, float]:
    """Give `voc_ap` by the area under the curve, as ``voc_map`` and ``voc_map/<class>``.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order.
        classes: the K class names in order.
        options: of `voc_ap`.

    Returns:
        The mean, and one value for each class that has truths.

    Example:
        >>> voc_map([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}], classes=("tumor",))
        {'voc_map': 0.0}
    """
    return _renamed("voc_map", voc_ap(predictions, truths, classes=classes, **options))


@METRICS.register("voc07_map", task="detection")
def voc07_map(predictions: Images, truths: Images, *, classes: Sequence[str], **options: Any) -> dict[str, float]:
    """Give `voc_ap` by eleven points, as ``voc07_map`` and ``voc07_map/<class>``.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order.
        classes: the K class names in order.
        options: of `voc_ap`.

    Returns:
        The mean, and one value for each class that has truths.

    Example:
        >>> voc07_map([{"boxes": [], "scores": [], "labels": []}], [{"boxes": [], "labels": []}], classes=("tumor",))
        {'voc07_map': 0.0}
    """
    return _renamed("voc07_map", voc_ap(predictions, truths, classes=classes, method="11point", **options))


def coco_map(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    max_detections: int = 100,
) -> dict[str, Any]:
    """Give COCO's mean average precision, over the IoU thresholds 0.50, 0.55, ... 0.95 and all classes.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        max_detections: at most so many per image and class, the best.

    Returns:
        ``map``, ``map_50`` and ``map_75`` (at IoU 0.5 and 0.75), and ``map_per_class``, a list of K values. As in
        pycocotools, a class without truths is −1 and left out of the means, and all are −1 without any truth.

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
    matches = match(
        predictions,
        truths,
        classes=classes,
        num_classes=num_classes,
        iou_thresholds=COCO_THRESHOLDS,
        rule="coco",
        max_detections=max_detections,
    )
    table = {
        label: [average_precision(matches.flags(label, t), int(count), method="coco") for t in range(10)]
        for label, count in enumerate(matches.num_truths)
        if count
    }
    per_class = [_mean(table.get(label, []), -1.0) for label in range(len(matches.classes))]
    return {
        "map": _mean([mean for mean in per_class if mean >= 0], -1.0),
        "map_50": _mean([values[0] for values in table.values()], -1.0),
        "map_75": _mean([values[5] for values in table.values()], -1.0),
        "map_per_class": per_class,
    }


@METRICS.register("coco_map", task="detection")
def flat_coco_map(predictions: Images, truths: Images, *, classes: Sequence[str], **options: Any) -> dict[str, float]:
    """Give `coco_map` as plain numbers under one name each.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order.
        classes: the K class names in order.
        options: of `coco_map`.

    Returns:
        ``map``, ``map_50``, ``map_75``, 0.0 without any truth, and ``map/<class>`` for each class that has truths.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]}]
        >>> flat_coco_map(predictions, truths, classes=("tumor",))
        {'map': 0.9, 'map_50': 1.0, 'map_75': 1.0, 'map/tumor': 0.9}
    """
    found = coco_map(predictions, truths, classes=classes, **options)
    per_class = dict(zip(classes, found.pop("map_per_class"), strict=True))
    return {
        **{name: max(value, 0.0) for name, value in found.items()},
        **{f"map/{name}": value for name, value in per_class.items() if value >= 0},
    }


@METRICS.register("froc", task="detection")
def froc(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_threshold: float = 0.5,
    rates: Sequence[float] = FROC_RATES,
) -> dict[str, float]:
    """Give the share of lesions found at given false positives per image (free-response ROC).

    Matching is within each class by the VOC rule; counts are over all classes. Images without lesions count as
    images. At each rate it is the best of all score thresholds that keep to it, with no interpolation between them.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order; difficult ones are neither to be found nor false to find.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        iou_threshold: the least IoU of a match.
        rates: false positives per image.

    Returns:
        ``froc``, the mean over the rates, and ``froc/<rate>`` for each, in [0, 1]; 0.0 without truths.

    Raises:
        ValueError: as `match`, or if there is no rate or a negative one.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> froc(predictions, truths, classes=("tumor",), rates=(0.25, 0.5))
        {'froc': 0.5, 'froc/0.25': 0.0, 'froc/0.5': 1.0}

    Source:
        Bunch et al., SPIE 127 (1977); the seven rates: Setio et al. (LUNA16), Medical Image Analysis 42 (2017).
    """
    if len(rates) == 0 or not all(rate >= 0 for rate in rates):
        raise ValueError(f"expected rates of 0 or more false positives per image, got {tuple(rates)}")
    m = match(predictions, truths, classes=classes, num_classes=num_classes, iou_thresholds=(iou_threshold,))
    counted = ~m.ignored[0]
    hits, scores = m.hits[0, counted], m.scores[counted]
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores pass a threshold together
    found = np.append(0, np.cumsum(hits)[last_of_score])
    false = np.append(0, np.cumsum(~hits)[last_of_score])
    at = np.searchsorted(false, np.asarray(rates) * m.num_images, side="right") - 1
    values = [float(found[i] / max(1, m.num_truths.sum())) for i in at]
    return {"froc": _mean(values, 0.0), **{f"froc/{rate:g}": v for rate, v in zip(rates, values, strict=True)}}


@METRICS.register("detection_counts", task="detection")
def detection_counts(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    score_threshold: float = 0.5,
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """Count hits, false alarms and missed truths at one working point, over all classes.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order; difficult ones are neither to be found nor false to find.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        score_threshold: the least score of a detection that counts.
        iou_threshold: the least IoU of a match.

    Returns:
        ``tp``, ``fp``, ``fn``, ``sensitivity``, ``precision`` and ``f1``.

    Raises:
        ValueError: as `match`.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}, {"boxes": [], "labels": []}]
        >>> predictions = [
        ...     {"boxes": [[0, 0, 10, 9]], "scores": [0.6], "labels": [0]},
        ...     {"boxes": [[5, 5, 9, 9]], "scores": [0.8], "labels": [0]},
        ... ]
        >>> detection_counts(predictions, truths, classes=("tumor",))
        {'tp': 1.0, 'fp': 1.0, 'fn': 0.0, 'sensitivity': 1.0, 'precision': 0.5, 'f1': 0.666...}
    """
    m = match(predictions, truths, classes=classes, num_classes=num_classes, iou_thresholds=(iou_threshold,))
    if not np.isfinite(score_threshold):
        raise ValueError(f"expected a finite score threshold, got {score_threshold}")
    called = (m.scores >= score_threshold) & ~m.ignored[0]
    tp = float(m.hits[0, called].sum())
    fp, fn = float(called.sum()) - tp, float(m.num_truths.sum()) - tp
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "sensitivity": tp / max(1.0, tp + fn),
        "precision": tp / max(1.0, tp + fp),
        "f1": 2 * tp / max(1.0, 2 * tp + fp + fn),
    }


@METRICS.register("sensitivity_by_size", task="detection")
def sensitivity_by_size(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    edges: Sequence[float] = (0.1, 0.15, 0.25),
    false_positives: float = 1.0,
    iou_threshold: float = 0.5,
) -> dict[str, float]:
    """Give the share of lesions found for each range of sizes, at one score threshold for all.

    The size of a lesion is the square root of its share of the image's area: 0.1 is a square of a tenth of the side.
    The threshold is the lowest that keeps to so many false positives per image, so that models of different
    confidence compare.

    Args:
        predictions: one dictionary per image, as at the top of this module.
        truths: likewise, in the same order, each with ``size``, the ``(height, width)`` of its image.
        classes: the K class names in order.
        num_classes: K, instead of ``classes``.
        edges: between the ranges of sizes, ascending, in (0, 1).
        false_positives: per image, over all images.
        iou_threshold: the least IoU of a match.

    Returns:
        ``sensitivity/<from>-<to> %`` and ``lesions/<from>-<to> %``, their number, for each range that has lesions, and
        the ``score_threshold``: 0.0 where all detections may pass, and above the best score where none may.

    Raises:
        ValueError: as `match`, for edges out of order or range, a negative rate, or truths without ``size``.

    Example:
        >>> truths = [{"boxes": [[0, 0, 5, 5], [30, 30, 80, 80]], "labels": [0, 0], "size": (100, 100)}]
        >>> predictions = [{"boxes": [[31, 30, 80, 80]], "scores": [0.6], "labels": [0]}]
        >>> sensitivity_by_size(predictions, truths, edges=(0.1,))
        {'sensitivity/0-10 %': 0.0, 'lesions/0-10 %': 1.0, 'sensitivity/10-100 %': 1.0, 'lesions/10-100 %': 1.0,
        'score_threshold': 0.0}

    Source:
        The working point is one of the free-response ROC's, see `froc`.
    """
    limits = [0.0, *edges, 1.0]
    if any(not a < b for a, b in pairwise(limits)):
        raise ValueError(f"expected edges ascending within (0, 1), got {tuple(edges)}")
    if not false_positives >= 0:
        raise ValueError(f"expected 0 or more false positives per image, got {false_positives}")
    options: dict[str, Any] = {"classes": classes, "num_classes": num_classes, "iou_thresholds": (iou_threshold,)}
    m = match(predictions, truths, **options)
    misses = m.scores[~m.hits[0] & ~m.ignored[0]]  # descending
    allowed = int(false_positives * m.num_images)
    threshold = 0.0 if len(misses) <= allowed else float(np.nextafter(misses[allowed], np.inf))

    sizes = []
    for index, truth in enumerate(truths):
        if truth.get("size") is None:
            raise ValueError(f"truths[{index}] lacks 'size', the (height, width) of its image in pixels")
        boxes = as_array(truth["boxes"]).reshape(-1, 4).astype(np.float64)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        sizes.append(np.sqrt(area / np.prod(as_array(truth["size"]).astype(np.float64))))
    found: dict[str, float] = {}
    for low, high in pairwise(limits):
        others = []  # as difficult ones, truths of other sizes are neither to be found nor false to find
        for truth, size in zip(truths, sizes, strict=True):
            difficult = as_array(truth.get("difficult", np.zeros(len(size), bool))).astype(bool)
            others.append({**truth, "difficult": difficult | (size < low) | (size >= high if high < 1 else False)})
        part = match(predictions, others, **options)
        if count := int(part.num_truths.sum()):
            name = f"{100 * low:g}-{100 * high:g} %"
            found[f"sensitivity/{name}"] = float(part.hits[0, part.scores >= threshold].sum() / count)
            found[f"lesions/{name}"] = float(count)
    return {**found, "score_threshold": threshold}


def _check_method(method: str) -> None:
    if method not in ("area", "11point", "coco"):
        raise ValueError(f"expected the method 'area', '11point' or 'coco', got {method!r}")


def _mean(values: Sequence[float], of_none: float) -> float:
    return float(np.mean(values)) if values else of_none


def _renamed(name: str, found: dict[str, float]) -> dict[str, float]:
    """Put ``name`` for ``map`` and ``name/`` for ``ap/``."""
    return {name if key == "map" else f"{name}/{key.removeprefix('ap/')}": value for key, value in found.items()}
