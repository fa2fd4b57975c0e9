"""Match detections to truths, image by image and class by class: what every figure of a detector is computed from.

Plain numpy. ``predictions`` and ``truths`` are as in `hccvision.metrics.detection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hccvision.metrics.matches import Matches
from hccvision.metrics.rows import PREDICTION_FIELDS, TRUTH_FIELDS, Images, Rows, check_labels, class_names, join_rows


@dataclass(frozen=True)
class Matching:
    """How detections are matched to truths.

    ``"voc"``: each detection is compared with the truth of highest IoU; if a detection of higher score has found that
    truth it is a miss, if the truth is difficult it is ignored. ``"coco"``: each detection finds the truth of highest
    IoU that is still free; difficult truths count as ordinary ones, since COCO does not have them. By either rule, a
    detection that finds no truth is ignored if at least that share of its own area lies in a crowd of its class; crowds
    are never found or missed. Truths whose area is out of range are ignored too, as COCO does it: a detection that
    finds one is ignored, and so is one that finds nothing and whose own area is out of range.

    Args:
        iou_thresholds: T values in (0, 1]; a match needs at least this IoU.
        rule: ``"voc"`` or ``"coco"``.
        extra_pixel: measure boxes as the VOC development kit does, one pixel added to each width and height.
        max_detections: at most this number of detections per image and class, those of highest score; None is all.
        area_range: smallest and largest area in square pixels, of the rule ``"coco"``; None is any.

    Raises:
        ValueError: for values that are not as above.

    Source:
        VOC: Everingham et al., IJCV 88 (2010), section 4.2, and VOCevaldet.m. COCO: ``evaluateImg`` of pycocotools.
    """

    iou_thresholds: tuple[float, ...] = (0.5,)
    rule: Literal["voc", "coco"] = "voc"
    extra_pixel: bool = False
    max_detections: int | None = None
    area_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "iou_thresholds", tuple(map(float, self.iou_thresholds)))
        if self.rule not in _RULES:
            raise ValueError(f"expected the rule 'voc' or 'coco', got {self.rule!r}")
        if len(self.iou_thresholds) == 0 or not all(0 < t <= 1 for t in self.iou_thresholds):
            raise ValueError(f"expected IoU thresholds above 0 and up to 1, got {self.iou_thresholds}")
        if self.max_detections is not None and self.max_detections < 1:
            raise ValueError(f"expected max_detections of at least 1, or None for all, got {self.max_detections}")
        if self.area_range is not None and (self.rule != "coco" or not self.area_range[0] <= self.area_range[1]):
            raise ValueError(f"expected a smallest and a largest area, of the rule 'coco', got {self.area_range}")


def at_one_threshold(settings: Mapping[str, Any]) -> Matching:
    """Return the VOC matching at the IoU threshold of a metric.

    Args:
        settings: options of the metric, ``iou_threshold`` among them.

    Returns:
        The matching.
    """
    return Matching((settings["iou_threshold"],))


def match(
    predictions: Images,
    truths: Images,
    *,
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    iou_thresholds: Sequence[float] = (0.5,),
    rule: Literal["voc", "coco"] = "voc",
    max_detections: int | None = None,
    extra_pixel: bool = False,
) -> Matches:
    """Match detections to truths of the same image and class, highest score first, equal scores in the order given.

    Args:
        predictions: one dictionary per image, see `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order; None names them ``"0", "1", ...``.
        num_classes: K, instead of ``classes``; without either, K is one more than the highest label.
        iou_thresholds: see `Matching`.
        rule: see `Matching`.
        max_detections: see `Matching`.
        extra_pixel: see `Matching`.

    Returns:
        The matches.

    Raises:
        ValueError: if there are no images, or shapes, labels, boxes or scores are not as above; names the image.
        TypeError: if an image is not a dictionary.
    """
    how = Matching(tuple(iou_thresholds), rule, extra_pixel, max_detections)
    if len(predictions) != len(truths):
        raise ValueError(f"expected one prediction per truth, got {len(predictions)} predictions, {len(truths)} truths")
    if len(truths) == 0:
        raise ValueError("there are no images to match: expected at least one")
    names = class_names(classes, num_classes, predictions, truths)
    return match_rows(detection_rows(predictions, names), truth_rows(truths, names), names, len(truths), how)


def detection_rows(predictions: Images, classes: tuple[str, ...]) -> Rows:
    """Join the detections of all images, highest score first.

    Args:
        predictions: one dictionary per image.
        classes: the K class names in order.

    Returns:
        As `join_rows`, in descending order of score, equal scores in the order given.

    Raises:
        ValueError: as `join_rows`, and for labels of K or more.
    """
    rows = join_rows(predictions, "predictions", PREDICTION_FIELDS)
    check_labels(rows, "predictions", classes)
    order = np.argsort(-rows["scores"], kind="stable")
    return {field: values[order] for field, values in rows.items()}


def truth_rows(truths: Images, classes: tuple[str, ...]) -> Rows:
    """Join the truths of all images.

    Args:
        truths: one dictionary per image.
        classes: the K class names in order.

    Returns:
        As `join_rows`.

    Raises:
        ValueError: as `join_rows`, and for labels of K or more.
    """
    rows = join_rows(truths, "truths", TRUTH_FIELDS)
    check_labels(rows, "truths", classes)
    return rows


def match_rows(detections: Rows, truths: Rows, classes: tuple[str, ...], num_images: int, how: Matching) -> Matches:
    """Match joined rows.

    Args:
        detections: from `detection_rows`.
        truths: from `truth_rows`.
        classes: the K class names in order.
        num_images: number of images.
        how: rule and IoU thresholds.

    Returns:
        The matches.
    """
    group = detections["image"] * len(classes) + detections["labels"]
    if how.max_detections is not None:
        kept = _rank(group) < how.max_detections
        detections, group = {field: values[kept] for field, values in detections.items()}, group[kept]
    detection, truth = pairs_within(group, truths["image"] * len(classes) + truths["labels"])
    crowd = truths["crowd"][truth]
    pairs = detections["boxes"][detection], truths["boxes"][truth]
    overlap = np.where(crowd, *(overlap_of(*pairs, float(how.extra_pixel), of_first=share) for share in (True, False)))
    thresholds = np.asarray(how.iou_thresholds, np.float64)
    out_of_range = [_out_of_range(rows["boxes"], how.area_range) for rows in (truths, detections)]
    passive = out_of_range[0] if how.rule == "coco" else truths["difficult"]
    pairs_of = _RULES[how.rule]
    found, ignored = pairs_of(detection, truth, overlap, thresholds, group, passive, truths["crowd"])
    ignored |= (found < 0) & out_of_range[1]
    return Matches(
        classes=classes,
        iou_thresholds=how.iou_thresholds,
        num_images=num_images,
        images=detections["image"],
        labels=detections["labels"],
        scores=detections["scores"],
        boxes=detections["boxes"],
        found=found,
        ignored=ignored,
        truth_images=truths["image"],
        truth_labels=truths["labels"],
        truth_boxes=truths["boxes"],
        truth_ignored=passive | truths["crowd"],
    )


def _match_voc(
    detection: np.ndarray,
    truth: np.ndarray,
    overlap: np.ndarray,
    thresholds: np.ndarray,
    group: np.ndarray,
    difficult: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return found and ignored, ``(T, D)``, of pairs of detection and truth; detection 0 has the highest score."""
    region = crowd[truth]
    in_crowd = np.zeros((len(thresholds), len(group)), bool)
    at, inside = np.nonzero(overlap[region] >= thresholds[:, None])
    in_crowd[at, detection[region][inside]] = True
    detection, truth, iou = detection[~region], truth[~region], overlap[~region]
    found = np.full((len(thresholds), len(group)), -1, np.int32)
    ignored = np.zeros(found.shape, bool)
    order = np.lexsort((truth, -iou, detection))
    best = order[_first(detection[order])]  # each detection's pair of highest IoU, the earlier truth on a tie
    for t, threshold in enumerate(thresholds):
        near = best[iou[best] >= threshold]
        ignored[t, detection[near]] = difficult[truth[near]]
        near = near[~difficult[truth[near]]]
        claimed, claimant = np.unique(truth[near], return_index=True)  # the claimant of highest score
        found[t, detection[near[claimant]]] = claimed
    return found, ignored | (in_crowd & (found < 0))


def _match_coco(
    detection: np.ndarray,
    truth: np.ndarray,
    overlap: np.ndarray,
    thresholds: np.ndarray,
    group: np.ndarray,
    out_of_range: np.ndarray,
    crowd: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return found and ignored, ``(T, D)``: in turn, the r-th detections of all groups find their best free truths."""
    found = np.full((len(thresholds), len(group)), -1, np.int32)
    ignored = np.zeros(found.shape, bool)
    free = np.ones((len(thresholds), len(crowd)), bool)
    passive = out_of_range | crowd  # taken only by detections that find no other truth
    order = np.lexsort((-truth, -overlap, passive[truth], detection))  # best first, the later truth on a tie
    order = order[overlap[order] >= thresholds.min()]
    detection, truth, overlap = detection[order], truth[order], overlap[order]
    contender = _first(detection)
    turn = np.repeat(_rank(group[detection[contender]]), np.diff(np.append(contender, len(detection))))
    for r in range(turn.max(initial=-1) + 1):
        pair = np.flatnonzero(turn == r)
        possible = free[:, truth[pair]] & (overlap[pair] >= thresholds[:, None])
        place = np.where(possible, np.arange(len(pair)), len(pair))
        best = np.minimum.reduceat(place, _first(detection[pair]), axis=1)  # (T, detections of this turn)
        t, d = np.nonzero(best < len(pair))
        taken = pair[best[t, d]]
        ignored[t, detection[taken]] = passive[truth[taken]]
        found[t, detection[taken]] = np.where(passive[truth[taken]], -1, truth[taken])
        free[t, truth[taken]] = crowd[truth[taken]]  # any number of detections may lie in a crowd
    return found, ignored


_RULES = {"voc": _match_voc, "coco": _match_coco}


def _out_of_range(boxes: np.ndarray, area_range: tuple[float, float] | None) -> np.ndarray:
    if area_range is None:
        return np.zeros(len(boxes), bool)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return (area < area_range[0]) | (area > area_range[1])


def _first(ordered: np.ndarray) -> np.ndarray:
    """Return the index at which each run of equal values starts."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _rank(group: np.ndarray) -> np.ndarray:
    """Return each item's position, from 0, among the items of its group, in their order."""
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return rank


def pairs_within(group: np.ndarray, other_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all pairs of an item of the first and an item of the second that share their group.

    Args:
        group: ``(N,)`` number of each item's group.
        other_group: ``(M,)`` likewise.

    Returns:
        ``(P,)`` twice: the first item of each pair, ascending, and the second.

    Example:
        >>> [i.tolist() for i in pairs_within(np.array([0, 1]), np.array([1, 0, 1]))]
        [[0, 1, 1], [1, 0, 2]]
    """
    order = np.argsort(other_group, kind="stable")
    low = np.searchsorted(other_group[order], group, side="left")
    count = np.searchsorted(other_group[order], group, side="right") - low
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(group)), count), order[np.repeat(low, count) + within]


def overlap_of(boxes: np.ndarray, others: np.ndarray, extra: float, *, of_first: bool) -> np.ndarray:
    """Return the IoU of each box with its partner, or the share of the box in it.

    Args:
        boxes: ``(P, 4)`` xyxy pixels.
        others: ``(P, 4)``, the partners.
        extra: added to widths and heights: 1 as the VOC development kit does, otherwise 0.
        of_first: whether to divide by the area of the box instead of the union.

    Returns:
        ``(P,)`` in [0, 1]; 0 where both are empty.
    """
    ax1, ay1, ax2, ay2 = boxes.T
    bx1, by1, bx2, by2 = others.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + extra, 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1) + extra, 0)
    overlap = width * height
    area = (ax2 - ax1 + extra) * (ay2 - ay1 + extra)
    whole = area if of_first else area + (bx2 - bx1 + extra) * (by2 - by1 + extra) - overlap
    return np.divide(overlap, whole, out=np.zeros_like(overlap), where=overlap > 0)
