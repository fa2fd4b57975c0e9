"""Losses: SSD's multibox loss, and the classification losses. Pure functions; the parts come back by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes import cxcywh_to_xyxy, giou
from hccvision.default_boxes import decode


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the mean cross-entropy of a batch of images.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.

    Returns:
        A scalar, in float32.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.6931
    """
    return F.cross_entropy(logits.float(), labels)


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Give the mean focal loss of a batch of images: cross-entropy with the easy ones turned down.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        gamma: at least 0; at 0 it is the cross-entropy.

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
    return _focused(F.cross_entropy(logits.float(), labels, reduction="none"), gamma).mean()


CLASSIFICATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "focal": focal}


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the mean cross-entropy of independent yes-or-no answers.

    Args:
        logits: any shape, such as ``(B, K)``.
        labels: the same shape, 0 or 1, int, float or bool.

    Returns:
        A scalar, in float32: the mean over all answers.

    Example:
        >>> round(binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        0.6931
    """
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float())


def binary_focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Give the mean focal loss of independent yes-or-no answers.

    Args:
        logits: any shape, such as ``(B, K)``.
        labels: the same shape, 0 or 1, int, float or bool.
        gamma: at least 0; at 0 it is the binary cross-entropy.

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
    return _focused(entropy, gamma).mean()


BINARY_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": binary_cross_entropy,
    "focal": binary_focal,
}


def _focused(entropy: Tensor, gamma: float) -> Tensor:
    """Weigh each cross-entropy, ``-log p``, by ``(1 - p) ** gamma``."""
    if not gamma >= 0:
        raise ValueError(f"gamma is at least 0, got {gamma}")
    doubt = -torch.expm1(-entropy)  # 1 - p; kept above 0, where a gamma below 1 has no slope
    return doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma * entropy


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
    hardest = background_loss.detach().masked_fill(positive, -torch.inf).topk(most, dim=1).indices
    counted = torch.arange(most, device=hardest.device) < wanted
    return positive | torch.zeros_like(positive).scatter_(1, hardest, counted)


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
    normaliser = positive.sum().clamp(min=1)

    if name in ("focal", "focal_giou"):
        classification = box_focal(logits, classes) / normaliser
    else:
        with torch.no_grad():
            background_loss = -logits.log_softmax(-1)[..., 0]
            chosen = hard_negatives(background_loss, positive, ratio=negative_ratio, minimum=min_negatives)
        classification = F.cross_entropy(logits[chosen], classes[chosen], reduction="sum") / normaliser

    found, wanted = offsets[positive], offset_targets[positive].float()
    if name in ("giou", "focal_giou"):
        if default_boxes is None:
            raise ValueError(f"the loss {name!r} decodes the offsets: give it the default boxes")
        own = default_boxes.expand(len(classes), -1, -1)[positive]
        found = torch.cat((found[:, :2], found[:, 2:].clamp(max=MAX_OFFSET)), 1)
        pairs = (cxcywh_to_xyxy(decode(o, own)) for o in (found, wanted))
        regression = (1 - giou(*pairs, pairwise=False)).sum() / normaliser
    else:
        regression = F.smooth_l1_loss(found, wanted, reduction="sum") / normaliser
    return {"loss": regression + classification, "regression": regression, "classification": classification}


DETECTION_LOSSES = ("multibox", "giou", "focal", "focal_giou")
MAX_OFFSET = 30.0  # e^6 times the default box: beyond any image, and its area is still a finite number


def box_focal(logits: Tensor, classes: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Give the focal loss summed over default boxes: every one counts, the easy ones next to nothing.

    The head should start with few positives in mind, ``head_options={"prior": 0.01}``: thousands of undecided
    background boxes would drown the lesions.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        classes: ``(B, A) int64``, 0 for background.
        alpha: weight of the lesions, in [0, 1]; the background weighs ``1 - alpha``.
        gamma: at least 0; at 0 it is the weighted cross-entropy.

    Returns:
        A scalar, in float32.

    Example:
        >>> round(box_focal(torch.zeros(1, 1, 2), torch.tensor([[1]])).item(), 4)   # a quarter of a quarter of log 2
        0.0433

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 5, with softmax over the classes in place of a sigmoid each.
    """
    loss = F.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), reduction="none")
    weight = torch.where(classes.flatten() > 0, alpha, 1 - alpha)
    return (weight * _focused(loss, gamma)).sum()
