"""Hard negative mining: the background boxes that count in the classification loss of SSD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes.overlap import widened


@dataclass(frozen=True)
class HardNegatives:
    """How many background boxes count in the classification loss.

    Args:
        ratio: negatives per positive, in each image, at least 0.
        minimum: lowest number of negatives in each image, so that an image without lesions is learned from as well.

    Example:
        >>> losses = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.5, 0.2, 0.7, 0.6]])
        >>> HardNegatives(ratio=2)(losses, torch.arange(8)[None] == 1).long()
        tensor([[0, 1, 0, 1, 0, 0, 1, 1]])
    """

    ratio: float = 3.0
    minimum: int = 3

    def __call__(self, background_loss: Tensor, positive: Tensor) -> Tensor:
        """Select default boxes, see `hard_negatives`."""
        return hard_negatives(background_loss, positive, ratio=self.ratio, minimum=self.minimum)


def hard_negatives(background_loss: Tensor, positive: Tensor, *, ratio: float = 3.0, minimum: int = 3) -> Tensor:
    """Select the default boxes that count in the classification loss: the positives and the hardest negatives.

    Losses that differ by rounding errors only count as equal, and the first of equal ones is selected, so that a batch
    cut into parts selects the same boxes.

    Args:
        background_loss: ``(B, A)``, cross-entropy of each default box as background.
        positive: ``(B, A) bool``.
        ratio: negatives per positive, in each image, at least 0.
        minimum: lowest number of negatives in each image, so that an image without lesions is learned from as well.

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


def mined_cross_entropy(
    logits: Tensor,
    classes: Tensor,
    *,
    negatives: HardNegatives | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Compute the cross-entropy summed over the positive default boxes and the hardest negatives.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        classes: ``(B, A) int64``, 0 for background.
        negatives: how many negatives count; None: the defaults of `HardNegatives`.
        label_smoothing: as in `cross_entropy_sums`; the background is one of the classes.
        class_weights: ``(K + 1,)``, factors by class, index 0 is the background; None: 1.
        weights: ``(B, A)``, factors of the positives; None: 1.
        ignored: ``(B, A) bool``, background boxes that never count; None: there are none.

    Returns:
        A scalar, at least float32.

    Example:
        >>> round(mined_cross_entropy(torch.zeros(1, 5, 2), torch.zeros(1, 5).long()).item(), 4)   # 3 · log 2
        2.0794
    """
    logits, positive = widened(logits), classes > 0
    with torch.no_grad():
        background_loss = -logits.log_softmax(-1)[..., 0]
        if ignored is not None:
            background_loss = background_loss.masked_fill(ignored, 0.0)
        chosen = (negatives or HardNegatives())(background_loss, positive)
        if ignored is not None:
            chosen = chosen & (positive | ~ignored)
    by_class = None if class_weights is None else class_weights.to(logits)
    reduction = "sum" if weights is None else "none"
    loss = F.cross_entropy(
        logits[chosen], classes[chosen], by_class, reduction=reduction, label_smoothing=label_smoothing
    )
    if weights is None:
        return loss
    return (loss * torch.where(positive, weights.to(loss), 1)[chosen]).sum()


def _ranks(losses: Tensor) -> Tensor:
    """Rank by loss in steps of 2⁻¹⁸, then by place, the first highest."""
    steps = (losses.float().nan_to_num(nan=torch.inf).clamp(0, 1e6) * 2**18).long()
    place = torch.arange(losses.shape[1] - 1, -1, -1, device=losses.device)
    return steps * losses.shape[1] + place
