"""Detections matched to truths, image by image and class by class: what every figure of a detector counts on.

Plain numpy. ``predictions`` and ``truths`` are as in `hccvision.metrics.detection`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hccvision.metrics.statistics import as_array

Images = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of all images, best score first, with what became of them at T IoU thresholds.

    Args:
        classes: the K class names in order.
        num_images: also those without truths or detections.
        num_truths: ``(K,) int64``, per class; under the VOC rule without the difficult ones.
        labels: ``(N,) int64`` class ids of the detections.
        scores: ``(N,) float64``, descending.
        hits: ``(T, N) bool``, whether the detection found a truth that no better one had found.
        ignored: ``(T, N) bool``, whether it lies on a difficult truth and counts as neither hit nor miss.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}]
        >>> predictions = [{"boxes": [[0, 0, 10, 10], [0, 0, 10, 9]], "scores": [0.7, 0.9], "labels": [0, 0]}]
        >>> m = match(predictions, truths)
        >>> m.scores.tolist(), m.hits.tolist()
        ([0.9, 0.7], [[True, False]])
    """

    classes: tuple[str, ...]
    num_images: int
    num_truths: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    ignored: np.ndarray

    def flags(self, label: int, threshold: int = 0) -> np.ndarray:
        """Give hit or miss of one class's detections in score order, as `average_precision` takes them.

        Args:
            label: the class id.
            threshold: the index of the IoU threshold.

        Returns:
            ``(n,) bool``, those ignored left out.
        """
        return self.hits[threshold, (self.labels == label) & ~self.ignored[threshold]]


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
    """Match detections to truths of the same image and class, best score first, equal scores in the order given.

    ``"voc"``: each detection is held against the truth of highest IoU; if that is taken it is a miss, if that is
    difficult it is ignored. ``"coco"``: each takes the truth of highest IoU that is still free; difficult truths are
    ordinary ones, as COCO has no such thing.

    Args:
        predictions: one dictionary per image, as at the top of `hccvision.metrics.detection`.
        truths: likewise, in the same order.
        classes: the K class names in order; None names them ``"0", "1", ...``.
        num_classes: K, instead of ``classes``; without either, K reaches to the highest label.
        iou_thresholds: T values in (0, 1]; a match needs at least this IoU.
        rule: ``"voc"`` or ``"coco"``.
        max_detections: at most so many per image and class, the best; None is all.
        extra_pixel: measure boxes as the VOC development kit does, one pixel added to each width and height.

    Returns:
        The matches.

    Raises:
        ValueError: if there are no images, or shapes, labels, boxes or scores are not as above; names the image.
        TypeError: if an image is not a dictionary.

    Source:
        VOC: Everingham et al., IJCV 88 (2010), section 4.2, and VOCevaldet.m. COCO: ``evaluateImg`` of pycocotools.
    """
    if len(predictions) != len(truths):
        raise ValueError(
            f"expected predictions and truths of the same images, got {len(predictions)} and {len(truths)}"
        )
    if len(truths) == 0:
        raise ValueError("there are no images to score: expected at least one")
    if rule not in ("voc", "coco"):
        raise ValueError(f"expected the rule 'voc' or 'coco', got {rule!r}")
    if len(iou_thresholds) == 0 or not all(0 < t <= 1 for t in iou_thresholds):
        raise ValueError(f"expected IoU thresholds above 0 and up to 1, got {tuple(iou_thresholds)}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"expected max_detections of at least 1, or None for all, got {max_detections}")
    found = _gather(predictions, "predictions", ("boxes", "scores", "labels"))
    real = _gather(truths, "truths", ("boxes", "labels", "difficult"))
    names = _class_names(classes, num_classes, found["labels"], real["labels"])
    for gathered, kind in ((found, "predictions"), (real, "truths")):
        _check_labels(gathered, kind, names)

    best_first = np.argsort(-found["scores"], kind="stable")
    found = {field: values[best_first] for field, values in found.items()}
    group = found["image"] * len(names) + found["labels"]
    if max_detections is not None:
        kept = _rank(group) < max_detections
        found, group = {field: values[kept] for field, values in found.items()}, group[kept]
    detection, truth = _pairs(group, real["image"] * len(names) + real["labels"])
    iou = _iou(found["boxes"][detection], real["boxes"][truth], float(extra_pixel))

    thresholds = np.asarray(iou_thresholds, np.float64)
    ignored = np.zeros((len(thresholds), len(group)), bool)
    counted = real["labels"]
    if rule == "voc":
        hits, ignored = _match_voc(detection, truth, iou, thresholds, len(group), real["difficult"])
        counted = counted[~real["difficult"]]
    else:
        hits = _match_coco(detection, truth, iou, thresholds, group, len(counted))
    num_truths = np.bincount(counted, minlength=len(names))
    return Matches(names, len(truths), num_truths, found["labels"], found["scores"], hits, ignored)


def _match_voc(
    detection: np.ndarray,
    truth: np.ndarray,
    iou: np.ndarray,
    thresholds: np.ndarray,
    num_detections: int,
    difficult: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Give hits and ignored, ``(T, N)``, of pairs of detection and truth; detections count up from the best score."""
    hits, ignored = np.zeros((2, len(thresholds), num_detections), bool)
    order = np.lexsort((truth, -iou, detection))
    best = order[_first(detection[order])]  # each detection's pair of highest IoU, the earlier truth on a tie
    for t, threshold in enumerate(thresholds):
        near = best[iou[best] >= threshold]
        ignored[t, detection[near]] = difficult[truth[near]]
        near = near[~difficult[truth[near]]]
        _, claimant = np.unique(truth[near], return_index=True)  # the best-scored of those that claim a truth
        hits[t, detection[near[claimant]]] = True
    return hits, ignored


def _match_coco(
    detection: np.ndarray,
    truth: np.ndarray,
    iou: np.ndarray,
    thresholds: np.ndarray,
    group: np.ndarray,
    num_truths: int,
) -> np.ndarray:
    """Give hits ``(T, N)``: in turns, the r-th detection of every image and class at once takes its best free truth."""
    hits = np.zeros((len(thresholds), len(group)), bool)
    free = np.ones((len(thresholds), num_truths), bool)
    order = np.lexsort((-truth, -iou, detection))  # each detection's best first, the later truth on a tie
    order = order[iou[order] >= thresholds.min()]
    detection, truth, iou = detection[order], truth[order], iou[order]
    contender = _first(detection)
    turn = np.repeat(_rank(group[detection[contender]]), np.diff(np.append(contender, len(detection))))
    for r in range(turn.max(initial=-1) + 1):
        pair = np.flatnonzero(turn == r)
        possible = free[:, truth[pair]] & (iou[pair] >= thresholds[:, None])
        place = np.where(possible, np.arange(len(pair)), len(pair))
        best = np.minimum.reduceat(place, _first(detection[pair]), axis=1)  # (T, detections of this turn)
        t, d = np.nonzero(best < len(pair))
        taken = pair[best[t, d]]
        hits[t, detection[taken]] = True
        free[t, truth[taken]] = False
    return hits


def _first(ordered: np.ndarray) -> np.ndarray:
    """Give the index at which each run of equal values starts."""
    return np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])


def _rank(group: np.ndarray) -> np.ndarray:
    """Give each item's place, from 0, among the items of its group, in the order they stand."""
    order = np.argsort(group, kind="stable")
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    return rank


def _pairs(group: np.ndarray, other_group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the indices of all pairs of an item here and an item there that share their group."""
    order = np.argsort(other_group, kind="stable")
    low = np.searchsorted(other_group[order], group, side="left")
    count = np.searchsorted(other_group[order], group, side="right") - low
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(np.arange(len(group)), count), order[np.repeat(low, count) + within]


def _iou(boxes: np.ndarray, others: np.ndarray, extra: float) -> np.ndarray:
    """Give the IoU of each box with its partner, ``(P, 4)`` twice to ``(P,)``; 0 where both are empty."""
    ax1, ay1, ax2, ay2 = boxes.T
    bx1, by1, bx2, by2 = others.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + extra, 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1) + extra, 0)
    overlap = width * height
    areas = (ax2 - ax1 + extra) * (ay2 - ay1 + extra) + (bx2 - bx1 + extra) * (by2 - by1 + extra)
    return np.divide(overlap, areas - overlap, out=np.zeros_like(overlap), where=overlap > 0)


def _gather(images: Images, kind: str, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Join all images' rows into one array per field, with ``image``, the index of each row's image."""
    columns: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    for index, image in enumerate(images):
        if not isinstance(image, Mapping):
            raise TypeError(
                f"{kind}[{index}]: expected a dictionary with {', '.join(fields)}, got {type(image).__name__}; "
                "Detections gives one by as_dict()"
            )
        count = 0
        for field in fields:
            default = np.zeros(count, bool) if field == "difficult" else None
            if image.get(field, default) is None:
                raise ValueError(f"{kind}[{index}] lacks {field!r}: expected {', '.join(fields)}, got {list(image)}")
            rows = as_array(image.get(field, default))
            if field == "boxes":
                rows = rows if rows.size else rows.reshape(0, 4)
                count = len(rows) if rows.ndim else 0
            expected = (count, 4) if field == "boxes" else (count,)
            if rows.shape != expected:
                raise ValueError(f"{kind}[{index}]: expected {field} of shape {expected}, got {rows.shape}")
            if rows.dtype.kind not in "biuf":
                raise ValueError(f"{kind}[{index}]: expected {field} as numbers, got {rows.dtype}")
            columns[field].append(rows)
    joined = {field: np.concatenate(arrays) for field, arrays in columns.items()}
    joined["image"] = np.repeat(np.arange(len(images)), [len(rows) for rows in columns["boxes"]])
    _check_rows(joined, kind)
    kinds = {"boxes": np.float64, "scores": np.float64, "labels": np.int64, "difficult": np.bool_, "image": np.int64}
    return {field: rows.astype(kinds[field], copy=False) for field, rows in joined.items()}


def _check_rows(joined: dict[str, np.ndarray], kind: str) -> None:
    boxes, labels = joined["boxes"], joined["labels"]
    faults = {
        "boxes are not finite": ~np.isfinite(boxes).all(1),
        "boxes have x2 < x1 or y2 < y1 (expected xyxy, not xywh)": (boxes[:, 2:] < boxes[:, :2]).any(1),
        "labels are not whole numbers from 0": ~((labels >= 0) & (labels < 2**31) & (np.floor(labels) == labels)),
        "scores are not finite": ~np.isfinite(joined.get("scores", np.zeros(0))),
    }
    for fault, rows in faults.items():
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            values = joined[fault.split()[0]][row].tolist()
            raise ValueError(f"{kind}[{joined['image'][row]}]: {fault}: got {values}")


def _check_labels(joined: dict[str, np.ndarray], kind: str, names: tuple[str, ...]) -> None:
    beyond = np.flatnonzero(joined["labels"] >= len(names))
    if len(beyond):
        raise ValueError(
            f"{kind}[{joined['image'][beyond[0]]}]: got the label {joined['labels'][beyond[0]]}, expected 0 to "
            f"{len(names) - 1}, of the classes {', '.join(names)}; there is no background among them"
        )


def _class_names(classes: Sequence[str] | None, num_classes: int | None, *labels: np.ndarray) -> tuple[str, ...]:
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"expected num_classes of at least 1, got {num_classes}")
    if classes is None:
        count = num_classes if num_classes is not None else 1 + max(int(ids.max(initial=-1)) for ids in labels)
        return tuple(map(str, range(count)))
    if num_classes not in (None, len(classes)) or len(set(classes)) != len(classes):
        raise ValueError(f"expected {num_classes or ''} classes of different names, got {tuple(classes)}")
    return tuple(classes)
