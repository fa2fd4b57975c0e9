"""Boxes as offsets from default boxes, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from hccvision.boxes.formats import xyxy_to_cxcywh
from hccvision.boxes.overlap import area

VARIANCES = (0.1, 0.2)


def encode(boxes: Tensor, default_boxes: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Encode boxes as offsets from default boxes: the regression target of the network.

    Args:
        boxes: ``(..., A, 4)`` as ``cx, cy, w, h``, in the unit of the default boxes, of positive size.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        variances: units of the centre offsets and of the size offsets.

    Returns:
        ``(..., A, 4)`` offsets.

    Example:
        >>> encode(torch.tensor([0.52, 0.48, 0.3, 0.1]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
        tensor([ 1.0000, -1.0000,  2.0273, -3.4657])

    Source:
        Liu et al. 2016, SSD, equation 2; the variances are those of its Caffe code.
    """
    centre = (boxes[..., :2] - default_boxes[..., :2]) / default_boxes[..., 2:] / variances[0]
    size = (boxes[..., 2:] / default_boxes[..., 2:]).log() / variances[1]
    return torch.cat((centre, size), -1)


def decode(offsets: Tensor, default_boxes: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Decode offsets from default boxes: the inverse of `encode`.

    Args:
        offsets: ``(..., A, 4)``.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        variances: those that the offsets were encoded with.

    Returns:
        ``(..., A, 4)`` as ``cx, cy, w, h``, in the unit of the default boxes.

    Example:
        >>> decode(torch.tensor([1.0, -1.0, 2.0273, -3.4657]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
        tensor([0.5200, 0.4800, 0.3000, 0.1000])
    """
    centre = default_boxes[..., :2] + offsets[..., :2] * variances[0] * default_boxes[..., 2:]
    size = default_boxes[..., 2:] * (offsets[..., 2:] * variances[1]).exp()
    return torch.cat((centre, size), -1)


def matched_targets(default_boxes: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Convert a match to the classes and offsets that a detection loss compares with.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(B, N, 4)`` ground truth, xyxy in the unit of the default boxes.
        labels: ``(B, N) int64``, class ids ``0 ... K-1``.
        truth: ``(B, A) int64``, index of the ground truth that each default box is matched with, −1 for background.

    Returns:
        ``(B, A) int64`` classes, 0 for background and ``k + 1`` for class ``k``, and ``(B, A, 4)`` encoded offsets,
        0 for background.

    Raises:
        ValueError: if a matched ground-truth box has no area.

    Example:
        >>> d = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
        >>> matched_targets(d, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.tensor([[2]]), torch.tensor([[0]]))
        (tensor([[3]]), tensor([[[0., 0., 0., 0.]]]))
    """
    positive = truth >= 0
    classes = torch.zeros_like(truth)
    offsets = boxes.new_zeros(*truth.shape, 4)
    image, box = positive.nonzero(as_tuple=True)
    index = truth[image, box]
    classes[image, box] = labels[image, index] + 1
    truths = boxes[image, index]
    if not bool((area(truths) > 0).all()):
        raise ValueError("a ground-truth box without area can't be encoded: remove degenerate boxes before training")
    offsets[image, box] = encode(xyxy_to_cxcywh(truths), default_boxes[box])
    return classes, offsets
