"""Box against box: formats, area, overlap, clipping and non-maximum suppression. Pure functions, no state.

All take any leading axes, keep the dtype and device, and give empty results of the right shape for empty input.
Areas and overlaps of half-precision boxes come in float32, as a whole image has more pixels than float16 can count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size into corners.

    Args:
        boxes: ``(..., 4)`` as ``cx, cy, w, h``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, x2, y2``, same unit.

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([5.0, 5.0, 4.0, 2.0]))
        tensor([3., 4., 7., 6.])
    """
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turn corners into centre and size.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, x2, y2``, in any unit.

    Returns:
        ``(..., 4)`` as ``cx, cy, w, h``, same unit.

    Example:
        >>> xyxy_to_cxcywh(torch.tensor([3.0, 4.0, 7.0, 6.0]))
        tensor([5., 5., 4., 2.])
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)


def area(boxes: Tensor) -> Tensor:
    """Give the area of boxes; a box turned inside out has none.

    Args:
        boxes: ``(..., 4)`` xyxy.

    Returns:
        ``(...)``, never negative.

    Example:
        >>> area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 2.0, 1.0, 9.0]]))
        tensor([6., 0.])
    """
    x1, y1, x2, y2 = _widened(boxes).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Give the intersection over union of every box with every other one.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.

    Returns:
        ``(..., N, M)`` in [0, 1]; 0 where both boxes have no area.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 4.0], [20.0, 20.0, 30.0, 30.0]]))
        tensor([[0.4444, 0.0000]])
    """
    x1, y1, x2, y2 = _widened(boxes).unsqueeze(-2).unbind(-1)  # each (..., N, 1)
    u1, v1, u2, v2 = _widened(others).unsqueeze(-3).unbind(-1)  # each (..., 1, M)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    shared = width * height
    union = area(boxes).unsqueeze(-1) + area(others).unsqueeze(-2) - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1), 0)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes off at the borders of an image.

    Args:
        boxes: ``(..., 4)`` xyxy pixels.
        size: ``(height, width)`` of the image.

    Returns:
        ``(..., 4)``; a box wholly outside comes back without area.

    Example:
        >>> clip(torch.tensor([-5.0, 2.0, 50.0, 9.0]), (10, 20))
        tensor([ 0.,  2., 20.,  9.])
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), -1)


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.45,
    *,
    labels: Tensor | None = None,
    max_output: int | None = None,
    compiled: bool = True,
) -> Tensor:
    """Keep the best of every heap of boxes: greedy non-maximum suppression.

    Boxes are taken by descending score (the first of equals first); each removes those after it that overlap it by
    more than the threshold.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        iou_threshold: in [0, 1]; what overlaps a better box by more is removed.
        labels: ``(N,)`` int; boxes of different labels don't remove each other. None: all do.
        max_output: at most so many.
        compiled: use torchvision's compiled kernel; False: pure torch, the same result, exportable.

    Returns:
        ``(M,) int64`` indices of the boxes kept, best first.

    Example:
        >>> b = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> nms(b, torch.tensor([0.8, 0.9, 0.5]))
        tensor([1, 2])

    Source:
        Liu et al. 2016, SSD, section 2.3. The pure form is the fixed point of Cluster-NMS (Zheng et al. 2021,
        arXiv:2005.03572, section 3.4), which equals the greedy result.
    """
    order = scores.sort(descending=True, stable=True).indices
    suppress = _nms_compiled if compiled else _nms_pure
    ordered = boxes[order] if boxes.dtype == torch.float64 else boxes[order].float()
    kept = order[suppress(ordered, iou_threshold, None if labels is None else labels[order])]
    return kept[:max_output]


def _widened(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _nms_compiled(boxes: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    from torchvision.ops import nms as torchvision_nms

    rank = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    threshold = float(torch.tensor(threshold, dtype=boxes.dtype))  # or a float32 IoU of 0.6 would be more than 0.6
    if labels is None:
        return torchvision_nms(boxes, rank, threshold)
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for label in labels.unique():
        members = (labels == label).nonzero().squeeze(1)
        keep[members[torchvision_nms(boxes[members], rank[members], threshold)]] = True
    return keep.nonzero().squeeze(1)


def _nms_pure(boxes: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    removes = (iou(boxes, boxes) > threshold).triu(diagonal=1)
    if labels is not None:
        removes &= labels[:, None] == labels[None, :]
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        again = ~(removes & keep[:, None]).any(0)
        if torch.equal(again, keep):
            return keep.nonzero().squeeze(1)
        keep = again
