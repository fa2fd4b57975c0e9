"""Non-maximum suppression: remove duplicate detections, or lower their scores."""

from __future__ import annotations

import torch
from torch import Tensor

from hccvision.boxes.suppression_kernels import compiled_nms, decay_factors, pure_nms, soften


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
    """Keep the best of each overlapping cluster: greedy non-maximum suppression.

    Boxes are visited by descending score, the first of equal ones first; each box that is kept removes all later ones
    that overlap it by more than the threshold.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)``.
        iou_threshold: highest IoU of two boxes that are both kept, in [0, 1].
        labels: ``(N,)`` int; only boxes of the same label suppress each other. None: all do.
        max_candidates: consider only this many boxes of highest score.
        max_output: keep at most this many.
        compiled: use torchvision's compiled kernel. False: use pure torch, which can be exported; the result is the
            same up to rounding of an IoU at the threshold.

    Returns:
        ``(M,) int64`` indices of the boxes kept, by descending score.

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
    kept = compiled_nms(boxes, scores, iou_threshold, labels) if compiled else pure_nms(boxes, iou_threshold, labels)
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

    The box of highest score is selected, the scores of the others decay with their overlap with it, and so on.

    Args:
        boxes: ``(N, 4)`` xyxy.
        scores: ``(N,)`` in [0, 1].
        method: ``"gaussian"`` multiplies each score by ``exp(-IoU² / sigma)``; ``"linear"`` multiplies it by
            ``1 - IoU`` where the IoU exceeds the threshold.
        iou_threshold: of the linear method, in [0, 1].
        sigma: of the Gaussian method, above 0.
        score_threshold: at least 0; boxes whose score is not above it are dropped.
        labels: ``(N,)`` int; only boxes of the same label affect each other. None: all do.
        max_candidates: consider only this many boxes of highest score.
        max_output: keep at most this many.

    Returns:
        ``(M,) int64`` indices in the order of selection, and ``(M,)`` new scores, descending, without gradient.

    Raises:
        ValueError: for an unknown method, or a sigma or score threshold out of range.

    Example:
        >>> b = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> soft_nms(b, torch.tensor([0.9, 0.8, 0.5]), method="linear")
        (tensor([0, 2, 1]), tensor([0.9000, 0.5000, 0.4000]))

    Source:
        Bodla et al. 2017, arXiv:1704.04503, figure 2 and section 3; "exceeds the threshold" as in `nms`.
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
        boxes: ``(B, N, 4)`` xyxy. The soft methods keep a few ``(B, N, N)`` tensors in memory: set ``max_candidates``.
        scores: ``(B, N)``.
        iou_threshold: in [0, 1].
        labels: ``(B, N)`` int; only boxes of the same label affect each other. None: all do.
        valid: ``(B, N) bool``, False for padding.
        method: ``"hard"`` for `nms`; ``"linear"`` or ``"gaussian"`` for `soft_nms`.
        sigma: of the Gaussian method.
        score_threshold: of the soft methods.
        max_candidates: per image, see `nms`.
        max_output: per image, see `nms`.

    Returns:
        Indices ``(B, M) int64``, −1 for padding, and scores ``(B, M)``, 0 for padding; each row equals the result for
        that image alone. M is the largest count in the batch.

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
        kept = _kept(boxes, best, iou_threshold, labels, None if valid is None else valid.gather(1, order))
        most = int(kept.sum(1).max()) if kept.numel() else 0
        ranks = (~kept).sort(stable=True).indices[:, :most][:, :max_output]
        chosen, lowered = kept.gather(1, ranks), best.gather(1, ranks)
    else:
        if not sigma > 0 or not score_threshold >= 0:
            raise ValueError(f"sigma is above 0 and score_threshold at least 0, got {sigma} and {score_threshold}")
        with torch.no_grad():
            factors = decay_factors(
                boxes, labels, method=_soft_method(method), iou_threshold=iou_threshold, sigma=sigma
            )
            ranks, lowered = soften(best, factors, score_threshold=score_threshold, max_output=max_output)
        chosen = lowered > score_threshold
    return order.gather(1, ranks).masked_fill(~chosen, -1), lowered.masked_fill(~chosen, 0)


def _kept(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None, valid: Tensor | None) -> Tensor:
    """Return ``(B, N) bool``, True for what `nms` keeps: one call, with labels unique to each image."""
    image = torch.arange(len(boxes), device=boxes.device)[:, None].expand(scores.shape)
    group = image
    if labels is not None and labels.numel():
        first = labels.min()
        group = image * (labels.max() - first + 1) + labels - first
    kept = torch.zeros_like(scores, dtype=torch.bool)
    candidates = (~kept if valid is None else valid).flatten().nonzero().squeeze(1)
    boxes, scores, group = (t.flatten(0, 1)[candidates] for t in (boxes, scores, group))
    kept.view(-1)[candidates[nms(boxes, scores, threshold, labels=group)]] = True
    return kept


def _soft_method(method: str) -> str:
    if method not in ("linear", "gaussian"):
        raise ValueError(f"unknown method of soft suppression {method!r}; known: 'linear', 'gaussian'")
    return method
