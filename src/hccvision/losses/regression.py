"""Losses of the offsets of the positive default boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hccvision.boxes.formats import cxcywh_to_xyxy
from hccvision.boxes.overlap import giou, widened
from hccvision.default_boxes.coding import decode
from hccvision.losses.box_targets import BoxTargets

MAX_OFFSET = 30.0  # e⁶ times the size of the default box: larger than any image, with an area that is still finite


def smooth_l1_regression(offsets: Tensor, targets: BoxTargets) -> Tensor:
    """Compute the smooth L1 distance of the offsets, beta 1, summed over the positive default boxes.

    Args:
        offsets: ``(B, A, 4)``, encoded.
        targets: of the same default boxes.

    Returns:
        A scalar, at least float32.

    Example:
        >>> targets = BoxTargets(torch.tensor([[1, 0]]), torch.zeros(1, 2, 4))
        >>> smooth_l1_regression(torch.full((1, 2, 4), 2.0), targets)
        tensor(6.)

    Source:
        Liu et al. 2016, SSD, equation 2.
    """
    found, wanted = _positive_offsets(offsets, targets)
    if targets.weights is None:
        return F.smooth_l1_loss(found, wanted, reduction="sum")
    distances = F.smooth_l1_loss(found, wanted, reduction="none").sum(-1)
    return (distances * targets.weights[targets.positive].to(distances)).sum()


def giou_regression(offsets: Tensor, targets: BoxTargets) -> Tensor:
    """Compute ``1 - GIoU`` of the decoded boxes, summed over the positive default boxes.

    Args:
        offsets: ``(B, A, 4)``, encoded.
        targets: of the same default boxes, with ``default_boxes``.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: for targets without ``default_boxes``.

    Example:
        >>> targets = BoxTargets(torch.tensor([[1]]), torch.zeros(1, 1, 4), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
        >>> giou_regression(torch.zeros(1, 1, 4), targets)
        tensor(0.)

    Source:
        Rezatofighi et al. 2019, arXiv:1902.09630, section 3.2.
    """
    if targets.default_boxes is None:
        raise ValueError("a GIoU loss decodes the offsets: pass BoxTargets with default_boxes")
    found, wanted = _positive_offsets(offsets, targets)
    own = targets.default_boxes.expand(len(targets.classes), -1, -1)[targets.positive]
    found = torch.cat((found[:, :2], found[:, 2:].clamp(max=MAX_OFFSET)), 1)
    pairs = (cxcywh_to_xyxy(decode(o, own)) for o in (found, wanted))
    distances = 1 - giou(*pairs, pairwise=False)
    if targets.weights is not None:
        distances = distances * targets.weights[targets.positive].to(distances)
    return distances.sum()


def _positive_offsets(offsets: Tensor, targets: BoxTargets) -> tuple[Tensor, Tensor]:
    found = widened(offsets)[targets.positive]
    return found, targets.offsets[targets.positive].to(found)
