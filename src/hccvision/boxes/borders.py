"""Clipping of boxes at the borders of an image."""

from __future__ import annotations

import torch
from torch import Tensor


def clip(boxes: Tensor, size: tuple[float, float]) -> Tensor:
    """Clip boxes to an image.

    Args:
        boxes: ``(..., 4)`` xyxy pixels.
        size: ``(height, width)`` of the image.

    Returns:
        ``(..., 4)``; a box outside the image is returned without area.

    Example:
        >>> clip(torch.tensor([-5.0, 2.0, 50.0, 9.0]), (10, 20))
        tensor([ 0.,  2., 20.,  9.])
    """
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), -1)
