"""Synthetic contrast-enhanced liver MR: patients, lesions and benign look-alikes, drawn from a seed.

The library's embedded data: examples and tests run on it offline. It has the shape of the real problem (few patients,
small lesions, look-alikes, two scanners) and no clinical worth.

How a slice comes about: an atlas of outlines at a few heights, bent by smooth waves of the patient's own, is painted as
a map of tissues; tissues become grey levels of the patient's contrast phase; lesions are blended in; coil shading, a
breathing ghost, the measured part of k-space and its noise make it the picture a scanner would give.

Lengths are mm: ``x`` to the right of the image (the patient's left), ``y`` down (to the back), ``z`` up (to the head);
0 is the middle of the body at the height of the liver's hilum.

The page "The phantom" of the documentation shows it beside a real slice, and its contrast and sizes beside measured
ones.

Source: the grey levels are those of fat-suppressed T1-weighted gradient echo after gadolinium, set by eye on the slice
that ships with pydicom (``examples_overlay.dcm``): spoiled, TR 5.5 ms, TE 2.8 ms, flip angle 10°, 1.5 T; their order is
that of the relaxation times in de Bazelaire et al., Radiology 230, 2004, and of the agent's concentration. The liver's
height is that of Kratzer et al., Journal of Ultrasound in Medicine 22, 2003; the kidneys' length that of Emamian et
al., American Journal of Roentgenology 160, 1993; the portal vein's width that of Weinreb et al., ibid. 139, 1982. The
lesions follow CT/MRI LI-RADS v2018 (American College of Radiology): nonrim arterial phase hyperenhancement, washout,
enhancing capsule, mosaic architecture. The noise is the magnitude of complex Gaussian noise, hence Rician
(Gudbjartsson and Patz, Magnetic Resonance in Medicine 34, 1995).
"""

from __future__ import annotations

import csv
import functools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hccvision.annotations import voc
from hccvision.contracts import Annotation

LESION = "hcc"
PHASES = ("arterial", "portal", "delayed")
LEVELS = {  # contrast of HCC against the liver, relative to medium; median diameter of HCC in mm
    "mild": (1.4, 36.0),
    "medium": (1.0, 20.0),
    "hard": (0.6, 16.0),
}
SMALLEST_MM = 4.0  # a lesion whose visible section is smaller across is neither drawn nor annotated

_TISSUES = {  # grey level in the three phases, 1 = brightest; relative sd of the fine structure
    "air": (0.00, 0.00, 0.00, 0.00),
    "skin": (0.34, 0.36, 0.36, 0.10),
    "fat": (0.23, 0.23, 0.23, 0.17),
    "belly fat": (0.13, 0.14, 0.14, 0.28),
    "fascia": (0.08, 0.09, 0.09, 0.10),
    "muscle": (0.16, 0.19, 0.20, 0.16),
    "marrow": (0.16, 0.20, 0.21, 0.16),
    "bone": (0.06, 0.06, 0.06, 0.10),
    "csf": (0.08, 0.08, 0.08, 0.10),
    "cord": (0.20, 0.22, 0.23, 0.10),
    "lung": (0.03, 0.03, 0.03, 0.30),
    "liver": (0.42, 0.54, 0.51, 0.03),
    "spleen": (0.70, 0.66, 0.58, 0.05),
    "renal cortex": (0.88, 0.82, 0.76, 0.06),
    "renal medulla": (0.55, 0.74, 0.80, 0.10),
    "artery": (0.95, 0.70, 0.60, 0.02),
    "vein": (0.50, 0.72, 0.62, 0.04),
    "portal vein": (0.52, 0.74, 0.62, 0.02),
    "hepatic vein": (0.32, 0.72, 0.62, 0.02),
    "pancreas": (0.56, 0.48, 0.44, 0.18),
    "gut wall": (0.36, 0.42, 0.40, 0.25),
    "gut content": (0.17, 0.18, 0.18, 0.30),
    "gas": (0.02, 0.02, 0.02, 0.30),
    "bile": (0.13, 0.13, 0.14, 0.04),
}
_ID = {tissue: number for number, tissue in enumerate(_TISSUES)}
_LIVER = tuple(_ID[tissue] for tissue in ("liver", "portal vein", "hepatic vein"))

_PLAN = (150, 190)  # points of the coarse map on which lesions are placed

Points = np.ndarray  # (n, 2) float, x and y in mm


