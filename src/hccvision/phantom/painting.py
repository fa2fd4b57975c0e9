"""Maps of tissues, painted from the atlas for one patient at one height."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from hccvision.phantom.atlas import ATLAS, BODY, CAVITY, HIGHEST, LOWEST, Organ
from hccvision.phantom.patients import Patient
from hccvision.phantom.tissues import TISSUE_IDS
from hccvision.phantom.waves import Points, bend


def paint(patient: Patient, z: float, scale: float, size: tuple[int, int]) -> np.ndarray:
    """Paint the tissues of a patient at one height.

    Args:
        patient: its anatomy; lesions are not painted.
        z: height in mm, clipped to that of the liver.
        scale: points per mm.
        size: ``(height, width)`` in points.

    Returns:
        ``(height, width) uint8`` ids of tissues.
    """
    z = float(np.clip(z, LOWEST, HIGHEST))
    canvas = Image.new("L", size[::-1], TISSUE_IDS["air"])
    pen = ImageDraw.Draw(canvas)
    middle = np.array(size[::-1]) / 2

    def fill(points: Points, tissue: str) -> None:
        pen.polygon((points * scale + middle).ravel().tolist(), fill=TISSUE_IDS[tissue])

    def ring(shape: tuple, grow: Any) -> Points:
        points = _closed(shape) / 100 * (np.array(patient.half_axes) + grow)
        return points + bend(points, z, patient.waves) + 0.2 * bend(points, z, patient.ripples)

    fat = np.array([1.0, 0.6]) * patient.fat_mm
    for grow, tissue in ((fat, "skin"), (fat - 2.2, "fat"), (1.2, "fascia"), (0.0, "muscle")):
        fill(ring(BODY, grow), tissue)
    fill(_inset(ring(CAVITY, 0.0), -1.3), "fascia")
    fill(ring(CAVITY, 0.0), "belly fat")
    for organ in ATLAS.values():
        for side in (1, -1)[: 1 + organ.paired]:
            outline = _outline(organ, z, patient, side)
            if not len(outline):
                continue
            if organ.tissue == "renal cortex":
                fill(_inset(outline, -4), "belly fat")
            if organ.wall:
                fill(outline, organ.wall)
                outline = _inset(outline, organ.wall_mm)
            fill(outline, organ.tissue)
            if organ.gas:  # collects at the front: the patient lies on the back
                top, bottom = outline[:, 1].min(), outline[:, 1].max()
                surface = top + organ.gas * patient.gas * (bottom - top)
                fill(np.column_stack([outline[:, 0], np.minimum(outline[:, 1], surface)]), "gas")

    return _stamp_balls(np.asarray(canvas), patient.balls, z, scale)


def _stamp_balls(tissues: np.ndarray, balls: np.ndarray, z: float, scale: float) -> np.ndarray:
    """Return the tissues with the sections of balls painted over the tissues that they may cover."""
    size = tissues.shape
    cut = balls[:, 3] * np.abs(balls[:, 3]) - (balls[:, 2] - z) ** 2
    balls, radii = balls[cut > 0], scale * np.sqrt(cut[cut > 0, None])
    centres = balls[:, :2] * scale + np.array(size[::-1]) / 2
    corners = np.hstack([centres - radii, centres + radii])
    for onto in np.unique(balls[:, 5]):
        stamp = Image.new("L", size[::-1], TISSUE_IDS["air"])
        pen = ImageDraw.Draw(stamp)
        for corner, ball in zip(corners[balls[:, 5] == onto].tolist(), balls[balls[:, 5] == onto], strict=True):
            pen.ellipse(corner, fill=int(ball[4]))
        stamped = np.asarray(stamp)
        tissues = np.where((tissues == onto) & (stamped != TISSUE_IDS["air"]), stamped, tissues)
    return tissues


def _outline(organ: Organ, z: float, patient: Patient, side: int = 1) -> Points:
    """Interpolate an organ's outline at a height; no points where the organ does not reach."""
    keys = sorted(organ.outlines)
    if not keys[0] <= z <= keys[-1]:
        return np.zeros((0, 2))
    above = min(int(np.searchsorted(keys, z, side="right")), len(keys) - 1)
    low, high = keys[above - 1], keys[above]
    share = (z - low) / (high - low)
    points = (1 - share) * _closed(organ.outlines[low]) + share * _closed(organ.outlines[high])
    points = points * (side * patient.half_axes[0] / 100, patient.half_axes[1] / 100)
    return points + bend(points, z, patient.waves) + organ.ripple * bend(points, z, patient.ripples)


def _inset(points: Points, mm: float) -> Points:
    """Shrink an outline towards its centre by about ``mm``; a negative value enlarges it."""
    middle = points.mean(0)
    radius = np.linalg.norm(points - middle, axis=1, keepdims=True)
    return middle + (points - middle) * np.maximum(1 - mm / np.maximum(radius, 1e-6), 0)


@functools.cache
def _closed(shape: tuple) -> Points:
    """Return points around an oval, or around a polygon with its corners cut three times (Chaikin 1974)."""
    if not isinstance(shape[0], tuple):
        x, y, rx, ry, tilt = shape
        t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        u, v = rx * np.cos(t), ry * np.sin(t)
        return np.column_stack([x + np.cos(tilt) * u - np.sin(tilt) * v, y + np.sin(tilt) * u + np.cos(tilt) * v])
    points = np.array(shape, float)
    for _ in range(3):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points
