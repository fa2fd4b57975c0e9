"""Selection of candidates and suppression of duplicates, for one class score and box per default box."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hccvision.boxes.suppression import nms, soft_nms
from hccvision.contracts.outputs import Detections


class Candidates(NamedTuple):
    """Scores of a batch above a threshold.

    Args:
        image: ``(M,) int64``, index of the image, ascending.
        box: ``(M,) int64``, index of the default box.
        label: ``(M,) int64``, class id ``0 ... K-1``.
        score: ``(M,)`` in [0, 1].
    """

    image: Tensor
    box: Tensor
    label: Tensor
    score: Tensor


def select_candidates(logits: Tensor, score_threshold: float, most: int) -> Candidates:
    """Select the scores above a threshold, at most ``most`` per image and class.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        score_threshold: in [0, 1]; a score has to exceed it.
        most: highest number of candidates of each class in each image.

    Returns:
        The candidates.

    Example:
        >>> select_candidates(torch.tensor([[[0.0, 5.0], [5.0, 0.0]]]), 0.5, 200).box
        tensor([0])
    """
    # A score is at most what its class has against the background alone; for most boxes that is below the threshold.
    odds = max(score_threshold, 1e-300) / max(1 - score_threshold, 1e-300)
    possible = logits[..., 1:].amax(-1) - logits[..., 0] > math.log(odds) - 1e-3
    image, box = possible.nonzero(as_tuple=True)
    scores = logits[image, box].softmax(-1)[:, 1:]
    row, label = (scores > score_threshold).nonzero(as_tuple=True)
    found = Candidates(image[row], box[row], label, scores[row, label])
    if len(found.score) <= most:
        return found
    best = _best_of_each(found.image * (logits.shape[-1] - 1) + label, found.score, most)
    return Candidates(*(values[best] for values in found))


def suppress_duplicates(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: str,
    iou_threshold: float,
    score_threshold: float,
    max_detections: int,
    class_agnostic: bool,
) -> Detections:
    """Suppress the duplicate detections of one image.

    Args:
        boxes: ``(N, 4)`` xyxy pixels.
        scores: ``(N,)``.
        labels: ``(N,) int64``.
        method: ``"hard"``, ``"linear"`` or ``"gaussian"``, see `boxes.batched_nms`.
        iou_threshold: in [0, 1].
        score_threshold: of the soft methods, in [0, 1].
        max_detections: highest number of detections.
        class_agnostic: boxes of different classes suppress each other as well.

    Returns:
        The detections, by descending score.
    """
    own = None if class_agnostic else labels
    if method == "hard":
        best = nms(boxes, scores, iou_threshold, labels=own, max_output=max_detections)
        return Detections(boxes[best], scores[best], labels[best])
    best, lowered = soft_nms(
        boxes, scores, method=method, iou_threshold=iou_threshold, score_threshold=score_threshold, labels=own,
        max_output=max_detections,
    )  # fmt: skip
    return Detections(boxes[best], lowered, labels[best])


def _best_of_each(group: Tensor, score: Tensor, most: int) -> Tensor:
    """Return the indices, ascending, of the ``most`` highest scores of each group, the first of equal ones."""
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]  # group by group, by score within each
    ordered = group[order]
    rank = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return order[rank < most].sort().values