class Scanner(NamedTuple):
    """How a scanner turns tissue into pixels.

    Args:
        size: ``(height, width)`` of the image.
        spacing: mm per pixel, both ways.
        band: share of k-space measured along columns and along rows; the rest is filled with zeros.
        noise: sd of the complex noise, were all of k-space measured, relative to the brightest tissue.
        gain: grey level of the brightest tissue.
        gamma: exponent on the tissues' grey levels; below 1 lifts the dark ones.
        oversample: painted points per pixel, both ways.
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


class _Organ(NamedTuple):
    """A closed outline at a few heights, interpolated between them.

    ``outlines`` maps z in mm to a polygon of ``(x, y)``, or to an oval ``(x, y, x radius, y radius, tilt in radians)``,
    in percent of the body wall's half axes. ``ripple`` is the unevenness in mm, ``gas`` the largest share of its height
    that gas fills, ``paired`` paints its mirror image too.
    """

    tissue: str
    outlines: dict[int, tuple]
    wall: str = ""
    wall_mm: float = 0.0
    ripple: float = 0.5
    gas: float = 0.0
    paired: bool = False


def _mirror(*half: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Close a right half, listed from front to back, with its mirror image."""
    return (*half, *((-x, y) for x, y in reversed(half) if x))


# fmt: off
_BODY = _mirror((0, -98), (28, -98), (58, -89), (82, -66), (97, -30), (99, 10), (90, 50), (68, 84), (34, 99), (0, 93))
_CAVITY = _mirror((0, -91), (30, -90), (60, -80), (81, -57), (93, -26), (95, 10), (87, 46), (68, 70), (46, 76),
                  (28, 66), (20, 46), (14, 26), (0, 18))
