"""Motion ghosts, as breathing causes them in MR images."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from hccvision.augment.batch import choose_images


def ghost(
    images: Tensor,
    generator: Generator,
    *,
    share: float,
    strength: tuple[float, float],
    copies: tuple[int, int] = (2, 6),
) -> Tensor:
    """Add faint shifted copies to a random part of the images, as breathing does along the phase-encoding direction.

    Args:
        images: ``(B, C, H, W) float`` in [0, 1].
        generator: on the CPU.
        share: probability for each image, in [0, 1].
        strength: smallest and largest fraction by which every n-th line of the spectrum is weakened, in [0, 1].
        copies: smallest and largest n, which is also the number of ghosts across the image; the direction, vertical
            or horizontal, is drawn for each image.

    Returns:
        ``(B, C, H, W)`` in [0, 1].

    Example:
        >>> images = torch.rand(2, 1, 32, 32)
        >>> torch.equal(ghost(images, torch.Generator(), share=0.0, strength=(0.2, 0.5)), images)
        True

    Source:
        Pérez-García, Sparks and Ourselin 2021, TorchIO, doi:10.1016/j.cmpb.2021.106236, "RandomGhosting".
    """
    chosen = choose_images(len(images), share, generator)
    if not len(chosen):
        return images
    ghosted = images.clone()
    u = torch.rand(len(chosen), 3, generator=generator).tolist()
    for i, (along, weak, number) in zip(chosen.tolist(), u, strict=True):
        dim = -2 if along < 0.5 else -1
        every = copies[0] + int(number * (copies[1] - copies[0] + 1))
        spectrum = torch.fft.fft(ghosted[i].to(torch.promote_types(images.dtype, torch.float32)), dim=dim)
        factor = torch.ones(spectrum.shape[dim], device=images.device)
        factor[every::every] = 1 - strength[0] - weak * (strength[1] - strength[0])
        middle = spectrum.shape[dim] // 50 + 1  # the lowest frequencies, the brightness, are kept
        factor[:middle] = factor[-middle:] = 1
        shape = (-1, 1) if dim == -2 else (-1,)
        ghosted[i] = torch.fft.ifft(spectrum * factor.view(shape), dim=dim).abs().clamp_(0, 1)
    return ghosted
