"""Split conformal guarantees: a threshold that bounds the misses, and a margin around boxes that covers the lesion.

Both are chosen on patients who were neither trained on nor are those of the evaluation, and hold on average for new
patients like them, whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from hccvision.metrics.comparison import Comparison
from hccvision.metrics.matches import Matches


def bound_misses(comparison: Comparison, share: float, *, iou_threshold: float = 0.5) -> float:
    """Choose the highest score threshold that keeps the expected share of missed lesions of a patient below a limit.

    Args:
        comparison: of detections and truths of calibration patients; where not all are known, each image counts as one.
            The detections must reach down to low scores.
        share: of a patient's lesions that may be missed, in (0, 1).
        iou_threshold: a match needs at least this IoU; by the VOC rule.

    Returns:
        The threshold: pass it to `Detections.above`.

    Raises:
        ValueError: if ``share`` is out of range, there are too few patients with lesions for it, or even without a
            threshold too many lesions are missed; states what can be reached.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}] * 9
        >>> found = [{"boxes": [[0, 0, 10, 10]], "labels": [0], "scores": [i / 10]} for i in range(1, 10)]
        >>> bound_misses(Comparison(found, truths, classes=("hcc",)), 0.3)
        0.3

    Source:
        Angelopoulos et al., "Conformal risk control", ICLR 2024.
    """
    _check_share("share", share)
    m = comparison.matches((iou_threshold,))
    score = np.full(len(m.truth_labels), -np.inf)
    hit = m.hits[0]
    score[m.found[0, hit]] = m.scores[hit]
    counted = ~m.truth_ignored
    case = _cases(comparison, m)[m.truth_images[counted]]
    names, case = np.unique(case, return_inverse=True)
    n = len(names)
    if n + 1 < 1 / share:
        raise ValueError(
            f"at most {share:g} of a patient's lesions missed needs at least {math.ceil(1 / share) - 1} patients with "
            f"lesions, got {n}: add patients, or allow {1 / (n + 1):.3g}"
        )
    weight = 1 / np.bincount(case)[case]  # a lesion's share of its patient's
    order = np.argsort(score[counted], kind="stable")
    scores, missed = score[counted][order], np.cumsum(weight[order])
    risk = (np.append(0.0, missed) + 1) / (n + 1)  # if the first k lesions are missed
    allowed = int(np.flatnonzero(risk <= share + 1e-12)[-1]) if risk[0] <= share + 1e-12 else 0
    if allowed == len(scores):
        return float(np.nextafter(scores[-1], np.inf))
    if scores[allowed] == -np.inf:
        never = (weight[order][scores == -np.inf].sum() + 1) / (n + 1)
        raise ValueError(
            f"expected at most {share:g} of a patient's lesions missed, but without any threshold it is {never:.3g}: "
            "predict with a lower score_threshold, train on, or allow more"
        )
    return float(scores[allowed])


def box_margin(comparison: Comparison, rate: float = 0.9, *, iou_threshold: float = 0.5) -> float:
    """Choose by how much boxes are to be enlarged to cover the lesions that they found.

    Args:
        comparison: as in `bound_misses`.
        rate: of patients whose found lesions are all covered, in (0, 1).
        iou_threshold: a match needs at least this IoU; by the VOC rule.

    Returns:
        The margin on every side, as a share of the box's width (left, right) and height (top, bottom); 0 or more. See
        `enlarge`.

    Raises:
        ValueError: if ``rate`` is out of range, or there are too few patients with found lesions for it.

    Example:
        >>> truths = [{"boxes": [[0, 0, 10, 10]], "labels": [0]}] * 9
        >>> found = [{"boxes": [[i, 0, 10, 10]], "labels": [0], "scores": [1]} for i in (0, 0, 0, 0, 0, 0, 0, 1, 2)]
        >>> box_margin(Comparison(found, truths, classes=("hcc",)), 0.9)
        0.25

    Source:
        Andéol et al., "Confident object detection via conformal prediction and conformal risk control", COPA 2023;
        the largest excess of a patient as his score keeps the guarantee by patient.
    """
    _check_share("rate", rate)
    m = comparison.matches((iou_threshold,))
    hit = np.flatnonzero(m.hits[0])
    boxes, truths = m.boxes[hit], m.truth_boxes[m.found[0, hit]]
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    excess = np.maximum(boxes - truths, 0), np.maximum(truths - boxes, 0)
    beyond = np.where([True, True, False, False], *excess) / sides
    names, case = np.unique(_cases(comparison, m)[m.images[hit]], return_inverse=True)
    largest = np.zeros(len(names))
    np.maximum.at(largest, case, beyond.max(1, initial=0))
    rank = math.ceil((len(names) + 1) * rate - 1e-9)
    if rank > len(names):
        needed = math.ceil(rate / (1 - rate) - 1e-9)
        raise ValueError(
            f"a rate of {rate:g} needs at least {needed} patients with found lesions, got {len(names)}: add patients, "
            f"or ask for {len(names) / (len(names) + 1):.3g}"
        )
    return float(np.sort(largest)[rank - 1])


def enlarge(boxes: np.ndarray, margin: float, size: tuple[int, int] | None = None) -> np.ndarray:
    """Enlarge boxes by a margin.

    Args:
        boxes: ``(N, 4)`` xyxy pixels.
        margin: on every side, as a share of the box's width or height, 0 or more.
        size: ``(height, width)`` of the image, to which the boxes are clipped; None: they are not.

    Returns:
        ``(N, 4)`` boxes.

    Raises:
        ValueError: for a negative margin.

    Example:
        >>> enlarge(np.array([[10.0, 10, 20, 30]]), 0.1)
        array([[ 9.,  8., 21., 32.]])
    """
    if not margin >= 0:
        raise ValueError(f"expected a margin of 0 or more, got {margin}")
    boxes = np.asarray(boxes, np.float64)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2) * margin
    grown = boxes + sides * [-1, -1, 1, 1]
    return grown if size is None else np.clip(grown, 0, [size[1], size[0]] * 2)


def _cases(comparison: Comparison, matches: Matches) -> np.ndarray:
    """Return the number of each image's patient; each image its own where not all patients are known."""
    names: Sequence[Hashable] | None = comparison.patients
    if names is None or None in names:
        return np.arange(matches.num_images)
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names])


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"expected {name} in (0, 1), got {value}")
