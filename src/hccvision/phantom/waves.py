"""Sine waves that bend outlines, and smooth random fields."""

from __future__ import annotations

import numpy as np
from PIL import Image

Points = np.ndarray  # (n, 2) float, x and y in mm


def draw_waves(rng: np.random.Generator, lengths: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Draw sine waves of given lengths and amplitudes in mm; see `Patient.waves`."""
    vectors = rng.standard_normal((len(lengths), 3)) * (1, 1, 0.6)
    vectors *= (2 * np.pi / lengths / np.linalg.norm(vectors, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, (len(lengths), 1))
    return np.hstack([vectors, phases, amplitudes[:, None] * rng.standard_normal((len(lengths), 2))])


def bend(points: Points, z: float | np.ndarray, waves: np.ndarray) -> Points:
    """Sum the waves to a displacement in mm; ``z`` is one height, or one per point."""
    return np.sin(points @ waves[:, :2].T + np.multiply.outer(z, waves[:, 2]) + waves[:, 3]) @ waves[:, 4:]


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], grain: float, turn: float) -> np.ndarray:
    """Draw a smooth field of about unit variance, ``grain`` pixels to a lump, that changes with ``turn`` (in lumps)."""
    a, b = rng.standard_normal((2, int(size[0] / grain) + 3, int(size[1] / grain) + 3), dtype=np.float32)
    grid = Image.fromarray(np.float32(1.35 * np.cos(turn / 3)) * a + np.float32(1.35 * np.sin(turn / 3)) * b)
    box = (1, 1, 1 + size[1] / grain, 1 + size[0] / grain)
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC, box=box))
