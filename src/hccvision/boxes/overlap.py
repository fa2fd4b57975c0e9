"""Areas and overlaps of boxes: IoU and its generalised, distance and complete variants."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Compute the area of boxes; a box with ``x2 < x1`` or ``y2 < y1`` has none.

    Args:
        boxes: ``(..., 4)`` xyxy.

    Returns:
        ``(...)``, never negative.

    Example:
        >>> area(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 2.0, 1.0, 9.0]]))
        tensor([6., 0.])
    """
    x1, y1, x2, y2 = widened(boxes).unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def iou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Compute the intersection over union of boxes.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: compare every box with every other one. False: compare boxes at the same index, both ``(..., 4)``.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [0, 1]; 0 where both boxes have no area.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 4.0], [20.0, 20.0, 30.0, 30.0]]))
        tensor([[0.4444, 0.0000]])
    """
    intersection, union = _intersection_and_union(*_broadcastable(boxes, others, pairwise))
    return _ratio(intersection, union)


def share_inside(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the share of each box's own area that lies inside each other box.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.

    Returns:
        ``(..., N, M)`` in [0, 1]; 0 for a box without area.

    Example:
        >>> share_inside(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 99.0, 3.0]]))
        tensor([[0.3333]])
    """
    boxes, others = _broadcastable(boxes, others, pairwise=True)
    return _ratio(_intersection_and_union(boxes, others)[0], area(boxes))


def giou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Compute the generalised IoU: the IoU minus the fraction of the enclosing box that neither box covers.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: as in `iou`.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [-1, 1].

    Example:
        >>> giou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 4.0], [9.0, 9.0, 18.0, 18.0]]))
        tensor([[ 0.4444, -0.5000]])

    Source:
        Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 1.
    """
    boxes, others = _broadcastable(boxes, others, pairwise)
    intersection, union = _intersection_and_union(boxes, others)
    enclosing = area(_enclosing_box(boxes, others))
    return _ratio(intersection, union) - _ratio(enclosing - union, enclosing)


def diou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Compute the distance IoU: the IoU minus squared centre distance over squared diagonal of the enclosing box.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: as in `iou`.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [-1, 1].

    Example:
        >>> diou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 18.0, 18.0]]))
        tensor([[ 1.0000, -0.2500]])

    Source:
        Zheng et al. 2020, arXiv:1911.08287, equation 7.
    """
    boxes, others = _broadcastable(boxes, others, pairwise)
    return _ratio(*_intersection_and_union(boxes, others)) - _centre_distance(boxes, others)


def ciou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Compute the complete IoU: the distance IoU minus a penalty for different aspect ratios.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: as in `iou`.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, at most 1. As in the paper, the weight of the penalty is a
        constant in the gradient.

    Example:
        >>> ciou(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 4.0]]))
        tensor([[1.0000, 0.4655]])

    Source:
        Zheng et al. 2020, arXiv:1911.08287, equations 8 to 11.
    """
    boxes, others = _broadcastable(boxes, others, pairwise)
    overlap = _ratio(*_intersection_and_union(boxes, others))
    difference = (_aspect_angle(boxes) - _aspect_angle(others)) ** 2 * (4 / math.pi**2)
    weight = _ratio(difference, 1 - overlap + difference).detach()
    return overlap - _centre_distance(boxes, others) - weight * difference


def widened(values: Tensor) -> Tensor:
    """Convert half precision to float32; return any other dtype unchanged.

    Args:
        values: of any shape.

    Returns:
        The values, not in half precision.
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _broadcastable(boxes: Tensor, others: Tensor, pairwise: bool) -> tuple[Tensor, Tensor]:
    """Return shapes ``(..., N, 1, 4)`` and ``(..., 1, M, 4)``, or both unchanged if not pairwise."""
    boxes, others = widened(boxes), widened(others)
    return (boxes.unsqueeze(-2), others.unsqueeze(-3)) if pairwise else (boxes, others)


def _intersection_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = boxes.unbind(-1)
    u1, v1, u2, v2 = others.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    intersection = width * height
    return intersection, area(boxes) + area(others) - intersection


def _enclosing_box(boxes: Tensor, others: Tensor) -> Tensor:
    corners = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    return torch.cat(corners, -1)


def _centre_distance(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the squared distance of the centres over the squared diagonal of the enclosing box."""
    between = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    enclosing = _enclosing_box(boxes, others)
    diagonal = enclosing[..., 2:] - enclosing[..., :2]
    return _ratio((between**2).sum(-1), (diagonal**2).sum(-1))


def _aspect_angle(boxes: Tensor) -> Tensor:
    """Compute ``atan(width / height)``, 0 for a box of width and height 0."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    extended = width**2 + height**2 > 0
    return torch.where(extended, torch.atan2(width, torch.where(extended, height, 1)), 0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide; the result and its gradient are 0 where the whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)
