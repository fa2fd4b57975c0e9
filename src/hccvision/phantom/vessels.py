"""Vessels, small bowel and renal pyramids, as chains of balls."""

from __future__ import annotations

from typing import Any

import numpy as np

from hccvision.phantom.tissues import TISSUE_IDS
from hccvision.phantom.waves import bend


def draw_balls(rng: np.random.Generator, half_axes: tuple[float, float], waves: np.ndarray) -> np.ndarray:
    """Draw what the atlas has no outline for: vessels, small bowel and renal pyramids.

    Args:
        rng: random numbers.
        half_axes: of the body wall, x and y, in mm.
        waves: the patient's waves, ``(K, 6)``.

    Returns:
        ``(N, 6)``, see `hccvision.phantom.Patient.balls`.
    """
    u = rng.uniform

    def at(x: Any, y: Any, z: Any) -> np.ndarray:
        """Convert atlas coordinates to ``(n, 3)`` positions in mm."""
        x, y, z = np.broadcast_arrays(*np.atleast_1d(x, y, z))
        points = np.column_stack([x, y]) * (np.array(half_axes) / 100)
        return np.column_stack([points + bend(points, z, waves), z])

    def of(tissue: str, onto: str, balls: np.ndarray) -> np.ndarray:
        return np.column_stack([balls, np.full((len(balls), 2), (TISSUE_IDS[tissue], TISSUE_IDS[onto]))])

    balls = []
    for side, middle in ((-1, -42), (1, -32)):  # kidneys
        t = np.tile(np.linspace(-2.4, 2.4, 7), 9) + u(-0.15, 0.15, 63)
        z = np.repeat(np.linspace(-40, 40, 9), 7) + u(-3, 3, 63)
        girth = np.sqrt(1 - (z / 50) ** 2)
        pyramids = at(side * (47 + 9 * girth * np.cos(t)), 47 + 12 * girth * np.sin(t), middle + z)
        balls.append(of("renal medulla", "renal cortex", np.column_stack([pyramids, u(4.5, 6.5, 63)])))
    down = [(-0.9, 0.2, -0.45), (-0.55, -0.75, -0.5), (0.2, -0.9, -0.4)]
    bowel = _grow(rng, at(u(0, 68, 16), u(-50, 15, 16), u(-95, -10, 16)), rng.standard_normal((16, 3)), u(7, 10),
                  steps=40, wander=0.35, pull=0.012)  # fmt: skip
    twigs = at(u(-30, 80, 70), u(-75, 20, 70), u(-95, 40, 70))
    return np.vstack([
        *balls,
        of("portal vein", "liver",
           _grow(rng, at([-20, -22], [-2, -6], [0, 4]), [(-1, 0.15, 0.05), (-0.1, -0.9, 0.3)], 5.5, forks=6, steps=9)),
        of("hepatic vein", "liver", _grow(rng, at([-16] * 3, 8, 58), down, 4.8, forks=5, steps=11)),
        of("gut wall", "belly fat", bowel),
        of("gut content", "belly fat", bowel - (0, 0, 0, 3)),
        of("portal vein", "belly fat",
           _grow(rng, twigs, rng.standard_normal((70, 3)), 1.5, forks=2, steps=9, wander=0.3)),
        of("portal vein", "belly fat", _grow(rng, at(-16, -4, -6), [(0.95, 0.1, 0.1)], 3.6, steps=48, wander=0.1)),
        of("portal vein", "belly fat", _grow(rng, at(-4, -4, -95), [(0, 0, 1)], 4.8, steps=36, wander=0.04)),
        of("artery", "belly fat", _grow(rng, at(6, 2, -95), [(0, 0, 1)], 3.6, steps=36, wander=0.04)),
    ])  # fmt: skip


def _grow(
    rng: np.random.Generator,
    starts: np.ndarray,
    headings: Any,
    radius: float,
    *,
    forks: int = 0,
    steps: int = 8,
    wander: float = 0.15,
    pull: float = 0.0,
) -> np.ndarray:
    """Grow tubes that wander, fork and become thinner, as ``(N, 4)`` balls: x, y, z, radius in mm."""
    home = position = starts
    heading = np.array(headings, float)
    radii = np.full(len(home), radius)
    balls = []
    for fork in range(forks + 1):
        if fork:
            side = rng.standard_normal(heading.shape)
            side *= 0.75 / np.linalg.norm(side, axis=1, keepdims=True)
            heading = np.vstack([heading + side, heading - side])
            home, position, radii = np.vstack([home] * 2), np.vstack([position] * 2), np.tile(radii, 2)
            radii = radii * 0.78 * rng.uniform(0.85, 1.1, len(radii))
        for _ in range(steps):
            heading = heading + wander * rng.standard_normal(heading.shape) + pull * (home - position)
            heading /= np.linalg.norm(heading, axis=1, keepdims=True)
            position = position + 2.5 * heading
            balls.append(np.column_stack([position, radii]))
    return np.vstack(balls)
