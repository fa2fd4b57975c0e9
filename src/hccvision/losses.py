"""Losses: SSD's multibox loss, and the classification losses. Pure functions; the parts come back by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes import cxcywh_to_xyxy, giou
from hccvision.default_boxes import decode


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    normaliser: float | None = None,
) -> Tensor:
    """Give the mean cross-entropy of a batch of images.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        label_smoothing: share of each label that is spread evenly over all classes, in [0, 1].
        class_weights: ``(K,)``; the mean is then weighted, each image by its class. None: all alike.
        normaliser: divide the sum by this instead of by the images, or by their weights: that of a larger batch of
            which this is a part, see `image_weights`.

    Returns:
        A scalar, in float32.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.6931
    """
    options: dict[str, Any] = {"weight": class_weights, "label_smoothing": label_smoothing}
    if normaliser is None:
        return F.cross_entropy(logits.float(), labels, **options)
    return F.cross_entropy(logits.float(), labels, reduction="sum", **options) / normaliser


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    normaliser: float | None = None,
) -> Tensor:
    """Give the mean focal loss of a batch of images: cross-entropy with the easy ones turned down.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        gamma: at least 0; at 0 it is the cross-entropy.
        label_smoothing: as in `cross_entropy`; what is easy is judged by the label as it stands.
        class_weights: as in `cross_entropy`.
        normaliser: as in `cross_entropy`.

    Returns:
        A scalar, in float32.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> round(focal(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.1733

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    entropy = F.cross_entropy(logits.float(), labels, reduction="none")
    smooth = None
    if label_smoothing:
        smooth = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    return _mean(_focused(entropy, gamma, smooth), image_weights(labels, class_weights), normaliser)


def image_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor | None:
    """Say how much each image counts in a batch's mean; the sum of it is the normaliser of `cross_entropy`.

    Args:
        labels: ``(B,) int64``, class ids.
        class_weights: ``(K,)``, or None.

    Returns:
        ``(B,) float32``; None if all count alike, so that the normaliser is their number.

    Example:
        >>> image_weights(torch.tensor([1, 0, 1]), torch.tensor([0.5, 2.0]))
        tensor([2.0000, 0.5000, 2.0000])
    """
    return None if class_weights is None else class_weights.to(labels.device, torch.float32)[labels]


CLASSIFICATION_LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "focal": focal}


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    normaliser: float | None = None,
) -> Tensor:
    """Give the mean cross-entropy of independent yes-or-no answers.

    Args:
        logits: any shape, such as ``(B, K)``.
        labels: the same shape, 0 or 1, int, float or bool.
        label_smoothing: share of each label that is spread evenly over yes and no, in [0, 1].
        weights: the same shape; the mean is then weighted, each answer by its own. None: all alike.
        normaliser: divide the sum by this instead of by the number of answers, or by their weights: that of a larger
            batch of which this is a part.

    Returns:
        A scalar, in float32: the mean over all answers.

    Example:
        >>> round(binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        0.6931
    """
    smoothed = labels.float() if not label_smoothing else labels.float() * (1 - label_smoothing) + label_smoothing / 2
    if weights is None and normaliser is None:
        return F.binary_cross_entropy_with_logits(logits.float(), smoothed)
    return _mean(F.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none"), weights, normaliser)


def binary_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    normaliser: float | None = None,
) -> Tensor:
    """Give the mean focal loss of independent yes-or-no answers.

    Args:
        logits: any shape, such as ``(B, K)``.
        labels: the same shape, 0 or 1, int, float or bool.
        gamma: at least 0; at 0 it is the binary cross-entropy.
        label_smoothing: as in `binary_cross_entropy`; what is easy is judged by the label as it stands.
        weights: as in `binary_cross_entropy`.
        normaliser: as in `binary_cross_entropy`.

    Returns:
        A scalar, in float32: the mean over all answers.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> round(binary_focal(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        0.1733

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    entropy = F.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none")
    smooth = None
    if label_smoothing:
        smoothed = labels.float() * (1 - label_smoothing) + label_smoothing / 2
        smooth = F.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none")
    return _mean(_focused(entropy, gamma, smooth), weights, normaliser)


BINARY_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": binary_cross_entropy,
    "focal": binary_focal,
}


def _focused(entropy: Tensor, gamma: float, smooth: Tensor | None = None) -> Tensor:
    """Weigh each cross-entropy, ``-log p`` or that of the smoothed label, by ``(1 - p) ** gamma``."""
    if not gamma >= 0:
        raise ValueError(f"gamma is at least 0, got {gamma}")
    doubt = -torch.expm1(-entropy)  # 1 - p; kept above 0, where a gamma below 1 has no slope
    return doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma * (entropy if smooth is None else smooth)


def _mean(values: Tensor, weights: Tensor | None, normaliser: float | None) -> Tensor:
    """Average, by weights if there are any; a normaliser given stands for that of a larger batch."""
    if weights is None:
        return values.mean() if normaliser is None else values.sum() / normaliser
    return (values * weights).sum() / (weights.sum() if normaliser is None else normaliser)


def hard_negatives(background_loss: Tensor, positive: Tensor, *, ratio: float = 3.0, minimum: int = 3) -> Tensor:
    """Choose the boxes that count in the classification loss: the positives, and the worst of the negatives.

    Args:
        background_loss: ``(B, A)``, how badly each box is taken for background.
        positive: ``(B, A) bool``.
        ratio: so many negatives for one positive, per image.
        minimum: but at least so many negatives in an image, so that one without lesions teaches too.

    Returns:
        ``(B, A) bool``.

    Example:
        >>> loss = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.5, 0.2, 0.7, 0.6]])
        >>> positive = torch.arange(8)[None] == 1
        >>> hard_negatives(loss, positive).long()
        tensor([[0, 1, 0, 1, 0, 0, 1, 1]])

    Source:
        Liu et al. 2016, SSD, section 2.2, "Hard negative mining".
    """
    wanted = (positive.sum(1, keepdim=True) * ratio).clamp(min=minimum)
    most = min(math.ceil(max(wanted.flatten().tolist(), default=0)), background_loss.shape[1])
    hardest = _ranks(background_loss.detach()).masked_fill(positive, -1).topk(most, dim=1).indices
    counted = torch.arange(most, device=hardest.device) < wanted
    return positive | torch.zeros_like(positive).scatter_(1, hardest, counted)


def _ranks(losses: Tensor) -> Tensor:
    """Rank by loss, and what is equal but for rounding errors by place: a batch cut into parts chooses the same."""
    steps = (losses.float().nan_to_num(nan=torch.inf).clamp(0, 1e6) * 2**18).long()
    place = torch.arange(losses.shape[1] - 1, -1, -1, device=losses.device)
    return steps * losses.shape[1] + place


def multibox(
    logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    offset_targets: Tensor,
    default_boxes: Tensor | None = None,
    *,
    name: str = "multibox",
    negative_ratio: float = 3.0,
    min_negatives: int = 3,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    normaliser: float | None = None,
) -> dict[str, Tensor]:
    """Give SSD's loss: the offsets' and the classes', each summed and divided by the number of positives.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        offsets: ``(B, A, 4)``, encoded.
        classes: ``(B, A) int64``, 0 for background, from `default_boxes.matched_targets`.
        offset_targets: ``(B, A, 4)``, encoded.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``; the losses with ``giou`` need them.
        name: of ``DETECTION_LOSSES``. ``"multibox"`` is SSD's own: smooth L1, and cross-entropy of the positives and
            the hardest negatives. ``"giou"`` scores the decoded boxes by GIoU instead of their offsets, ``"focal"`` all
            default boxes by `box_focal` instead of mining negatives, and ``"focal_giou"`` does both.
        negative_ratio: negatives for one positive, per image.
        min_negatives: at least so many negatives per image, so that one without lesions teaches too.
        label_smoothing: of the classes, see `cross_entropy`; the background is one of them.
        class_weights: ``(K + 1,)``, factors of the classification loss, index 0 is the background; None: 1.
        normaliser: the number of positives to divide by, instead of those in this batch: that of a larger batch of
            which this is a part. At least 1 is taken either way.

    Returns:
        Scalars in float32: ``regression``, ``classification``, and ``loss``, their sum. The normaliser is the number
        of positives in the batch, at least 1.

    Raises:
        ValueError: for an unknown name, or GIoU without default boxes.

    Example:
        >>> parts = multibox(torch.zeros(1, 5, 2), torch.zeros(1, 5, 4), torch.zeros(1, 5).long(), torch.zeros(1, 5, 4))
        >>> round(parts["loss"].item(), 4)   # no lesion: three negatives at log 2
        2.0794

    Source:
        Liu et al. 2016, SSD, equation 1; Rezatofighi et al. 2019, arXiv:1902.09630; Lin et al. 2017, arXiv:1708.02002.
    """
    if name not in DETECTION_LOSSES:
        raise ValueError(f"unknown detection loss {name!r}; known: {', '.join(DETECTION_LOSSES)}")
    logits, offsets = logits.float(), offsets.float()
    positive = classes > 0
    count = positive.sum().clamp(min=1) if normaliser is None else max(1.0, float(normaliser))
    options: dict[str, Any] = {"label_smoothing": label_smoothing}

    if name in ("focal", "focal_giou"):
        classification = box_focal(logits, classes, class_weights=class_weights, **options) / count
    else:
        with torch.no_grad():
            background_loss = -logits.log_softmax(-1)[..., 0]
            chosen = hard_negatives(background_loss, positive, ratio=negative_ratio, minimum=min_negatives)
        entropy = F.cross_entropy(logits[chosen], classes[chosen], class_weights, reduction="sum", **options)
        classification = entropy / count

    found, wanted = offsets[positive], offset_targets[positive].float()
    if name in ("giou", "focal_giou"):
        if default_boxes is None:
            raise ValueError(f"the loss {name!r} decodes the offsets: give it the default boxes")
        own = default_boxes.expand(len(classes), -1, -1)[positive]
        found = torch.cat((found[:, :2], found[:, 2:].clamp(max=MAX_OFFSET)), 1)
        pairs = (cxcywh_to_xyxy(decode(o, own)) for o in (found, wanted))
        regression = (1 - giou(*pairs, pairwise=False)).sum() / count
    else:
        regression = F.smooth_l1_loss(found, wanted, reduction="sum") / count
    return {"loss": regression + classification, "regression": regression, "classification": classification}


DETECTION_LOSSES = ("multibox", "giou", "focal", "focal_giou")
MAX_OFFSET = 30.0  # e^6 times the default box: beyond any image, and its area is still a finite number


def box_focal(
    logits: Tensor,
    classes: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Give the focal loss summed over default boxes: every one counts, the easy ones next to nothing.

    The head should start with few positives in mind, ``head_options={"prior": 0.01}``: thousands of undecided
    background boxes would drown the lesions.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        classes: ``(B, A) int64``, 0 for background.
        alpha: weight of the lesions, in [0, 1]; the background weighs ``1 - alpha``.
        gamma: at least 0; at 0 it is the weighted cross-entropy.
        label_smoothing: as in `focal`.
        class_weights: ``(K + 1,)``, factors besides ``alpha``, index 0 is the background; None: 1.

    Returns:
        A scalar, in float32.

    Example:
        >>> round(box_focal(torch.zeros(1, 1, 2), torch.tensor([[1]])).item(), 4)   # a quarter of a quarter of log 2
        0.0433

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 5, with softmax over the classes in place of a sigmoid each.
    """
    rows, labels = logits.float().flatten(0, 1), classes.flatten()
    loss = F.cross_entropy(rows, labels, reduction="none")
    smooth = None
    if label_smoothing:
        smooth = F.cross_entropy(rows, labels, reduction="none", label_smoothing=label_smoothing)
    weight = torch.where(labels > 0, alpha, 1 - alpha)
    if class_weights is not None:
        weight = weight * class_weights.to(weight)[labels]
    return (weight * _focused(loss, gamma, smooth)).sum()
