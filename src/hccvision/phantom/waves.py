"""Sine waves that bend outlines, and smooth random fields."""

from __future__ import annotations

import numpy as np
from PIL import Image

Points = np.ndarray  # (n, 2) float, x and y in mm


def draw_waves(rng: np.random.Generator, lengths: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Draw sine waves of random directions and phases.

    Args:
        rng: random numbers.
        lengths: ``(K,)`` wavelengths in mm.
        amplitudes: ``(K,)`` in mm.

    Returns:
        ``(K, 6)``, see `hccvision.phantom.Patient.waves`.

    Example:
        >>> draw_waves(np.random.default_rng(0), np.array([50.0, 100.0]), np.array([1.0, 2.0])).shape
        (2, 6)
    """
    vectors = rng.standard_normal((len(lengths), 3)) * (1, 1, 0.6)
    vectors *= (2 * np.pi / lengths / np.linalg.norm(vectors, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, (len(lengths), 1))
    return np.hstack([vectors, phases, amplitudes[:, None] * rng.standard_normal((len(lengths), 2))])


def bend(points: Points, z: float | np.ndarray, waves: np.ndarray) -> Points:
    """Compute the displacement that waves give to points.

    Args:
        points: ``(n, 2)``, x and y in mm.
        z: one height in mm, or ``(n,)`` heights.
        waves: ``(K, 6)`` from `draw_waves`.

    Returns:
        ``(n, 2)`` displacements in mm.

    Example:
        >>> bend(np.zeros((1, 2)), 0.0, np.array([[0, 0, 0, np.pi / 2, 3.0, 4.0]]))
        array([[3., 4.]])
    """
    return np.sin(points @ waves[:, :2].T + np.multiply.outer(z, waves[:, 2]) + waves[:, 3]) @ waves[:, 4:]


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], grain: float, turn: float) -> np.ndarray:
    """Draw a smooth random field of about unit variance.

    Args:
        rng: random numbers.
        size: ``(height, width)`` in pixels.
        grain: size of the lumps in pixels.
        turn: position across the slices, in lumps: the field changes smoothly with it for equal random numbers.

    Returns:
        ``(height, width) float32``.

    Example:
        >>> smooth_noise(np.random.default_rng(0), (40, 60), 8.0, 0.0).shape
        (40, 60)
    """
    a, b = rng.standard_normal((2, int(size[0] / grain) + 3, int(size[1] / grain) + 3), dtype=np.float32)
    grid = Image.fromarray(np.float32(1.35 * np.cos(turn / 3)) * a + np.float32(1.35 * np.sin(turn / 3)) * b)
    box = (1, 1, 1 + size[1] / grain, 1 + size[0] / grain)
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC, box=box))
