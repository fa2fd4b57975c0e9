"""Conversions between box formats."""

from __future__ import annotations

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert centre and size to corners.

    Args:
        boxes: ``(..., 4)`` as ``cx, cy, w, h``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, x2, y2``, same unit.

    Example:
        >>> cxcywh_to_xyxy(torch.tensor([5.0, 5.0, 4.0, 2.0]))
        tensor([3., 4., 7., 6.])
    """
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Convert corners to centre and size.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, x2, y2``, in any unit.

    Returns:
        ``(..., 4)`` as ``cx, cy, w, h``, same unit.

    Example:
        >>> xyxy_to_cxcywh(torch.tensor([3.0, 4.0, 7.0, 6.0]))
        tensor([5., 5., 4., 2.])
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert COCO's top left corner and size to corners.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, w, h``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, x2, y2``, same unit.

    Example:
        >>> xywh_to_xyxy(torch.tensor([3.0, 4.0, 4.0, 2.0]))
        tensor([3., 4., 7., 6.])
    """
    x1, y1, w, h = boxes.unbind(-1)
    return torch.stack((x1, y1, x1 + w, y1 + h), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Convert corners to COCO's top left corner and size.

    Args:
        boxes: ``(..., 4)`` as ``x1, y1, x2, y2``, in any unit.

    Returns:
        ``(..., 4)`` as ``x1, y1, w, h``, same unit.

    Example:
        >>> xyxy_to_xywh(torch.tensor([3.0, 4.0, 7.0, 6.0]))
        tensor([3., 4., 4., 2.])
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1, y1, x2 - x1, y2 - y1), -1)
