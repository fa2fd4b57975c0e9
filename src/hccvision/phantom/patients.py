"""Patients and their lesions, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LESION = "hcc"


@dataclass(frozen=True)
class Lesion:
    """A slightly irregular ellipsoid in the liver; its grey levels are relative to those of the liver.

    Args:
        kind: ``"hcc"``, or one of the benign ``"cyst"``, ``"haemangioma"`` and ``"nodule"``.
        centre: x, y, z in mm.
        radii: semi-axes in mm; the first two lie in the slice.
        tilt: angle of these two, in radians.
        wobble: amplitude and phase of the 2nd, 3rd ... harmonic of the outline.
        core: grey level inside.
        rim: grey level of the rim.
        rim_mm: thickness of the rim.
        patchy: 0 for a continuous rim, 1 for one with gaps.
        mosaic: relative standard deviation of the compartments inside.
        seed: of the pattern inside.
    """

    kind: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: float
    wobble: tuple[tuple[float, float], ...]
    core: float
    rim: float
    rim_mm: float
    patchy: float
    mosaic: float
    seed: int

    @property
    def diameter(self) -> float:
        """Diameter of the sphere of equal volume, in mm."""
        return float(2 * np.prod(self.radii) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class Patient:
    """One synthetic patient: an anatomy, its lesions, and how it was imaged.

    Args:
        scanner: a name in `SCANNERS`.
        phase: contrast phase, one of `PHASES`.
        heights: z of the slices in mm, ascending.
        half_axes: of the body wall, x and y, in mm.
        fat_mm: thickness of the fat under the skin of the flanks.
        waves: ``(K, 6)`` sine waves that bend the atlas: wave vector (3), phase, amplitude in x and y (mm).
        ripples: the same with short wavelengths, for the outlines of single organs.
        grey: ``(T,)`` grey level of each tissue, 1 = brightest.
        balls: ``(N, 6)`` vessels, bowel and pyramids: x, y, z, radius (mm), tissue id, and id of the tissue it covers.
        cirrhosis: nodularity of the liver, in [0, 1].
        gas: filling of the bowel with gas, in [0, 1].
        lesions: benign ones first.
        seed: of textures and noise.
    """

    scanner: str
    phase: str
    heights: tuple[float, ...]
    half_axes: tuple[float, float]
    fat_mm: float
    waves: np.ndarray
    ripples: np.ndarray
    grey: np.ndarray
    balls: np.ndarray
    cirrhosis: float
    gas: float
    lesions: tuple[Lesion, ...]
    seed: int
