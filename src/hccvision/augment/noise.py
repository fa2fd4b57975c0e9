"""Gaussian and Rician noise, read from a pool of normal numbers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Generator, Tensor

from hccvision.augment.batch import choose_images

POOL = 2**20


def add_noise(images: Tensor, generator: Generator, *, share: float, std: float, inplace: bool = False) -> Tensor:
    """Add Gaussian noise to a random part of the images.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        std: standard deviation, for images in [0, 1].
        inplace: whether to modify ``images``.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> noisy = add_noise(torch.full((1, 1, 64, 64), 0.5), torch.Generator(), share=1.0, std=0.1)
        >>> round(noisy.std().item(), 1)
        0.1
    """
    chosen = choose_images(len(images), share, generator)
    if not len(chosen):
        return images
    noisy = images if inplace else images.clone()
    for i, noise in zip(chosen.tolist(), _normals(len(chosen), images, generator), strict=True):
        noisy[i].add_(noise, alpha=std).clamp_(0, 1)
    return noisy


def add_rician_noise(images: Tensor, generator: Generator, *, share: float, std: float) -> Tensor:
    """Add the noise of MR magnitude images to a random part of the images.

    It is close to Gaussian in bright regions; in dark ones it is Rayleigh distributed and never negative.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        std: standard deviation in the real and the imaginary channel, for images in [0, 1].

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> noisy = add_rician_noise(torch.zeros(1, 1, 64, 64), torch.Generator(), share=1.0, std=0.1)
        >>> bool(noisy.mean() > 0.1)
        True

    Source:
        Gudbjartsson and Patz 1995, doi:10.1002/mrm.1910340618.
    """
    chosen = choose_images(len(images), share, generator)
    if not len(chosen):
        return images
    noisy = images.clone()
    both = _normals(len(chosen), images, generator), _normals(len(chosen), images, generator)
    for i, real, imaginary in zip(chosen.tolist(), *both, strict=True):
        noisy[i] = torch.hypot(noisy[i] + std * real, std * imaginary).clamp_(0, 1)
    return noisy


@lru_cache(maxsize=4)
def _pool(device: torch.device) -> Tensor:
    """Standard normals on a device; reading them at random offsets is much cheaper than drawing new ones."""
    return torch.randn(POOL, generator=Generator().manual_seed(0)).to(device)


def _normals(count: int, images: Tensor, generator: Generator) -> list[Tensor]:
    """Return noise in the shape of one image, ``count`` times, each from its own offset in the pool."""
    pool, shape = _pool(images.device), images.shape[1:]
    size = shape.numel()
    pool = pool if size < POOL // 2 else pool.repeat(2 * size // POOL + 1)
    offsets = torch.randint(len(pool) - size, (count,), generator=generator).tolist()
    return [pool[i : i + size].view(shape).to(images.dtype) for i in offsets]
