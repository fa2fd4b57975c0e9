"""Box against box: formats, area, overlap, clipping and non-maximum suppression. Pure functions, no state.

All take any leading axes, keep the dtype and device, and give empty results of the right shape for empty input.
Areas and overlaps of half-precision boxes come in float32, as a whole image has more pixels than float16 can count.
Overlaps and their gradients are finite for boxes without area, too: a share of nothing is 0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache

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


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn COCO's top left corner and size into corners.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, w, h``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, x2, y2``, same unit.

    Example:
        >>> xywh_to_xyxy(torch.tensor([3.0, 4.0, 4.0, 2.0]))
        tensor([3., 4., 7., 6.])
    """
    x1, y1, w, h = boxes.unbind(-1)
    return torch.stack((x1, y1, x1 + w, y1 + h), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Turn corners into COCO's top left corner and size.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, x2, y2``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, w, h``, same unit.

    Example:
        >>> xyxy_to_xywh(torch.tensor([3.0, 4.0, 7.0, 6.0]))
        tensor([3., 4., 4., 2.])
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, y1, x2 - x1, y2 - y1), -1)


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


def iou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Give the intersection over union of every box with every other one.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: False: each box with its counterpart alone, both ``(..., 4)``.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [0, 1]; 0 where both boxes have no area.

    Example:
        >>> iou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 4.0], [20.0, 20.0, 30.0, 30.0]]))
        tensor([[0.4444, 0.0000]])
    """
    shared, union = _overlap(*_paired(boxes, others, pairwise))
    return _share(shared, union)


def giou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Give the generalised IoU: less by the share of the box around both that neither fills.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: False: each box with its counterpart alone, both ``(..., 4)``.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [-1, 1].

    Example:
        >>> giou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 4.0], [9.0, 9.0, 18.0, 18.0]]))
        tensor([[ 0.4444, -0.5000]])

    Source:
        Rezatofighi et al. 2019, arXiv:1902.09630, algorithm 1.
    """
    boxes, others = _paired(boxes, others, pairwise)
    shared, union = _overlap(boxes, others)
    around = area(_hull(boxes, others))
    return _share(shared, union) - _share(around - union, around)


