"""Losses of a classifier: one class per image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes.overlap import widened
from hccvision.contracts.batches import Loss
from hccvision.losses.focusing import focused
from hccvision.registry import LOSSES


@LOSSES.register("cross_entropy", task="classification")
def cross_entropy_sums(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Loss:
    """Compute the cross-entropy of a batch of images, summed.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        label_smoothing: fraction of each label that is spread evenly over all classes, in [0, 1].
        class_weights: ``(K,)``, weight of an image by its class, at least 0; None: all images weigh 1.

    Returns:
        One part, ``classification``, at least float32. The count is the number of images, or the sum of their weights.

    Example:
        >>> loss = cross_entropy_sums(torch.zeros(2, 2), torch.tensor([1, 0]))
        >>> round(loss.sums["classification"].item(), 4), loss.count.item()
        (1.3863, 2.0)
    """
    logits = widened(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=label_smoothing)
    # The kernel's own sum of the weights: dividing by it gives torch's mean to the last bit.
    count = F.nll_loss(-torch.ones_like(logits), labels, weights, reduction="sum")
    return Loss({"classification": total}, count)


@LOSSES.register("focal", task="classification")
def focal_sums(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Loss:
    """Compute the focal loss of a batch of images, summed: cross-entropy with well-classified images weighted down.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        gamma: at least 0; 0 is the cross-entropy.
        label_smoothing: as in `cross_entropy_sums`; the focal weight depends on the label without smoothing.
        class_weights: as in `cross_entropy_sums`.

    Returns:
        As `cross_entropy_sums`.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> round(focal_sums(torch.zeros(2, 2), torch.tensor([1, 0])).sums["classification"].item(), 4)
        0.3466

    Source:
        Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    logits = widened(logits)
    entropy = F.cross_entropy(logits, labels, reduction="none")
    smooth = None
    if label_smoothing:
        smooth = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    values = focused(entropy, gamma, smooth)
    weights = image_weights(labels, class_weights)
    if weights is None:
        return Loss({"classification": values.sum()}, values.new_full((), len(values)))
    weights = weights.to(values)
    return Loss({"classification": (values * weights).sum()}, weights.sum())


def cross_entropy(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute the mean cross-entropy of a batch of images.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        options: of `cross_entropy_sums`: ``label_smoothing``, ``class_weights``.

    Returns:
        A scalar, at least float32.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.6931
    """
    return cross_entropy_sums(logits, labels, **options)["loss"]


def focal(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Compute the mean focal loss of a batch of images.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,) int64``, class ids.
        options: of `focal_sums`: ``gamma``, ``label_smoothing``, ``class_weights``.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: for a gamma below 0.

    Example:
        >>> round(focal(torch.zeros(1, 2), torch.tensor([1])).item(), 4)
        0.1733
    """
    return focal_sums(logits, labels, **options)["loss"]


def image_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor | None:
    """Look up the weight of each image by its class.

    Args:
        labels: ``(B,) int64``, class ids.
        class_weights: ``(K,)``, or None.

    Returns:
        ``(B,)``, or None if there are no class weights.

    Example:
        >>> image_weights(torch.tensor([1, 0, 1]), torch.tensor([0.5, 2.0]))
        tensor([2.0000, 0.5000, 2.0000])
    """
    return None if class_weights is None else class_weights.to(labels.device)[labels]
