"""Affine maps, one per image, and the images they move."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

from hccvision.augment.batch import match_device


def draw_affine(
    batch: int,
    size: tuple[int, int],
    generator: Generator,
    *,
    flip: float = 0.0,
    rotation: float = 0.0,
    translation: float = 0.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Draw one affine map per image: flip, scale and rotate about the centre, then shift.

    Args:
        batch: number of images, B.
        size: ``(height, width)`` in pixels.
        generator: on the CPU; the draw is the same on every device.
        flip: probability of a left-right flip, in [0, 1].
        rotation: largest angle in degrees, in either direction.
        translation: largest shift as a fraction of each side, in either direction.
        scale: smallest and largest factor.

    Returns:
        ``(B, 3, 3) float32``, from pixels of the input to pixels of the output, where pixel centres lie at 0.5.

    Example:
        >>> draw_affine(1, (10, 20), torch.Generator(), flip=1.0)[0, 0] @ torch.tensor([3.0, 5.0, 1.0])
        tensor(17.)
    """
    height, width = size
    u = torch.rand(batch, 5, generator=generator)
    mirror = torch.where(u[:, 0] < flip, -1.0, 1.0)
    angle = (u[:, 1] * 2 - 1) * math.radians(rotation)
    zoom = scale[0] + u[:, 2] * (scale[1] - scale[0])
    shift = (u[:, 3:] * 2 - 1) * translation * torch.tensor([width, height])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    centre = torch.tensor([width / 2, height / 2])
    linear = torch.stack((torch.stack((cos * mirror, -sin), -1), torch.stack((sin * mirror, cos), -1)), -2)
    matrix = torch.eye(3).repeat(batch, 1, 1)
    matrix[:, :2, :2] = linear
    matrix[:, :2, 2] = centre + shift - (linear @ centre)
    return matrix


def move_images(images: Tensor, matrix: Tensor) -> Tensor:
    """Warp each image by its map with bilinear sampling; pixels from outside the image are black.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        matrix: ``(B, 3, 3)`` from `draw_affine`.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> shift = torch.tensor([[[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]])  # one pixel to the right
        >>> move_images(torch.ones(1, 1, 1, 3), shift).round()
        tensor([[[[0., 1., 1.]]]])
    """
    moved = grid_sample(images, sampling_grid(images, matrix), align_corners=False)
    return moved.clamp_(0, 1)  # the four bilinear weights can sum to slightly more than 1


def sampling_grid(images: Tensor, matrix: Tensor) -> Tensor:
    """Compute where `torch.nn.functional.grid_sample` reads each output pixel.

    Args:
        images: ``(B, C, H, W) float``.
        matrix: ``(B, 3, 3)`` from `draw_affine`.

    Returns:
        ``(B, H, W, 2)``, x and y in [−1, 1] over the image, with the dtype and device of the images.

    Example:
        >>> sampling_grid(torch.zeros(1, 1, 1, 2), torch.eye(3)[None])[0, 0]
        tensor([[-0.5000,  0.0000],
                [ 0.5000,  0.0000]])
    """
    height, width = images.shape[-2:]
    to_unit = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    to_pixels = torch.tensor([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1]])
    back = match_device(to_unit, matrix) @ torch.linalg.inv_ex(matrix).inverse @ match_device(to_pixels, matrix)
    return affine_grid(match_device(back[:, :2], images), list(images.shape), align_corners=False)