def diou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Give the distance IoU: less by the squared distance of the centres, over that of the corners around both.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: False: each box with its counterpart alone, both ``(..., 4)``.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, in [-1, 1].

    Example:
        >>> diou(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0], [9.0, 9.0, 18.0, 18.0]]))
        tensor([[ 1.0000, -0.2500]])

    Source:
        Zheng et al. 2020, arXiv:1911.08287, equation 7.
    """
    boxes, others = _paired(boxes, others, pairwise)
    return _share(*_overlap(boxes, others)) - _distance(boxes, others)


def ciou(boxes: Tensor, others: Tensor, *, pairwise: bool = True) -> Tensor:
    """Give the complete IoU: the distance IoU, less by how much the aspect ratios differ.

    Args:
        boxes: ``(..., N, 4)`` xyxy; the leading axes broadcast with those of ``others``.
        others: ``(..., M, 4)`` xyxy, same unit.
        pairwise: False: each box with its counterpart alone, both ``(..., 4)``.

    Returns:
        ``(..., N, M)``, or ``(...)`` if not pairwise, at most 1. The weight of the aspect ratio is taken as a constant
        in the gradient, as its authors do.

    Example:
        >>> ciou(torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 4.0]]))
        tensor([[1.0000, 0.4655]])

    Source:
        Zheng et al. 2020, arXiv:1911.08287, equations 8 to 11.
    """
    boxes, others = _paired(boxes, others, pairwise)
    overlap = _share(*_overlap(boxes, others))
    unlike = (_aspect(boxes) - _aspect(others)) ** 2 * (4 / math.pi**2)
    weight = _share(unlike, 1 - overlap + unlike).detach()
    return overlap - _distance(boxes, others) - weight * unlike


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
    max_candidates: int | None = None,
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
        max_candidates: only the best so many take part.
        max_output: at most so many.
        compiled: use torchvision's compiled kernel; False: pure torch, exportable, the same result (but for an IoU
            nearer to the threshold than rounding).

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
    order = None
    if max_candidates is not None or not compiled:
        order = scores.sort(descending=True, stable=True).indices[:max_candidates]
        boxes, scores, labels = boxes[order], scores[order], None if labels is None else labels[order]
    kept = _nms_compiled(boxes, scores, iou_threshold, labels) if compiled else _nms_pure(boxes, iou_threshold, labels)
    return (kept if order is None else order[kept])[:max_output]


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    method: str = "gaussian",
    iou_threshold: float = 0.45,
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    labels: Tensor | None = None,
    max_candidates: int | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Lower the scores of boxes that overlap a better one, instead of removing them.

    The best box is taken, the scores of all that are left fall by their overlap with it, and so on.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)`` in [0, 1].
        method: ``"gaussian"``: every score falls to its ``exp(-IoU² / sigma)``; ``"linear"``: to its ``1 - IoU`` where
            the IoU is above the threshold.
        iou_threshold: in [0, 1]; of the linear method.
        sigma: above 0; of the Gaussian method.
        score_threshold: at least 0; a box whose score is not above it is dropped.
        labels: ``(N,)`` int; boxes of different labels don't lower each other. None: all do.
        max_candidates: only the best so many take part.
        max_output: at most so many.

    Returns:
        ``(M,) int64`` indices in the order they were taken, and ``(M,)`` their new scores, descending; without
        gradient.

    Raises:
        ValueError: for an unknown method, or a sigma or score threshold out of range.

    Example:
        >>> b = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> soft_nms(b, torch.tensor([0.9, 0.8, 0.5]), method="linear")
        (tensor([0, 2, 1]), tensor([0.9000, 0.5000, 0.4000]))

    Source:
        Bodla et al. 2017, arXiv:1704.04503, figure 2 and section 3; "above the threshold" as in `nms`.
    """
    indices, lowered = batched_nms(
        boxes[None],
        scores[None],
        iou_threshold,
        labels=None if labels is None else labels[None],
        method=_soft_method(method),
        sigma=sigma,
        score_threshold=score_threshold,
        max_candidates=max_candidates,
        max_output=max_output,
    )
    return indices[0], lowered[0]


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.45,
    *,
    labels: Tensor | None = None,
    valid: Tensor | None = None,
    method: str = "hard",
    sigma: float = 0.5,
    score_threshold: float = 0.001,
    max_candidates: int | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `nms` or `soft_nms` on every image of a batch.

    Args:
        boxes: ``(B, N, 4)`` xyxy. The soft methods hold a few ``(B, N, N)`` in memory: set ``max_candidates`` there.
        scores: ``(B, N)``.
        iou_threshold: in [0, 1].
        labels: ``(B, N)`` int; boxes of different labels don't concern each other. None: all do.
        valid: ``(B, N) bool``; False for padding, which takes no part.
        method: ``"hard"``, ``"linear"`` or ``"gaussian"``.
        sigma: of the Gaussian method.
        score_threshold: of the soft methods.
        max_candidates: of each image.
        max_output: of each image.

    Returns:
        Indices ``(B, M) int64``, −1 for padding, and scores ``(B, M)``, 0 for padding; each row as the single image
        gives it. M is the largest count in the batch.

    Raises:
        ValueError: as `soft_nms`.

    Example:
        >>> b = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]])
        >>> valid = torch.tensor([[True, True, True], [True, True, False]])
        >>> batched_nms(b.expand(2, 3, 4), torch.tensor([0.8, 0.9, 0.5]).expand(2, 3), valid=valid)[0]
        tensor([[ 1,  2],
                [ 1, -1]])
    """
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    best, order = scores.sort(descending=True, stable=True)
    best, order = best[:, :max_candidates], order[:, :max_candidates]
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    labels = None if labels is None else labels.gather(1, order)
    if method == "hard":
        kept = _keep(boxes, best, iou_threshold, labels, None if valid is None else valid.gather(1, order))
        most = int(kept.sum(1).max()) if kept.numel() else 0
        ranks = (~kept).sort(stable=True).indices[:, :most][:, :max_output]
        chosen, lowered = kept.gather(1, ranks), best.gather(1, ranks)
    else:
        ranks, lowered = _soften(
            boxes,
            best,
            labels,
            method=_soft_method(method),
            iou_threshold=iou_threshold,
            sigma=sigma,
            score_threshold=score_threshold,
            max_output=max_output,
        )
        chosen = lowered > score_threshold
    return order.gather(1, ranks).masked_fill(~chosen, -1), lowered.masked_fill(~chosen, 0)


def _widened(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _paired(boxes: Tensor, others: Tensor, pairwise: bool) -> tuple[Tensor, Tensor]:
    """Give two sets of boxes that meet by broadcasting: (..., N, 1, 4) and (..., 1, M, 4), or as they are."""
    boxes, others = _widened(boxes), _widened(others)
    return (boxes.unsqueeze(-2), others.unsqueeze(-3)) if pairwise else (boxes, others)


def _overlap(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Give the areas that two boxes share, and that they fill together."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    u1, v1, u2, v2 = others.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
    shared = width * height
    return shared, area(boxes) + area(others) - shared


def _hull(boxes: Tensor, others: Tensor) -> Tensor:
    """Give the smallest box around two."""
    corners = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    return torch.cat(corners, -1)


def _distance(boxes: Tensor, others: Tensor) -> Tensor:
    """Give the squared distance of two centres over that of the corners of the hull."""
    between = (boxes[..., :2] + boxes[..., 2:] - others[..., :2] - others[..., 2:]) / 2
    hull = _hull(boxes, others)
    across = hull[..., 2:] - hull[..., :2]
    return _share((between**2).sum(-1), (across**2).sum(-1))


def _aspect(boxes: Tensor) -> Tensor:
    """Give the angle whose tangent is width over height; 0 for a box of no extent."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    extended = width**2 + height**2 > 0
    return torch.where(extended, torch.atan2(width, torch.where(extended, height, 1)), 0)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, with 0 and no slope where the whole is nothing."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


