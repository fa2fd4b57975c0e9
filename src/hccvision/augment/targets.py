"""Boxes and masks moved by the affine map of their image."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from hccvision.augment.affine import sampling_grid
from hccvision.augment.batch import match_device
from hccvision.boxes.borders import clip
from hccvision.boxes.formats import cxcywh_to_xyxy, xyxy_to_cxcywh
from hccvision.boxes.overlap import area
from hccvision.contracts.batches import Targets

BOUNDS = ("ellipse", "corners")


def move_targets(
    targets: Targets, matrix: Tensor, size: tuple[int, int], *, visible: float = 0.4, bound: str = "ellipse"
) -> Targets:
    """Move the boxes and the masks, where there are any, by their image's map.

    Args:
        targets: in pixels of the images.
        matrix: ``(B, 3, 3)`` from `draw_affine`.
        size: ``(height, width)`` of the images in pixels.
        visible: see `move_boxes`.
        bound: see `move_boxes`.

    Returns:
        New targets: boxes as of `move_boxes`, masks as of `move_masks`.

    Raises:
        ValueError: for an unknown bound.

    Example:
        >>> masks = torch.tensor([[[0, 1, 1, 0]]])
        >>> t = Targets.pad([torch.tensor([[1.0, 0.0, 3.0, 1.0]])], [torch.zeros(1)], masks=masks)
        >>> shift = torch.tensor([[[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]])  # one pixel to the right
        >>> moved = move_targets(t, shift, (1, 4))
        >>> moved.boxes.tolist(), moved.masks.tolist()
        ([[[2.0, 0.0, 4.0, 1.0]]], [[[-1, 0, 1, 1]]])
    """
    moved = move_boxes(targets, matrix, size, visible=visible, bound=bound)
    return moved if moved.masks is None else replace(moved, masks=move_masks(moved.masks, matrix))


def move_boxes(
    targets: Targets, matrix: Tensor, size: tuple[int, int], *, visible: float = 0.4, bound: str = "ellipse"
) -> Targets:
    """Move boxes and crowds by their image's map, clip them to the image, and drop boxes that are mostly outside.

    Args:
        targets: in pixels of the images; masks are left where they are, see `move_targets`.
        matrix: ``(B, 3, 3)`` from `draw_affine`.
        size: ``(height, width)`` of the images in pixels.
        visible: a box is kept if at least this fraction of its area stays inside the image, in [0, 1].
        bound: what the bounding box of a rotated box encloses: its inscribed ``"ellipse"``, as lesions are round
            rather than square, or its ``"corners"``, which makes it larger by up to 41 % of each side.

    Returns:
        New targets; dropped boxes are padding (label −1).

    Raises:
        ValueError: for an unknown bound.

    Example:
        >>> t = Targets(torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]]))
        >>> mirror = torch.tensor([[[-1.0, 0.0, 20.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> move_boxes(t, mirror, (10, 20)).boxes
        tensor([[[16.,  0., 20.,  4.]]])
    """
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}; known: {', '.join(BOUNDS)}")
    moved = replace_boxes(targets, _moved(targets.boxes, matrix, bound), size, visible=visible)
    if moved.crowds is None:
        return moved
    return replace(moved, crowds=clip(_moved(moved.crowds, matrix, bound), size))


def _moved(boxes: Tensor, matrix: Tensor, bound: str) -> Tensor:
    cx, cy, w, h = xyxy_to_cxcywh(boxes).unbind(-1)
    m = match_device(matrix, boxes).unsqueeze(1)
    x = m[..., 0, 0] * cx + m[..., 0, 1] * cy + m[..., 0, 2]
    y = m[..., 1, 0] * cx + m[..., 1, 1] * cy + m[..., 1, 2]
    sides = m[..., :2, :2].abs() * torch.stack((w, h), -1).unsqueeze(-2)
    width, height = (sides.norm(dim=-1) if bound == "ellipse" else sides.sum(-1)).unbind(-1)
    return cxcywh_to_xyxy(torch.stack((x, y, width, height), -1))


def replace_boxes(targets: Targets, boxes: Tensor, size: tuple[int, int], *, visible: float) -> Targets:
    """Replace boxes by moved ones, clipped to the image, and drop those that are mostly outside.

    Args:
        targets: before the move.
        boxes: ``(B, N, 4)``, xyxy pixels, the same boxes after it.
        size: ``(height, width)`` of the images in pixels.
        visible: see `move_boxes`.

    Returns:
        New targets; dropped boxes are padding (label −1).

    Example:
        >>> t = Targets(torch.tensor([[[0.0, 0.0, 4.0, 4.0]]]), torch.tensor([[0]]))
        >>> replace_boxes(t, t.boxes + 17, (20, 20), visible=0.5).boxes
        tensor([[[17., 17., 20., 20.]]])
    """
    inside = clip(boxes, size)
    left = area(inside)
    keep = targets.valid & (left > 0) & (left >= visible * area(boxes))
    return replace(
        targets,
        boxes=torch.where(keep.unsqueeze(-1), inside, 0.0),
        labels=torch.where(keep, targets.labels, -1),
    )


def move_masks(masks: Tensor, matrix: Tensor) -> Tensor:
    """Warp each mask by its image's map with nearest-neighbour sampling.

    Args:
        masks: ``(B, H, W) int64``, class ids; −1 where a pixel is ignored.
        matrix: ``(B, 3, 3)`` from `draw_affine`.

    Returns:
        ``(B, H, W) int64``; pixels from outside the mask are −1.

    Example:
        >>> shift = torch.tensor([[[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]])  # one pixel to the right
        >>> move_masks(torch.tensor([[[0, 2, 2]]]), shift)
        tensor([[[-1,  0,  2]]])
    """
    shifted = masks.unsqueeze(1).float() + 1  # grid_sample pads with 0, which becomes -1
    moved = grid_sample(shifted, sampling_grid(shifted, matrix), mode="nearest", align_corners=False)
    return moved.squeeze(1).to(torch.int64) - 1
