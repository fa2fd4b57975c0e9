"""Lesions: where they lie, what they look like, and how they are blended into a slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from hccvision.phantom.atlas import HIGHEST, LOWEST
from hccvision.phantom.painting import paint
from hccvision.phantom.patients import Lesion, Patient
from hccvision.phantom.tissues import LIVER_IDS
from hccvision.phantom.waves import smooth_noise

SMALLEST_MM = 4.0  # lesions with a smaller visible section are neither drawn nor annotated

_PLAN = (150, 190)  # size of the coarse map on which lesions are placed, in points of 2 mm


def add_lesion(
    rng: np.random.Generator, patient: Patient, kind: str, z: float, diameter: float, contrast: float = 1.0
) -> Patient:
    """Add a lesion inside the liver, away from its border and from other lesions as far as there is room.

    Args:
        rng: random numbers.
        patient: to add to; it is not changed.
        kind: see `Lesion`.
        z: height of the centre in mm, clipped to that of the liver.
        diameter: in mm.
        contrast: of an HCC against the liver, relative to level ``"medium"``.

    Returns:
        A new patient; the same one if there is no room at all.
    """
    z = float(np.clip(z, LOWEST, HIGHEST))
    stretch = np.exp(rng.normal(0, 0.1, 3))
    radii = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    room = np.isin(paint(patient, z, 0.5, _PLAN), LIVER_IDS)
    y, x = ((k + 0.5 - n / 2) * 2 for k, n in zip(np.indices(_PLAN), _PLAN, strict=True))
    for other in patient.lesions:
        a, b, c = other.centre
        room &= (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 > 1.1 * max(other.radii) ** 2
    for share in (1.0, 0.7, 0.4, 0.0):
        blurred = Image.fromarray(np.uint8(255) * room).filter(ImageFilter.BoxBlur(float(share * radii.max() / 2)))
        spots = np.flatnonzero(np.asarray(blurred) == 255)  # points with a margin of room on all sides
        if len(spots):
            break
    else:
        return patient
    spot = rng.choice(spots)
    lesion = Lesion(
        kind,
        centre=(float(x.flat[spot]), float(y.flat[spot]), z),
        radii=tuple(radii.tolist()),
        tilt=rng.uniform(0, np.pi),
        wobble=tuple((rng.normal(0, 0.07 / k), rng.uniform(0, 2 * np.pi)) for k in range(2, 7)),
        seed=int(rng.integers(2**31)),
        **_draw_look(rng, kind, patient.phase, diameter, contrast),
    )
    return replace(patient, lesions=(*patient.lesions, lesion))


def blend_lesion(
    signal: np.ndarray, lesion: Lesion, z: float, liver: np.ndarray, grey: float, spacing: float
) -> tuple[list[int], float] | None:
    """Blend the section of a lesion into a slice, in place.

    Args:
        signal: ``(H, W) float32``, modified.
        lesion: to blend in.
        z: height of the slice in mm.
        liver: ``(H, W) bool``, where the lesion may lie.
        grey: grey level of the liver.
        spacing: mm per pixel.

    Returns:
        The box ``x1, y1, x2, y2`` of the visible pixels and the diameter of the section in mm; None where less than
        `SMALLEST_MM` is visible.
    """
    height = (z - lesion.centre[2]) / lesion.radii[2]
    if abs(height) >= 1:
        return None
    across = 1.4 * max(lesion.radii) / spacing + 3
    column, row = (c / spacing + k / 2 for c, k in zip(lesion.centre[:2], liver.shape[::-1], strict=True))
    top, left = max(int(row - across), 0), max(int(column - across), 0)
    patch = np.s_[top : int(row + across), left : int(column + across)]
    inside = liver[patch]
    dy, dx = (np.indices(inside.shape) + 0.5 + np.array([top - row, left - column])[:, None, None]) * spacing
    c, s = np.cos(lesion.tilt), np.sin(lesion.tilt)
    u, v = (c * dx + s * dy) / lesion.radii[0], (c * dy - s * dx) / lesion.radii[1]
    angle = np.arctan2(v, u)
    border = 1 + sum(a * np.cos(k * angle + p) for k, (a, p) in enumerate(lesion.wobble, start=2))
    distance = np.sqrt((u**2 + v**2) / border**2 + height**2)  # 1 at the border
    visible = (distance < 1) & inside
    diameter = float(2 * np.sqrt(visible.sum() / np.pi) * spacing)
    if diameter < SMALLEST_MM:
        return None

    own = np.random.default_rng(lesion.seed)
    radius = lesion.diameter / 2
    lump, gap = max(3.0, radius / 3), 0.6 * radius
    mosaic = lesion.mosaic * np.tanh(2 * smooth_noise(own, inside.shape, lump / spacing, z / lump))
    mosaic += 0.03 * smooth_noise(own, inside.shape, 3 / spacing, z / 3)
    gaps = lesion.patchy * (0.5 + 0.5 * np.tanh(3 * smooth_noise(own, inside.shape, gap / spacing, z / gap)))
    depth = (1 - distance) * radius
    rim = (1 - gaps) / (1 + np.exp((depth - lesion.rim_mm) / (0.25 * lesion.rim_mm + 0.2)))
    value = grey * (lesion.core * (1 + mosaic) + (lesion.rim - lesion.core) * rim)
    signal[patch] += np.clip(0.5 + depth / 1.6, 0, 1) * inside * (value - signal[patch])
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1], diameter


def _draw_look(rng: np.random.Generator, kind: str, phase: str, diameter: float, contrast: float) -> dict[str, float]:
    """Draw the grey levels of a lesion, relative to those of the liver."""
    u = rng.uniform
    look = {"core": 1.0, "rim_mm": 1.0, "patchy": 0.0, "mosaic": 0.0}
    compartments = contrast * u(0.03, 0.18) * min(1, diameter / 25)
    if kind == "cyst":
        look["core"] = u(0.2, 0.5)
    elif kind == "nodule":
        look |= {"core": u(0.87, 1.15), "mosaic": 0.04}
    elif kind == "haemangioma":  # fills from nodules at its border inwards
        filling = {"arterial": (0.75, 1.7, 0.35), "portal": (0.9, 1.35, 0.6), "delayed": (1.2, 1.25, 0.9)}
        core, rim, share = filling[phase]
        look |= {"core": core * u(0.9, 1.1), "rim": rim * u(0.85, 1.1), "rim_mm": share * diameter / 2, "patchy": 1.0}
        if diameter < 16 and u() < 0.4:  # flash-filling: looks like arterial enhancement
            look |= {"core": rim * u(0.8, 1.0), "patchy": 0.0}
    elif phase == "arterial":
        look |= {"core": 1 + contrast * (u(0.35, 0.95) if u() < 0.9 else u(-0.4, -0.2)), "mosaic": compartments}
    else:
        late = phase == "delayed"
        look |= {"core": 1 - contrast * u(0.22, 0.58 if late else 0.5), "mosaic": compartments}
        if u() < (0.9 if late else 0.75):  # capsule
            look |= {"rim": 1 + contrast * u(0.15, 0.45), "rim_mm": u(1.2, 2.6)}
    return {"rim": look["core"]} | look