_FLOAT = struct.Struct("f")
# Up to so many boxes one call on classes moved apart is faster than a call for each class.
_FEW = 750


@cache
def _torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    import torchvision  # noqa: F401, registers the kernel

    return torch.ops.torchvision.nms.default


def _nms_compiled(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    torchvision_nms = _torchvision_nms()
    exact = threshold
    if boxes.dtype == scores.dtype == torch.float32:
        boxes, scores = boxes.detach(), scores.detach()
    else:
        dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
        boxes, scores = boxes.detach().to(dtype), scores.detach().to(dtype)
    if boxes.dtype == torch.float32:
        threshold = _FLOAT.unpack(_FLOAT.pack(threshold))[0]  # or a float32 IoU of 0.6 would be more than 0.6
    if labels is None or len(boxes) < 2:
        return torchvision_nms(boxes, scores, threshold)
    if len(boxes) <= _FEW:
        low, high = map(float, boxes.aminmax())
        if (high - low) * float(labels.abs().max()) < 2**24:  # float64 moves float32 boxes so far without rounding
            apart = labels.double() * (high - low + 1)
            return torchvision_nms(boxes + apart[:, None], scores.double(), exact)
    by_label, members = labels.sort()
    counts = by_label.unique_consecutive(return_counts=True)[1].tolist()
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    groups = zip(boxes[members].split(counts), scores[members].split(counts), members.split(counts), strict=True)
    keep[torch.cat([own[torchvision_nms(b, s, threshold)] for b, s, own in groups])] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].sort(descending=True, stable=True).indices]


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


def _keep(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None, valid: Tensor | None) -> Tensor:
    """Give ``(B, N) bool``, what `nms` keeps of each image: one call, with image and label as the label."""
    image = torch.arange(len(boxes), device=boxes.device)[:, None].expand(scores.shape)
    group = image
    if labels is not None and labels.numel():
        first = labels.min()
        group = image * (labels.max() - first + 1) + labels - first
    kept = torch.zeros_like(scores, dtype=torch.bool)
    entrants = (~kept if valid is None else valid).flatten().nonzero().squeeze(1)
    boxes, scores, group = (t.flatten(0, 1)[entrants] for t in (boxes, scores, group))
    kept.view(-1)[entrants[nms(boxes, scores, threshold, labels=group)]] = True
    return kept


def _soft_method(method: str) -> str:
    if method not in ("linear", "gaussian"):
        raise ValueError(f"unknown method of soft suppression {method!r}; known: 'linear', 'gaussian'")
    return method


@torch.no_grad()
def _soften(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    *,
    method: str,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    max_output: int | None,
) -> tuple[Tensor, Tensor]:
    """Give ``(B, M)`` positions in the order they are taken, and their scores; none is at or below the threshold."""
    if not sigma > 0 or not score_threshold >= 0:
        raise ValueError(f"sigma is above 0 and score_threshold at least 0, got {sigma} and {score_threshold}")
    overlap = iou(boxes, boxes)
    if method == "gaussian":
        factor = (overlap**2 / -sigma).exp()
    else:
        factor = torch.where(overlap > iou_threshold, 1 - overlap, 1)
    if labels is not None:
        factor = torch.where(labels.unsqueeze(-1) == labels.unsqueeze(-2), factor, 1)
    image = torch.arange(len(scores), device=scores.device)
    left = _widened(scores).clamp(min=0)  # and 0 once taken, which no threshold lets through
    ranks, lowered = [], []
    for _ in range(scores.shape[1] if max_output is None else min(max_output, scores.shape[1])):
        best, rank = left.max(1)
        if not (best > score_threshold).any():
            break
        ranks.append(rank)
        lowered.append(best)
        left = left * factor[image, rank]
        left[image, rank] = 0
    if not ranks:
        return torch.zeros(len(scores), 0, dtype=torch.int64, device=scores.device), left[:, :0]
    return torch.stack(ranks, 1), torch.stack(lowered, 1)