_ATLAS = {  # later organs cover earlier ones
    "lungs": _Organ("lung", {
        30: (66, 70, 3, 2, 0.0),
        62: ((86, -8), (86, 10), (79, 38), (66, 55), (50, 58), (28, 57), (26, 66), (46, 77), (68, 71), (88, 44),
             (95, 10), (88, -14))}, paired=True),
    "erector spinae": _Organ("muscle", {-95: (22, 79, 17, 14, 0.2), 62: (20, 80, 15, 12, 0.2)}, "fat", 2.0, 1.0,
                             paired=True),
    "psoas": _Organ("muscle", {-95: (26, 46, 11, 15, -0.4), -30: (20, 50, 5, 10, -0.4), 0: (18, 52, 1, 3, -0.4)},
                    paired=True),
    "descending colon": _Organ("gut content", {
        -95: (78, 24, 9, 13, 0.0), -20: (82, 0, 8, 13, 0.2), 5: (80, -14, 3, 4, 0.2)}, "gut wall", 2.0, 2.5, 0.5),
    "transverse colon": _Organ("gut content", {
        -95: (-6, -66, 26, 11, 0.1), -50: (2, -72, 24, 10, 0.0), -22: (8, -74, 4, 4, 0.0)}, "gut wall", 2.0, 3.0, 0.9),
    "splenic flexure": _Organ("gut content", {
        -70: (54, -60, 9, 12, 0.4), -15: (66, -46, 11, 17, 0.3), 25: (74, -32, 8, 13, 0.3), 40: (76, -26, 2, 3, 0.3)},
        "gut wall", 2.0, 3.0, 0.9),
    "duodenum": _Organ("gut content", {
        -95: (-20, 0, 12, 9, 0.0), -30: (-33, -14, 8, 10, 0.0), -6: (-24, -26, 7, 9, 0.4), 4: (-18, -32, 2, 3, 0.4)},
        "gut wall", 3.0, 2.5, 0.5),
    "pancreas": _Organ("pancreas", {
        -50: ((-30, -14), (-24, -26), (-12, -24), (-6, -14), (-8, -4), (-12, 4), (-18, 8), (-25, 6), (-29, 0),
              (-31, -6), (-31, -9), (-31, -12)),
        -22: ((-24, -14), (-18, -26), (-4, -34), (14, -34), (30, -22), (44, -10), (44, 0), (30, -8), (14, -20),
              (2, -20), (-8, -8), (-20, -4)),
        6: ((14, -22), (18, -28), (26, -28), (38, -20), (52, -4), (62, 10), (60, 18), (50, 12), (38, -2), (28, -12),
            (20, -14), (15, -16)),
        20: (54, 0, 4, 3, 0.0)}, ripple=2.5),
    "stomach": _Organ("gut content", {
        -60: (10, -50, 4, 4, 0.2), -40: (20, -52, 22, 11, 0.2), 0: (46, -46, 24, 22, 0.6), 62: (52, -8, 25, 36, -0.2)},
        "gut wall", 3.5, 3.0, 0.35),
    "spleen": _Organ("spleen", {
        -48: (84, 30, 2, 4, 0.0),
        -25: ((86, 10), (91, 20), (90, 36), (84, 50), (76, 58), (67, 61), (66, 54), (73, 47), (78, 38), (80, 30),
              (81, 21), (83, 14)),
        20: ((88, -24), (94, 4), (91, 28), (83, 50), (71, 66), (54, 68), (51, 60), (63, 49), (70, 34), (73, 14),
             (77, -4), (81, -20)),
        62: ((84, -12), (87, 6), (84, 24), (76, 40), (66, 50), (50, 54), (48, 46), (58, 38), (66, 26), (70, 12),
             (75, -2), (79, -10))}, ripple=1.0),
    "right kidney": _Organ("renal cortex", {
        -95: (-48, 44, 7, 9, -0.3), -75: (-48, 44, 18, 22, -0.3), -40: (-46, 46, 18, 24, -0.3),
        -5: (-43, 52, 15, 19, -0.3), 12: (-41, 55, 3, 4, -0.3)}),
    "left kidney": _Organ("renal cortex", {
        -85: (48, 46, 7, 9, 0.3), -65: (48, 46, 18, 22, 0.3), -30: (46, 48, 18, 24, 0.3), 8: (43, 53, 15, 19, 0.3),
        26: (41, 56, 3, 4, 0.3)}),
    "right renal sinus": _Organ("belly fat", {
        -68: (-41, 44, 2, 3, 0.0), -44: (-38, 45, 8, 8, 0.3), -18: (-38, 47, 2, 3, 0.0)}, ripple=3.0),
    "left renal sinus": _Organ("belly fat", {
        -58: (41, 45, 2, 3, 0.0), -34: (38, 46, 8, 8, -0.3), -8: (38, 48, 2, 3, 0.0)}, ripple=3.0),
    "liver": _Organ("liver", {
        -75: ((-90, 10), (-89, -12), (-84, -30), (-78, -40), (-71, -44), (-64, -42), (-60, -36), (-58, -28), (-57, -20),
              (-58, -10), (-60, -2), (-63, 6), (-67, 14), (-72, 22), (-78, 28), (-85, 24)),
        -40: ((-94, 10), (-91, -24), (-82, -50), (-68, -68), (-50, -75), (-38, -70), (-30, -60), (-31, -48), (-33, -34),
              (-35, -20), (-39, -4), (-44, 10), (-52, 22), (-62, 36), (-74, 50), (-87, 40)),
        0: ((-95, 10), (-91, -28), (-77, -62), (-50, -85), (-18, -90), (14, -86), (38, -74), (33, -58), (10, -45),
            (-10, -32), (-20, -8), (-22, 12), (-34, 32), (-46, 58), (-66, 70), (-86, 48)),
        62: ((-86, 8), (-90, -30), (-78, -63), (-50, -84), (-15, -88), (22, -84), (54, -66), (55, -46), (32, -26),
             (10, -14), (-6, -4), (-12, 14), (-26, 38), (-38, 58), (-62, 57), (-79, 38))}, ripple=0.8),
    "fissure": _Organ("belly fat", {
        -45: ((-28, -70), (-26, -74), (-24, -70), (-24, -60), (-26, -52), (-28, -60)),
        -8: ((-2, -92), (1, -92), (-1, -70), (-6, -54), (-9, -47), (-5, -70)),
        20: ((2, -80), (3, -80), (2, -70), (0, -62), (-1, -60), (0, -70))}, ripple=1.2),
    "porta hepatis": _Organ("belly fat", {
        -20: (-28, -16, 3, 3, 0.0), -4: (-26, -6, 9, 6, 0.6), 10: (-24, -4, 2, 2, 0.6)}, ripple=1.5),
    "gallbladder": _Organ("bile", {
        -70: (-38, -52, 3, 4, 0.2), -45: (-35, -48, 10, 15, 0.2), -14: (-27, -38, 7, 11, 0.3),
        0: (-23, -32, 2, 2, 0.3)}, "gut wall", 1.5, 1.0),
    "right crus": _Organ("muscle", {-95: (-8, 24, 3, 5, 0.0), 62: (-5, 19, 3, 14, 0.5)}),
    "left crus": _Organ("muscle", {-95: (15, 28, 2, 4, 0.0), 62: (18, 24, 3, 14, -0.3)}),
    "vena cava": _Organ("vein", {-95: (-14, 14, 10, 9, 0.2), 10: (-17, 14, 9, 9, 0.2), 62: (-15, 10, 10, 12, 0.2)}),
    "aorta": _Organ("artery", {-95: (5, 19, 8, 11, 0.0), 62: (8, 21, 8, 13, 0.0)}, "fascia", 0.8),
    "vertebra": _Organ("marrow", {-95: (0, 46, 18, 21, 0.0), 62: (0, 47, 16, 19, 0.0)}, "bone", 1.8, 1.2),
    "pedicle": _Organ("marrow", {-95: (14, 68, 9, 4, 0.5), 62: (14, 68, 9, 4, 0.5)}, "bone", 1.2, 1.5, paired=True),
    "spinous process": _Organ("marrow", {-95: (0, 84, 3, 9, 0.0), 62: (0, 85, 3, 9, 0.0)}, "bone", 1.2, 1.0),
    "spinal canal": _Organ("csf", {-95: (0, 70, 8, 7, 0.0), 62: (0, 70, 7, 7, 0.0)}, "fascia", 0.6),
    "spinal cord": _Organ("cord", {-95: (0, 72, 3, 3, 0.0), 62: (0, 70, 4, 4, 0.0)}),
}
# fmt: on
_LOWEST, _HIGHEST = min(_ATLAS["liver"].outlines), max(_ATLAS["liver"].outlines)


