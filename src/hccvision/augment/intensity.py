"""Changes of grey levels: brightness, contrast, coil shading and blur."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from hccvision.augment.batch import choose_images, match_device


def adjust_intensity(
    images: Tensor, generator: Generator, *, gain: float = 0.0, offset: float = 0.0, gamma: float = 0.0
) -> Tensor:
    """Change brightness, contrast and gamma of each image.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        gain: contrast about mid-grey is multiplied by a factor in ``1 ± gain``.
        offset: largest brightness shift, in either direction.
        gamma: the exponent of the grey levels lies in ``1 ± gamma``.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> images = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)
        >>> torch.equal(adjust_intensity(images, torch.Generator()), images)
        True
    """
    u = match_device(torch.rand(3, len(images), 1, 1, 1, generator=generator) * 2 - 1, images)
    images = (images - 0.5) * (1 + gain * u[0]) + 0.5 + offset * u[1]
    return images.clamp(0, 1) ** (1 + gamma * u[2]) if gamma else images.clamp(0, 1)


def shade(images: Tensor, generator: Generator, *, strength: float, cells: int = 4) -> Tensor:
    """Multiply each image by a smooth random field, like the uneven sensitivity of receiver coils.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        strength: standard deviation of the field's logarithm at its knots.
        cells: knots along each side.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> images = torch.full((1, 1, 8, 8), 0.5)
        >>> torch.equal(shade(images, torch.Generator(), strength=0.0), images)
        True

    Source:
        The multiplicative bias field of Sled, Zijdenbos and Evans 1998, doi:10.1109/42.668698, drawn at random.
    """
    knots = strength * torch.randn(len(images), 1, cells, cells, generator=generator)
    field = interpolate(match_device(knots, images), images.shape[-2:], mode="bicubic", align_corners=True)
    return (images * field.exp()).clamp_(0, 1)


def blur(
    images: Tensor, generator: Generator, *, share: float, sigma: tuple[float, float], inplace: bool = False
) -> Tensor:
    """Blur a random part of the images with a Gaussian.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        sigma: smallest and largest standard deviation of the Gaussian, in pixels.
        inplace: whether to modify ``images``.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> spot = torch.zeros(1, 1, 9, 9)
        >>> spot[..., 4, 4] = 1
        >>> bool(blur(spot, torch.Generator(), share=1.0, sigma=(1.0, 1.0)).max() < 0.2)
        True
    """
    chosen = choose_images(len(images), share, generator)
    if not len(chosen):
        return images
    from kornia.filters import gaussian_blur2d

    side = 2 * math.ceil(3 * sigma[1]) + 1
    spread = sigma[0] + torch.rand(len(chosen), 1, generator=generator) * (sigma[1] - sigma[0])
    rows = chosen.to(images.device, non_blocking=True)
    blurred = gaussian_blur2d(images[rows], (side, side), spread.expand(-1, 2))  # on the CPU: kornia reads the values
    blurred.clamp_(0, 1)
    return images.index_copy_(0, rows, blurred) if inplace else images.index_copy(0, rows, blurred)
