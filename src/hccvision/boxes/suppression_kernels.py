"""Arithmetic of non-maximum suppression: torchvision's compiled kernel, a form in pure torch, and soft suppression."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from hccvision.boxes.overlap import iou, widened

_FLOAT = struct.Struct("f")
# Up to this many boxes, one call on boxes shifted apart by class is faster than one call per class.
_FEW = 750


@cache
def _torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    import torchvision  # noqa: F401, registers the kernel

    return torch.ops.torchvision.nms.default


def compiled_nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    """Run torchvision's compiled kernel, per label.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        threshold: highest IoU of two boxes that are both kept.
        labels: ``(N,)`` int, or None.

    Returns:
        ``(M,) int64`` indices of the boxes kept, by descending score.
    """
    torchvision_nms = _torchvision_nms()
    exact = threshold
    if boxes.dtype == scores.dtype == torch.float32:
        boxes, scores = boxes.detach(), scores.detach()
    else:
        dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
        boxes, scores = boxes.detach().to(dtype), scores.detach().to(dtype)
    if boxes.dtype == torch.float32:
        threshold = _FLOAT.unpack(_FLOAT.pack(threshold))[0]  # as float32: else an IoU of exactly 0.6 exceeds 0.6
    if labels is None or len(boxes) < 2:
        return torchvision_nms(boxes, scores, threshold)
    if len(boxes) <= _FEW:
        low, high = map(float, boxes.aminmax())
        if (high - low) * float(labels.abs().max()) < 2**24:  # shifts float32 boxes in float64 without rounding
            shift = labels.double() * (high - low + 1)
            return torchvision_nms(boxes + shift[:, None], scores.double(), exact)
    by_label, members = labels.sort()
    counts = by_label.unique_consecutive(return_counts=True)[1].tolist()
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    groups = zip(boxes[members].split(counts), scores[members].split(counts), members.split(counts), strict=True)
    keep[torch.cat([own[torchvision_nms(b, s, threshold)] for b, s, own in groups])] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].sort(descending=True, stable=True).indices]


def pure_nms(boxes: Tensor, threshold: float, labels: Tensor | None) -> Tensor:
    """Run greedy suppression in pure torch, as the fixed point of Cluster-NMS.

    Args:
        boxes: ``(N, 4)`` xyxy, by descending score.
        threshold: highest IoU of two boxes that are both kept.
        labels: ``(N,)`` int, or None.

    Returns:
        ``(M,) int64`` indices of the boxes kept, ascending.
    """
    removes = (iou(boxes, boxes) > threshold).triu(diagonal=1)
    if labels is not None:
        removes &= labels[:, None] == labels[None, :]
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:
        updated = ~(removes & keep[:, None]).any(0)
        if torch.equal(updated, keep):
            return keep.nonzero().squeeze(1)
        keep = updated


def decay_factors(boxes: Tensor, labels: Tensor | None, *, method: str, iou_threshold: float, sigma: float) -> Tensor:
    """Compute by what factor each box, once selected, multiplies the score of every other box.

    Args:
        boxes: ``(B, N, 4)`` xyxy.
        labels: ``(B, N)`` int, or None.
        method: ``"linear"`` or ``"gaussian"``.
        iou_threshold: of the linear method, in [0, 1].
        sigma: of the Gaussian method, above 0.

    Returns:
        ``(B, N, N)`` in [0, 1].
    """
    overlap = iou(boxes, boxes)
    if method == "gaussian":
        factor = (overlap**2 / -sigma).exp()
    else:
        factor = torch.where(overlap > iou_threshold, 1 - overlap, 1)
    if labels is not None:
        factor = torch.where(labels.unsqueeze(-1) == labels.unsqueeze(-2), factor, 1)
    return factor


@torch.no_grad()
def soften(scores: Tensor, factors: Tensor, *, score_threshold: float, max_output: int | None) -> tuple[Tensor, Tensor]:
    """Select the highest score of each image, decay the scores that are left, and repeat.

    Args:
        scores: ``(B, N)``.
        factors: ``(B, N, N)``, see `decay_factors`.
        score_threshold: a score that is not above it is not selected.
        max_output: at most this many are selected per image; None: no limit.

    Returns:
        ``(B, M)`` indices in the order of selection, and ``(B, M)`` decayed scores. Entries whose score is not above
        the threshold are padding.
    """
    image = torch.arange(len(scores), device=scores.device)
    left = widened(scores).clamp(min=0)  # set to 0 once selected: no threshold lets that through
    ranks, decayed = [], []
    for _ in range(scores.shape[1] if max_output is None else min(max_output, scores.shape[1])):
        best, rank = left.max(1)
        if not (best > score_threshold).any():
            break
        ranks.append(rank)
        decayed.append(best)
        left = left * factors[image, rank]
        left[image, rank] = 0
    if not ranks:
        return torch.zeros(len(scores), 0, dtype=torch.int64, device=scores.device), left[:, :0]
    return torch.stack(ranks, 1), torch.stack(decayed, 1)