@dataclass(frozen=True)
class Lesion:
    """A slightly irregular ellipsoid in the liver; its grey levels are relative to the liver's.

    Args:
        kind: ``"hcc"``, or one of the benign ``"cyst"``, ``"haemangioma"`` and ``"nodule"``.
        centre: x, y, z in mm.
        radii: semi-axes in mm; the first two lie in the slice.
        tilt: of those two, in radians.
        wobble: amplitude and phase of the 2nd, 3rd ... harmonic of the outline.
        core: grey level inside.
        rim: grey level of the rim.
        rim_mm: thickness of the rim.
        patchy: 0 for an unbroken rim, 1 for one with gaps.
        mosaic: relative sd of the inner compartments.
        seed: of the inner pattern.
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
        """That of the ball of equal volume, in mm."""
        return float(2 * np.prod(self.radii) ** (1 / 3))


@dataclass(frozen=True, eq=False)
class Patient:
    """One synthetic patient: an anatomy, its lesions, and how it was imaged.

    Args:
        scanner: a name in `SCANNERS`.
        phase: of contrast, one of `PHASES`.
        heights: z of the slices in mm, ascending.
        half_axes: of the body wall, x and y, in mm.
        fat_mm: thickness of the fat under the skin of the flanks.
        waves: ``(K, 6)`` sine waves that bend the atlas: wave vector (3), phase, amplitude in x and y (mm).
        ripples: the same, of short wavelength, for the outlines of single organs.
        grey: ``(T,)`` grey level of each tissue, 1 = brightest.
        balls: ``(N, 6)`` vessels, bowel and pyramids: x, y, z, radius (mm), tissue, and the tissue it may cover.
        cirrhosis: 0 to 1, how nodular the liver is.
        gas: 0 to 1, how full of gas the bowel is.
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


class Slice(NamedTuple):
    """An image with what there is to see in it.

    Args:
        image: ``(H, W) uint8``.
        annotation: one box per visible HCC, tight around its visible pixels.
        diameters: of each visible HCC's section, in mm, in the order of the boxes.
        look_alikes: how many benign lesions are visible.
    """

    image: np.ndarray
    annotation: Annotation
    diameters: tuple[float, ...]
    look_alikes: int


def draw_patient(
    seed: int | Sequence[int], *, cancer: bool, scanner: str = "A", level: str = "medium", slices: int = 6
) -> Patient:
    """Draw a patient; without ``cancer`` it is the same patient less the HCC, benign lesions and all.

    Args:
        seed: one number or several, each at least 0.
        cancer: whether to add HCC: one to five, 5-60 mm across, at least one of them crossed by a slice.
        scanner: a name in `SCANNERS`.
        level: of difficulty, a name in `LEVELS`.
        slices: how many, 7 mm apart (less where that would exceed 56 mm), around a height of the patient's own.

    Returns:
        The patient, ready for `render`.

    Raises:
        ValueError: if a name is unknown or ``slices`` is less than 1.

    Example:
        >>> patient = draw_patient(7, cancer=True)
        >>> sum(lesion.kind == "hcc" for lesion in patient.lesions) >= 1, len(patient.heights)
        (True, 6)
    """
    _check("scanner", scanner, SCANNERS)
    _check("level", level, LEVELS)
    if slices < 1:
        raise ValueError(f"a patient needs at least 1 slice, got {slices}")
    anatomy, benign, malignant = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    u = anatomy.uniform
    half_axes = (u(130, 148), u(90, 108))
    lengths = np.append(np.geomspace(50, 280, 9), 1e4)  # the last shifts the whole body
    waves = _draw_waves(anatomy, lengths, np.minimum(0.011 * lengths, 5))
    ripples = _draw_waves(anatomy, np.geomspace(14, 45, 10), np.full(10, 0.45))
    phase = int(anatomy.integers(len(PHASES)))
    grey = np.array([row[phase] for row in _TISSUES.values()]) * np.exp(anatomy.normal(0, 0.07, len(_TISSUES)))
    grey[[_ID["fat"], _ID["belly fat"]]] *= u(0.75, 1.25)
    middle, half = u(-32, 34), min(3.5 * (slices - 1), 28.0)
    low, high = middle - half, middle + half
    patient = Patient(
        scanner=scanner,
        phase=PHASES[phase],
        heights=tuple(np.linspace(low, high, slices).tolist()),
        half_axes=half_axes,
        fat_mm=u(5, 24),
        waves=waves,
        ripples=ripples,
        grey=grey,
        balls=_draw_balls(anatomy, half_axes, waves),
        cirrhosis=max(0.0, u(-0.8, 1.0)),
        gas=u(),
        lesions=(),
        seed=int(anatomy.integers(2**31)),
    )
    for _ in range(benign.poisson(1.6)):
        kind = ("cyst", "haemangioma")[benign.integers(2)]
        diameter = float(np.clip(benign.lognormal(np.log(13), 0.5), 4.5, 45))
        patient = _add_lesion(benign, patient, kind, benign.uniform(low - 8, high + 8), diameter)
    for _ in range(benign.poisson(6 * patient.cirrhosis)):
        patient = _add_lesion(benign, patient, "nodule", benign.uniform(low - 8, high + 8), benign.uniform(5, 14))
    contrast, median_mm = LEVELS[level]
    for number in range(cancer * (1 + min(int(malignant.poisson(0.8)), 4))):
        diameter = float(np.clip(malignant.lognormal(np.log(median_mm), 0.5), 5, 60))
        z = malignant.uniform(low, high)
        if number == 0:  # a slice must cross this one
            z = patient.heights[malignant.integers(slices)] + malignant.uniform(-0.15, 0.15) * diameter
        patient = _add_lesion(malignant, patient, LESION, z, diameter, contrast)
    return patient


