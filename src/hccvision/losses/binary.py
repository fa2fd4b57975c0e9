"""Losses of independent binary labels: multi-label classifiers, and classifiers with a single sigmoid."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes.overlap import widened
from hccvision.contracts.batches import Loss
from hccvision.losses.focusing import focused
from hccvision.registry import LOSSES


@LOSSES.register("cross_entropy", task="multilabel")
def binary_cross_entropy_sums(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Loss:
    """Compute the binary cross-entropy of independent labels, summed.

    Args:
        logits: of any shape, such as ``(B, K)``.
        labels: same shape, 0 or 1, int, float or bool.
        label_smoothing: fraction of each label that is spread evenly over 0 and 1, in [0, 1].
        weights: same shape, weight of each label, at least 0; None: all labels weigh 1.

    Returns:
        One part, ``classification``, at least float32. The count is the number of labels, or the sum of their weights.

    Example:
        >>> import torch
        >>> loss = binary_cross_entropy_sums(torch.zeros(1, 2), torch.tensor([[1, 0]]))
        >>> round(loss.sums["classification"].item(), 4), loss.count.item()
        (1.3863, 2.0)
    """
    logits = widened(logits)
    labels = _smoothed(labels.to(logits), label_smoothing)
    if weights is None:
        total = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return Loss({"classification": total}, logits.new_full((), logits.numel()))
    return _weighted(F.binary_cross_entropy_with_logits(logits, labels, reduction="none"), weights)


@LOSSES.register("focal", task="multilabel")
def binary_focal_sums(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Loss:
    """Compute the binary focal loss of independent labels, summed.

    Args:
        logits: of any shape, such as ``(B, K)``.
        labels: same shape, 0 or 1, int, float or bool.
        gamma: at least 0; 0 is the binary cross-entropy.
        label_smoothing: as in `binary_cross_entropy_sums`; the focal weight depends on the label without smoothing.
        weights: as in `binary_cross_entropy_sums`.

    Returns:
        As `binary_cross_entropy_sums`.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> import torch
        >>> round(binary_focal_sums(torch.zeros(1, 2), torch.tensor([[1, 0]])).sums["classification"].item(), 4)
        0.3466

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    logits = widened(logits)
    labels = labels.to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    smooth = None
    if label_smoothing:
        smooth = F.binary_cross_entropy_with_logits(logits, _smoothed(labels, label_smoothing), reduction="none")
    return _weighted(focused(entropy, gamma, smooth), weights)


def binary_cross_entropy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute the mean binary cross-entropy of independent labels.

    Args:
        logits: of any shape, such as ``(B, K)``.
        labels: same shape, 0 or 1, int, float or bool.
        options: of `binary_cross_entropy_sums`: ``label_smoothing``, ``weights``.

    Returns:
        A scalar, at least float32.

    Example:
        >>> import torch
        >>> round(binary_cross_entropy(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        0.6931
    """
    return binary_cross_entropy_sums(logits, labels, **options)["loss"]


def binary_focal(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute the mean binary focal loss of independent labels.

    Args:
        logits: of any shape, such as ``(B, K)``.
        labels: same shape, 0 or 1, int, float or bool.
        options: of `binary_focal_sums`: ``gamma``, ``label_smoothing``, ``weights``.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> import torch
        >>> round(binary_focal(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)
        0.1733
    """
    return binary_focal_sums(logits, labels, **options)["loss"]


def _smoothed(labels: Tensor, label_smoothing: float) -> Tensor:
    return labels * (1 - label_smoothing) + label_smoothing / 2 if label_smoothing else labels


def _weighted(values: Tensor, weights: Tensor | None) -> Loss:
    if weights is None:
        return Loss({"classification": values.sum()}, values.new_full((), values.numel()))
    weights = weights.to(values).expand_as(values)
    return Loss({"classification": (values * weights).sum()}, weights.sum())
