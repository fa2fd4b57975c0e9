"""Losses of a detector with default boxes: a regression and a classification part.

A registered detection loss is called as ``loss(output, targets, **options)`` with an `SSDOutput` and `BoxTargets`;
``label_smoothing`` and ``class_weights`` are passed only where the recipe sets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hccvision.contracts.batches import Loss
from hccvision.contracts.outputs import SSDOutput
from hccvision.losses.box_targets import BoxTargets
from hccvision.losses.focusing import box_focal
from hccvision.losses.mining import HardNegatives, mined_cross_entropy
from hccvision.losses.regression import giou_regression, smooth_l1_regression
from hccvision.registry import LOSSES


@LOSSES.register("multibox", task="detection")
def multibox_loss(output: SSDOutput, targets: BoxTargets, **options: Any) -> Loss:
    """Compute SSD's own loss: smooth L1, and cross-entropy of the positives and the hardest negatives.

    Args:
        output: logits ``(B, A, K + 1)``, index 0 is the background, and encoded offsets ``(B, A, 4)``.
        targets: of the same default boxes.
        options: of `mined_cross_entropy`: ``label_smoothing``, ``class_weights``.

    Returns:
        Parts ``regression`` and ``classification``, at least float32. The count is that of the positives.

    Example:
        >>> import torch
        >>> targets = BoxTargets(torch.zeros(1, 5).long(), torch.zeros(1, 5, 4))
        >>> loss = multibox_loss(SSDOutput(torch.zeros(1, 5, 2), torch.zeros(1, 5, 4)), targets)
        >>> round(loss["loss"].item(), 4)   # no lesion: three negatives of log 2
        2.0794

    Source:
        Liu et al. 2016, SSD, equation 1.
    """
    return _loss(smooth_l1_regression(output.offsets, targets), _mined(output, targets, options), targets)


@LOSSES.register("giou", task="detection")
def giou_multibox_loss(output: SSDOutput, targets: BoxTargets, **options: Any) -> Loss:
    """Compute SSD's loss with ``1 - GIoU`` of the decoded boxes in place of smooth L1.

    Args:
        output: as in `multibox_loss`.
        targets: of the same default boxes, with ``default_boxes``.
        options: as in `multibox_loss`.

    Returns:
        As `multibox_loss`.

    Raises:
        ValueError: for targets without ``default_boxes``.

    Source:
        Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    return _loss(giou_regression(output.offsets, targets), _mined(output, targets, options), targets)


@LOSSES.register("focal", task="detection")
def focal_multibox_loss(output: SSDOutput, targets: BoxTargets, **options: Any) -> Loss:
    """Compute SSD's loss with the focal loss of all default boxes in place of hard negative mining.

    Args:
        output: as in `multibox_loss`.
        targets: of the same default boxes.
        options: of `box_focal`: ``alpha``, ``gamma``, ``label_smoothing``, ``class_weights``.

    Returns:
        As `multibox_loss`.

    Source:
        Lin et al. 2017, arXiv:1708.02002.
    """
    return _loss(smooth_l1_regression(output.offsets, targets), _focal(output, targets, options), targets)


@LOSSES.register("focal_giou", task="detection")
def focal_giou_multibox_loss(output: SSDOutput, targets: BoxTargets, **options: Any) -> Loss:
    """Compute the focal loss of all default boxes, and ``1 - GIoU`` of the decoded positives.

    Args:
        output: as in `multibox_loss`.
        targets: of the same default boxes, with ``default_boxes``.
        options: as in `focal_multibox_loss`.

    Returns:
        As `multibox_loss`.

    Raises:
        ValueError: for targets without ``default_boxes``.

    Source:
        Lin et al. 2017, arXiv:1708.02002; Rezatofighi et al. 2019, arXiv:1902.09630.
    """
    return _loss(giou_regression(output.offsets, targets), _focal(output, targets, options), targets)


def multibox(
    logits: Tensor,
    offsets: Tensor,
    classes: Tensor,
    offset_targets: Tensor,
    default_boxes: Tensor | None = None,
    *,
    name: str | Callable[..., Loss] = "multibox",
    negatives: HardNegatives = HardNegatives(),  # noqa: B008, frozen
    **options: Any,
) -> Loss:
    """Compute a detection loss of plain tensors.

    Args:
        logits: ``(B, A, K + 1)``, index 0 is the background.
        offsets: ``(B, A, 4)``, encoded.
        classes: ``(B, A) int64``, 0 for background, from `default_boxes.matched_targets`.
        offset_targets: ``(B, A, 4)``, encoded, from the same.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``, for losses that decode the offsets.
        name: of a loss registered for detection: ``"multibox"``, ``"giou"``, ``"focal"``, ``"focal_giou"`` or your own;
            or such a loss itself.
        negatives: how many background boxes count, for losses that mine them.
        options: of the loss, such as ``label_smoothing`` and ``class_weights``, ``(K + 1,)`` with the background first.

    Returns:
        Parts ``regression`` and ``classification``; ``["loss"]`` is their sum, divided by the number of positives.

    Raises:
        KeyError: for an unknown name.
        ValueError: for a GIoU loss without default boxes.

    Example:
        >>> import torch
        >>> loss = multibox(torch.zeros(1, 5, 2), torch.zeros(1, 5, 4), torch.zeros(1, 5).long(), torch.zeros(1, 5, 4))
        >>> round(loss["loss"].item(), 4)   # no lesion: three negatives of log 2
        2.0794
    """
    loss = LOSSES.get(name, task="detection") if isinstance(name, str) else name
    targets = BoxTargets(classes, offset_targets, default_boxes, negatives=negatives)
    return loss(SSDOutput(logits, offsets), targets, **options)


def _mined(output: SSDOutput, targets: BoxTargets, options: dict[str, Any]) -> Tensor:
    options = {"negatives": targets.negatives, "weights": targets.weights, "ignored": targets.ignored, **options}
    return mined_cross_entropy(output.logits, targets.classes, **options)


def _focal(output: SSDOutput, targets: BoxTargets, options: dict[str, Any]) -> Tensor:
    return box_focal(output.logits, targets.classes, weights=targets.weights, ignored=targets.ignored, **options)


def _loss(regression: Tensor, classification: Tensor, targets: BoxTargets) -> Loss:
    return Loss({"regression": regression, "classification": classification}, targets.positives)