def render(patient: Patient, z: float) -> Slice:
    """Image one slice of a patient: the same patient and height give the same pixels.

    Args:
        patient: from `draw_patient`.
        z: height in mm, usually one of ``patient.heights``; the liver reaches from -75 to 62.

    Returns:
        The image with its boxes.

    Raises:
        ValueError: if the liver does not reach to ``z``.

    Example:
        >>> patient = draw_patient(7, cancer=True, scanner="B")
        >>> image, annotation, diameters, _ = render(patient, patient.heights[3])
        >>> image.shape, len(annotation) == len(diameters)
        ((260, 320), True)
    """
    if not _LOWEST <= z <= _HIGHEST:
        raise ValueError(f"the liver reaches from {_LOWEST} to {_HIGHEST} mm, got z = {z}: take a height in between")
    scanner = SCANNERS[patient.scanner]
    size, spacing, n = scanner.size, scanner.spacing, scanner.oversample
    own = np.random.default_rng([patient.seed, 0])  # what all slices share
    fresh = np.random.default_rng([patient.seed, 1, round((z - _LOWEST) * 1000)])

    grey = (patient.grey**scanner.gamma).astype(np.float32)
    slab = [_paint(patient, z + dz, n / spacing, (n * size[0], n * size[1])) for dz in (-0.8, 0.8)]
    signal = np.array(Image.fromarray(0.5 * (grey[slab[0]] + grey[slab[1]])).reduce(n))
    tissues = slab[0][::n, ::n]
    texture = np.array([row[-1] for row in _TISSUES.values()], np.float32)
    texture[_ID["liver"]] += 0.06 * patient.cirrhosis
    if patient.phase == "arterial":
        texture[_ID["spleen"]] = 0.16
    lumps = ((0.5, 2.6), (0.55, 6.0), (0.35, 22.0))
    grain = sum(share * _noise(own, size, mm / spacing, z / mm) for share, mm in lumps)
    signal *= 1 + texture[tissues] * grain

    liver = np.isin(np.arange(len(_TISSUES)), _LIVER)[tissues]
    boxes, diameters, look_alikes = [], [], 0
    for lesion in patient.lesions:
        seen = _blend(signal, lesion, z, liver, float(grey[_ID["liver"]]), spacing)
        if seen is not None and lesion.kind == LESION:
            boxes.append(seen[0])
            diameters.append(seen[1])
        else:
            look_alikes += seen is not None

    y, x = (((np.arange(k, dtype=np.float32) + 0.5) / k - 0.5) * k * spacing for k in size)
    surface = (x / 150) ** 2 + (y[:, None] / 105) ** 2
    signal *= np.exp(0.15 * _noise(own, size, 190 / spacing, 0) + 0.28 * (surface - 0.6))
    signal += np.float32(own.uniform(0, 0.025)) * np.roll(signal, int(size[0] * own.uniform(0.2, 0.4)), axis=0)
    image = np.clip(np.rint(scanner.gain * _acquire(fresh, signal, scanner)), 0, 255).astype(np.uint8)
    annotation = Annotation(np.array(boxes, np.float32), (LESION,) * len(boxes), size=size)
    return Slice(image, annotation, tuple(diameters), look_alikes)


