"""Scanners: how tissue becomes the pixels of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Scanner(NamedTuple):
    """How a scanner turns tissue into pixels.

    Args:
        size: ``(height, width)`` of the image.
        spacing: mm per pixel, in both directions.
        band: fractions of k-space measured along columns and along rows; the rest is filled with zeros.
        noise: standard deviation of the complex noise that a full k-space would have, relative to the brightest tissue.
        gain: grey level of the brightest tissue.
        gamma: exponent of the tissues' grey levels; below 1 brightens the dark ones.
        oversample: painted points per pixel, in both directions.
    """

    size: tuple[int, int]
    spacing: float
    band: tuple[float, float]
    noise: float
    gain: float
    gamma: float
    oversample: int


SCANNERS = {
    "A": Scanner((520, 520), 0.70, (0.60, 0.70), noise=0.042, gain=240.0, gamma=1.0, oversample=1),
    "B": Scanner((260, 320), 1.15, (0.90, 1.00), noise=0.034, gain=215.0, gamma=0.85, oversample=2),
}


def acquire(rng: np.random.Generator, signal: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Compute the magnitude image from the centre of k-space, with complex noise and a Hamming window.

    Args:
        rng: of the noise.
        signal: ``(H, W) float32``, 1 = brightest tissue.
        scanner: its band and noise.

    Returns:
        ``(H, W) float32``, at least 0.

    Example:
        >>> image = acquire(np.random.default_rng(0), np.zeros((260, 320), np.float32), SCANNERS["B"])
        >>> image.shape, bool((image >= 0).all())
        ((260, 320), True)
    """
    height, width = signal.shape
    ny, nx = (int(share * k / 2) for share, k in zip(scanner.band, signal.shape, strict=True))
    rows = np.r_[:ny, -ny:0]
    r = np.hypot(rows[:, None] / ny, np.arange(nx) / nx)
    window = np.where(r < 1, 0.54 + 0.46 * np.cos(np.pi * r), 0).astype(np.float32)
    noise = rng.standard_normal((2, 2 * ny, nx, 2), dtype=np.float32).view(np.complex64)[..., 0]
    noise *= np.float32(scanner.noise * np.sqrt(height * width / 2))
    noise[0] += np.fft.rfft2(signal)[rows, :nx]
    kspace = np.zeros((2, height, width // 2 + 1), np.complex64)  # spectra of the image's real and imaginary part
    kspace[:, rows, :nx] = noise * window
    real, imaginary = np.fft.irfft2(kspace, s=signal.shape)
    return np.sqrt(real**2 + imaginary**2)
