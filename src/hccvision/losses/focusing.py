"""The focal weight, and the focal loss of default boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes.overlap import widened


def focused(entropy: Tensor, gamma: float, smooth: Tensor | None = None) -> Tensor:
    """Multiply cross-entropies by the focal weight ``(1 - p) ** gamma``.

    Args:
        entropy: ``-log p`` of each label, of any shape.
        gamma: at least 0.
        smooth: cross-entropy of the smoothed labels, same shape, to be weighted instead; None: ``entropy``.

    Returns:
        Focal losses, same shape.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> focused(torch.tensor([0.5]).log().neg(), 1.0)
        tensor([0.3466])
    """
    if not gamma >= 0:
        raise ValueError(f"gamma is at least 0, got {gamma}")
    doubt = -torch.expm1(-entropy)  # 1 - p, kept above 0: there the gradient of a gamma below 1 is infinite
    return doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** gamma * (entropy if smooth is None else smooth)


def box_focal(
    logits: Tensor,
    classes: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    weights: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Compute the focal loss summed over all default boxes; well-classified ones contribute next to nothing.

    A head that starts with even scores for all classes would be dominated by thousands of background boxes: build it
    with ``head_options={"prior": 0.01}``.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        classes: ``(B, A) int64``, 0 for background.
        alpha: weight of the lesions, in [0, 1]; the background has ``1 - alpha``.
        gamma: at least 0; 0 is the weighted cross-entropy.
        label_smoothing: as in `focal_sums`.
        class_weights: ``(K + 1,)``, further factors by class, index 0 is the background; None: 1.
        weights: ``(B, A)``, further factors of the lesions; None: 1.
        ignored: ``(B, A) bool``, background boxes that don't count; None: there are none.

    Returns:
        A scalar, at least float32.

    Example:
        >>> round(box_focal(torch.zeros(1, 1, 2), torch.tensor([[1]])).item(), 4)   # log 2 / 4 / 4
        0.0433

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 5, with a softmax over the classes instead of a sigmoid per class.
    """
    rows, labels = widened(logits).flatten(0, 1), classes.flatten()
    loss = F.cross_entropy(rows, labels, reduction="none")
    smooth = None
    if label_smoothing:
        smooth = F.cross_entropy(rows, labels, reduction="none", label_smoothing=label_smoothing)
    factors = torch.where(labels > 0, alpha, 1 - alpha)
    if class_weights is not None:
        factors = factors * class_weights.to(factors)[labels]
    if weights is not None:
        factors = torch.where(labels > 0, factors * weights.flatten().to(factors), factors)
    if ignored is not None:
        factors = factors.masked_fill(ignored.flatten() & (labels == 0), 0.0)
    return (factors * focused(loss, gamma, smooth)).sum()
