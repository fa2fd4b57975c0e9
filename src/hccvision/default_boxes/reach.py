"""Coverage: which ground-truth boxes a set of default boxes can be matched with by overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from hccvision.boxes.formats import cxcywh_to_xyxy
from hccvision.boxes.overlap import area, iou


def reachable(default_boxes: Tensor, boxes: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Return which ground-truth boxes reach the IoU threshold with any default box.

    The others are learned from a single default box, the one that is forced on them.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(N, 4)`` ground truth, xyxy in the unit of the default boxes.
        iou_threshold: in [0, 1].

    Returns:
        ``(N,) bool``.

    Example:
        >>> from hccvision.default_boxes.grid import generate
        >>> reachable(generate("ssd300_mobilenet"), torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.3, 0.3, 0.6, 0.6]]))
        tensor([False,  True])
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.bool, device=boxes.device)
    corners = cxcywh_to_xyxy(default_boxes)
    return torch.cat([iou(chunk, corners).max(1).values >= iou_threshold for chunk in boxes.split(256)])


@dataclass(frozen=True)
class Coverage:
    """How many ground-truth boxes reach the IoU threshold with any default box, in total and by size.

    Args:
        reached: number of boxes that do.
        count: number of all boxes.
        bins: ``(from, to, reached, count)`` for each range of sizes; the size of a box is the square root of the
            fraction of the image that it covers.

    Example:
        >>> print(Coverage(3, 4, ((0.0, 0.1, 0, 1), (0.1, 1.0, 3, 3))))
        75.0 % of 4 truths can reach the overlap (size 0-10 %: 0 of 1; 10-100 %: 3 of 3)
    """

    reached: int
    count: int
    bins: tuple[tuple[float, float, int, int], ...] = ()

    @property
    def share(self) -> float:
        """Fraction in [0, 1]; NaN without ground truth."""
        return self.reached / self.count if self.count else math.nan

    def __str__(self) -> str:
        bins = "; ".join(f"{100 * a:g}-{100 * b:g} %: {reached} of {count}" for a, b, reached, count in self.bins)
        share = f"{100 * self.share:.1f} %" if self.count else "none"
        return f"{share} of {self.count} truths can reach the overlap" + (f" (size {bins})" if bins else "")


def coverage(
    default_boxes: Tensor,
    boxes: Tensor,
    *,
    iou_threshold: float = 0.5,
    edges: Sequence[float] = (0.05, 0.1, 0.15, 0.25, 0.5),
) -> Coverage:
    """Count, by size, the ground-truth boxes that reach the IoU threshold with any default box.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``, in fractions of the image sides.
        boxes: ``(N, 4)`` ground truth, xyxy in fractions of the image sides.
        iou_threshold: in [0, 1].
        edges: between the ranges of sizes, ascending, in (0, 1).

    Returns:
        The counts, without ranges that have no box.

    Raises:
        ValueError: if the edges are not ascending or out of range.

    Example:
        >>> from hccvision.default_boxes.grid import generate
        >>> lesions = torch.tensor([[0.4, 0.4, 0.52, 0.52], [0.3, 0.3, 0.6, 0.6]])
        >>> print(coverage(generate("ssd300_mobilenet"), lesions))
        50.0 % of 2 truths can reach the overlap (size 10-15 %: 0 of 1; 25-50 %: 1 of 1)
    """
    limits = [0.0, *edges, 1.0]
    if any(not a < b for a, b in pairwise(limits)):
        raise ValueError(f"edges ascend within (0, 1), got {tuple(edges)}")
    reached = reachable(default_boxes, boxes, iou_threshold=iou_threshold)
    place = torch.bucketize(area(boxes).sqrt(), torch.tensor(edges, device=boxes.device), right=True)
    bins = []
    for number, (low, high) in enumerate(pairwise(limits)):
        members = place == number
        if bool(members.any()):
            bins.append((low, high, int(reached[members].sum()), int(members.sum())))
    return Coverage(int(reached.sum()), len(boxes), tuple(bins))