def write_dataset(
    folder: str | Path,
    *,
    patients: int = 20,
    seed: int = 0,
    slices: int = 6,
    cancer_share: float = 0.5,
    level: str = "medium",
) -> Path:
    r"""Write a data set as LabelImg leaves one, all of it or nothing; equal arguments give equal bytes.

    The folder gets ``JPEGImages/P007_03.png`` (8-bit grey: 520 x 520 from scanner A, 320 wide x 260 high from scanner
    B), ``Annotations/P007_03.xml`` (Pascal VOC, class ``hcc``; no objects without HCC) and ``patients.csv``.
    ``^(P\d+)_`` finds the patient in a file name. Half of the patients with HCC, and half of those without, come from
    each scanner: it says nothing about the class. The table has a row per slice:

    - ``image``, ``patient``: ``P007_03.png``, ``P007``.
    - ``class``: ``cancer`` if this slice shows an HCC, else ``normal``, also where the patient has one elsewhere.
    - ``scanner``, ``phase``: ``A`` or ``B``, and ``arterial``, ``portal`` or ``delayed``; one of each per patient.
    - ``lesions``: how many HCC the slice shows, the boxes of its XML.
    - ``look_alikes``: how many cysts, haemangiomas and regenerative nodules it shows, unannotated.
    - ``height_mm``: of the slice above the liver's hilum.
    - ``spacing_mm``: per pixel.

    Args:
        folder: to make; it may exist if it is empty.
        patients: how many.
        seed: at least 0.
        slices: per patient.
        cancer_share: share of the patients who have HCC, 0 to 1, rounded to whole patients.
        level: of difficulty: ``"mild"``, ``"medium"`` or ``"hard"``, see `LEVELS`.

    Returns:
        The folder.

    Raises:
        FileExistsError: if the folder holds anything, or is a file.
        ValueError: if a number is out of range or the level unknown.

    Example:
        >>> folder = write_dataset(Path(tempfile.mkdtemp(), "liver"), patients=2, slices=1)
        >>> sorted(path.name for path in folder.rglob("*.*"))
        ['P001_01.png', 'P001_01.xml', 'P002_01.png', 'P002_01.xml', 'patients.csv']
    """
    folder = Path(folder)
    _check("level", level, LEVELS)
    if patients < 1 or slices < 1 or seed < 0 or not 0 <= cancer_share <= 1:
        raise ValueError(
            "expected at least 1 patient and 1 slice, a seed of at least 0 and a cancer share from 0 to 1, "
            f"got patients={patients}, slices={slices}, seed={seed}, cancer_share={cancer_share}"
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or empty folder: choose another, or delete this one first")
    order = np.random.default_rng([seed, 0]).permutation(patients).tolist()
    rank = {number: place for place, number in enumerate(order)}  # the first are those with cancer; scanners alternate

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch, folder.name)
        (draft / "JPEGImages").mkdir(parents=True)
        (draft / "Annotations").mkdir()
        rows = []
        for number in range(patients):
            name = f"P{number + 1:03d}"
            cancer = rank[number] < round(patients * cancer_share)
            scanner = list(SCANNERS)[rank[number] % len(SCANNERS)]
            patient = draw_patient([seed, 1, number], cancer=cancer, scanner=scanner, level=level, slices=slices)
            for place, z in enumerate(patient.heights, start=1):
                image, annotation, _, look_alikes = render(patient, z)
                path = Path("JPEGImages", f"{name}_{place:02d}.png")
                Image.fromarray(image).save(draft / path, compress_level=1)
                voc.write(draft / "Annotations" / f"{path.stem}.xml", annotation, image_path=path)
                rows.append(
                    {
                        "image": path.name,
                        "patient": name,
                        "class": "cancer" if len(annotation) else "normal",
                        "scanner": scanner,
                        "phase": patient.phase,
                        "lesions": len(annotation),
                        "look_alikes": look_alikes,
                        "height_mm": f"{z:.1f}",
                        "spacing_mm": SCANNERS[scanner].spacing,
                    }
                )
        with (draft / "patients.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        if folder.is_dir():
            folder.rmdir()
        draft.rename(folder)
    return folder


def _check(kind: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")


def _draw_waves(rng: np.random.Generator, lengths: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """Draw sine waves of given lengths and amplitudes in mm; see `Patient.waves`."""
    vectors = rng.standard_normal((len(lengths), 3)) * (1, 1, 0.6)
    vectors *= (2 * np.pi / lengths / np.linalg.norm(vectors, axis=1))[:, None]
    phases = rng.uniform(0, 2 * np.pi, (len(lengths), 1))
    return np.hstack([vectors, phases, amplitudes[:, None] * rng.standard_normal((len(lengths), 2))])


def _bend(points: Points, z: float | np.ndarray, waves: np.ndarray) -> Points:
    """Sum the waves to a displacement in mm; ``z`` is one height, or one per point."""
    return np.sin(points @ waves[:, :2].T + np.multiply.outer(z, waves[:, 2]) + waves[:, 3]) @ waves[:, 4:]


def _draw_balls(rng: np.random.Generator, half_axes: tuple[float, float], waves: np.ndarray) -> np.ndarray:
    """Draw what has no closed outline: vessels, small bowel, renal pyramids; see `Patient.balls`."""
    u = rng.uniform

    def at(x: Any, y: Any, z: Any) -> np.ndarray:
        """Atlas coordinates to ``(n, 3)`` mm."""
        x, y, z = np.broadcast_arrays(*np.atleast_1d(x, y, z))
        points = np.column_stack([x, y]) * (np.array(half_axes) / 100)
        return np.column_stack([points + _bend(points, z, waves), z])

    def of(tissue: str, onto: str, balls: np.ndarray) -> np.ndarray:
        return np.column_stack([balls, np.full((len(balls), 2), (_ID[tissue], _ID[onto]))])

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
    """Grow tubes that wander, fork and thin out, as ``(N, 4)`` balls: x, y, z, radius."""
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


def _add_lesion(
    rng: np.random.Generator, patient: Patient, kind: str, z: float, diameter: float, contrast: float = 1.0
) -> Patient:
    """Put a lesion where it lies in the liver and touches nothing else, as far as there is such a place."""
    z = float(np.clip(z, _LOWEST, _HIGHEST))
    stretch = np.exp(rng.normal(0, 0.1, 3))
    radii = diameter / 2 * stretch / np.prod(stretch) ** (1 / 3)
    room = np.isin(_paint(patient, z, 0.5, _PLAN), _LIVER)  # 2 mm a point
    y, x = ((k + 0.5 - n / 2) * 2 for k, n in zip(np.indices(_PLAN), _PLAN, strict=True))
    for other in patient.lesions:
        a, b, c = other.centre
        room &= (x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 > 1.1 * max(other.radii) ** 2
    for share in (1.0, 0.7, 0.4, 0.0):
        blurred = Image.fromarray(np.uint8(255) * room).filter(ImageFilter.BoxBlur(float(share * radii.max() / 2)))
        spots = np.flatnonzero(np.asarray(blurred) == 255)  # with a margin of room on all sides
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
        **_look(rng, kind, patient.phase, diameter, contrast),
    )
    return replace(patient, lesions=(*patient.lesions, lesion))


def _look(rng: np.random.Generator, kind: str, phase: str, diameter: float, contrast: float) -> dict[str, float]:
    """Draw the grey levels of a lesion, relative to the liver's."""
    u = rng.uniform
    look = {"core": 1.0, "rim_mm": 1.0, "patchy": 0.0, "mosaic": 0.0}
    compartments = contrast * u(0.03, 0.18) * min(1, diameter / 25)
    if kind == "cyst":
        look["core"] = u(0.2, 0.5)
    elif kind == "nodule":
        look |= {"core": u(0.87, 1.15), "mosaic": 0.04}
    elif kind == "haemangioma":  # fills from nodules at its border
        filling = {"arterial": (0.75, 1.7, 0.35), "portal": (0.9, 1.35, 0.6), "delayed": (1.2, 1.25, 0.9)}
        core, rim, share = filling[phase]
        look |= {"core": core * u(0.9, 1.1), "rim": rim * u(0.85, 1.1), "rim_mm": share * diameter / 2, "patchy": 1.0}
        if diameter < 16 and u() < 0.4:  # a flash-filling one passes for arterial enhancement
            look |= {"core": rim * u(0.8, 1.0), "patchy": 0.0}
    elif phase == "arterial":
        look |= {"core": 1 + contrast * (u(0.35, 0.95) if u() < 0.9 else u(-0.4, -0.2)), "mosaic": compartments}
    else:
        late = phase == "delayed"
        look |= {"core": 1 - contrast * u(0.22, 0.58 if late else 0.5), "mosaic": compartments}
        if u() < (0.9 if late else 0.75):  # capsule
            look |= {"rim": 1 + contrast * u(0.15, 0.45), "rim_mm": u(1.2, 2.6)}
    return {"rim": look["core"]} | look


@functools.cache
def _closed(shape: tuple) -> Points:
    """Points around an oval, or around a polygon with its corners cut three times (Chaikin 1974)."""
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


def _outline(organ: _Organ, z: float, patient: Patient, side: int = 1) -> Points:
    """Find an organ's outline at a height; no points where it doesn't reach."""
    keys = sorted(organ.outlines)
    if not keys[0] <= z <= keys[-1]:
        return np.zeros((0, 2))
    above = min(int(np.searchsorted(keys, z, side="right")), len(keys) - 1)
    low, high = keys[above - 1], keys[above]
    share = (z - low) / (high - low)
    points = (1 - share) * _closed(organ.outlines[low]) + share * _closed(organ.outlines[high])
    points = points * (side * patient.half_axes[0] / 100, patient.half_axes[1] / 100)
    return points + _bend(points, z, patient.waves) + organ.ripple * _bend(points, z, patient.ripples)


def _inset(points: Points, mm: float) -> Points:
    """Shrink an outline towards its middle by about so many mm; let it grow if negative."""
    middle = points.mean(0)
    radius = np.linalg.norm(points - middle, axis=1, keepdims=True)
    return middle + (points - middle) * np.maximum(1 - mm / np.maximum(radius, 1e-6), 0)


def _paint(patient: Patient, z: float, scale: float, size: tuple[int, int]) -> np.ndarray:
    """Paint the tissues at a height, ``scale`` points per mm, as ``size`` numbers of `_TISSUES`."""
    z = float(np.clip(z, _LOWEST, _HIGHEST))
    canvas = Image.new("L", size[::-1], _ID["air"])
    pen = ImageDraw.Draw(canvas)
    middle = np.array(size[::-1]) / 2

    def fill(points: Points, tissue: str) -> None:
        pen.polygon((points * scale + middle).ravel().tolist(), fill=_ID[tissue])

    def ring(shape: tuple, grow: Any) -> Points:
        points = _closed(shape) / 100 * (np.array(patient.half_axes) + grow)
        return points + _bend(points, z, patient.waves) + 0.2 * _bend(points, z, patient.ripples)

    fat = np.array([1.0, 0.6]) * patient.fat_mm
    for grow, tissue in ((fat, "skin"), (fat - 2.2, "fat"), (1.2, "fascia"), (0.0, "muscle")):
        fill(ring(_BODY, grow), tissue)
    fill(_inset(ring(_CAVITY, 0.0), -1.3), "fascia")
    fill(ring(_CAVITY, 0.0), "belly fat")
    for organ in _ATLAS.values():
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
            if organ.gas:  # rises to the front
                top, bottom = outline[:, 1].min(), outline[:, 1].max()
                surface = top + organ.gas * patient.gas * (bottom - top)
                fill(np.column_stack([outline[:, 0], np.minimum(outline[:, 1], surface)]), "gas")

    tissues = np.asarray(canvas)
    cut = patient.balls[:, 3] * np.abs(patient.balls[:, 3]) - (patient.balls[:, 2] - z) ** 2
    balls, radii = patient.balls[cut > 0], scale * np.sqrt(cut[cut > 0, None])
    centres = balls[:, :2] * scale + middle
    corners = np.hstack([centres - radii, centres + radii])
    for onto in np.unique(balls[:, 5]):
        stamp = Image.new("L", size[::-1], _ID["air"])
        pen = ImageDraw.Draw(stamp)
        for corner, ball in zip(corners[balls[:, 5] == onto].tolist(), balls[balls[:, 5] == onto], strict=True):
            pen.ellipse(corner, fill=int(ball[4]))
        stamped = np.asarray(stamp)
        tissues = np.where((tissues == onto) & (stamped != _ID["air"]), stamped, tissues)
    return tissues


def _noise(rng: np.random.Generator, size: tuple[int, int], grain: float, turn: float) -> np.ndarray:
    """Draw a smooth field of about unit variance, ``grain`` pixels to a lump, that changes with ``turn`` (in lumps)."""
    a, b = rng.standard_normal((2, int(size[0] / grain) + 3, int(size[1] / grain) + 3), dtype=np.float32)
    grid = Image.fromarray(np.float32(1.35 * np.cos(turn / 3)) * a + np.float32(1.35 * np.sin(turn / 3)) * b)
    box = (1, 1, 1 + size[1] / grain, 1 + size[0] / grain)
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def _blend(
    signal: np.ndarray, lesion: Lesion, z: float, liver: np.ndarray, grey: float, spacing: float
) -> tuple[list[int], float] | None:
    """Blend a lesion's section into ``signal``, in place; give its box and diameter (mm), None if it can't be seen."""
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
    mosaic = lesion.mosaic * np.tanh(2 * _noise(own, inside.shape, lump / spacing, z / lump))
    mosaic += 0.03 * _noise(own, inside.shape, 3 / spacing, z / 3)
    gaps = lesion.patchy * (0.5 + 0.5 * np.tanh(3 * _noise(own, inside.shape, gap / spacing, z / gap)))
    depth = (1 - distance) * radius
    rim = (1 - gaps) / (1 + np.exp((depth - lesion.rim_mm) / (0.25 * lesion.rim_mm + 0.2)))
    value = grey * (lesion.core * (1 + mosaic) + (lesion.rim - lesion.core) * rim)
    signal[patch] += np.clip(0.5 + depth / 1.6, 0, 1) * inside * (value - signal[patch])
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    return [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1], diameter


def _acquire(rng: np.random.Generator, signal: np.ndarray, scanner: Scanner) -> np.ndarray:
    """Measure the middle of k-space with complex noise, weigh it (Hamming), and give the magnitude image."""
    height, width = signal.shape
    ny, nx = (int(share * k / 2) for share, k in zip(scanner.band, signal.shape, strict=True))
    rows = np.r_[:ny, -ny:0]
    r = np.hypot(rows[:, None] / ny, np.arange(nx) / nx)
    window = np.where(r < 1, 0.54 + 0.46 * np.cos(np.pi * r), 0).astype(np.float32)
    noise = rng.standard_normal((2, 2 * ny, nx, 2), dtype=np.float32).view(np.complex64)[..., 0]
    noise *= np.float32(scanner.noise * np.sqrt(height * width / 2))
    noise[0] += np.fft.rfft2(signal)[rows, :nx]
    kspace = np.zeros((2, height, width // 2 + 1), np.complex64)  # of the real and the imaginary part of the image
    kspace[:, rows, :nx] = noise * window
    real, imaginary = np.fft.irfft2(kspace, s=signal.shape)
    return np.sqrt(real**2 + imaginary**2)
