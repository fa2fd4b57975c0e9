"""Slices of a patient as a scanner would image them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from hccvision.contracts.samples import Annotation
from hccvision.phantom.atlas import HIGHEST, LOWEST
from hccvision.phantom.lesions import blend_lesion
from hccvision.phantom.painting import paint
from hccvision.phantom.patients import LESION, Patient
from hccvision.phantom.scanners import SCANNERS, acquire
from hccvision.phantom.tissues import LIVER_IDS, TISSUE_IDS, TISSUES
from hccvision.phantom.waves import smooth_noise


class Slice(NamedTuple):
    """An image and what is visible in it.

    Args:
        image: ``(H, W) uint8``.
        annotation: one box per visible HCC, tight around its visible pixels.
        diameters: of the section of each visible HCC, in mm, in the order of the boxes.
        look_alikes: number of visible benign lesions.
    """

    image: np.ndarray
    annotation: Annotation
    diameters: tuple[float, ...]
    look_alikes: int


def render(patient: Patient, z: float) -> Slice:
    """Render one slice of a patient; the same patient and height give the same pixels.

    Args:
        patient: from `draw_patient`.
        z: height in mm, usually one of ``patient.heights``; the liver reaches from -75 to 62.

    Returns:
        The image and its boxes.

    Raises:
        ValueError: if ``z`` is above or below the liver.

    Example:
        >>> from hccvision.phantom.drawing import draw_patient
        >>> patient = draw_patient(7, cancer=True, scanner="B")
        >>> image, annotation, diameters, _ = render(patient, patient.heights[3])
        >>> image.shape, len(annotation) == len(diameters)
        ((260, 320), True)
    """
    if not LOWEST <= z <= HIGHEST:
        raise ValueError(f"expected z within the liver, {LOWEST} to {HIGHEST} mm, got {z}")
    scanner = SCANNERS[patient.scanner]
    size, spacing, n = scanner.size, scanner.spacing, scanner.oversample
    own = np.random.default_rng([patient.seed, 0])  # patterns that all slices share
    fresh = np.random.default_rng([patient.seed, 1, round((z - LOWEST) * 1000)])

    grey = (patient.grey**scanner.gamma).astype(np.float32)
    slab = [paint(patient, z + dz, n / spacing, (n * size[0], n * size[1])) for dz in (-0.8, 0.8)]
    signal = np.array(Image.fromarray(0.5 * (grey[slab[0]] + grey[slab[1]])).reduce(n))
    tissues = slab[0][::n, ::n]
    texture = np.array([row[-1] for row in TISSUES.values()], np.float32)
    texture[TISSUE_IDS["liver"]] += 0.06 * patient.cirrhosis
    if patient.phase == "arterial":
        texture[TISSUE_IDS["spleen"]] = 0.16
    lumps = ((0.5, 2.6), (0.55, 6.0), (0.35, 22.0))
    grain = sum(share * smooth_noise(own, size, mm / spacing, z / mm) for share, mm in lumps)
    signal *= 1 + texture[tissues] * grain

    liver = np.isin(np.arange(len(TISSUES)), LIVER_IDS)[tissues]
    boxes, diameters, look_alikes = [], [], 0
    for lesion in patient.lesions:
        seen = blend_lesion(signal, lesion, z, liver, float(grey[TISSUE_IDS["liver"]]), spacing)
        if seen is not None and lesion.kind == LESION:
            boxes.append(seen[0])
            diameters.append(seen[1])
        else:
            look_alikes += seen is not None

    y, x = (((np.arange(k, dtype=np.float32) + 0.5) / k - 0.5) * k * spacing for k in size)
    surface = (x / 150) ** 2 + (y[:, None] / 105) ** 2
    signal *= np.exp(0.15 * smooth_noise(own, size, 190 / spacing, 0) + 0.28 * (surface - 0.6))
    signal += np.float32(own.uniform(0, 0.025)) * np.roll(signal, int(size[0] * own.uniform(0.2, 0.4)), axis=0)
    image = np.clip(np.rint(scanner.gain * acquire(fresh, signal, scanner)), 0, 255).astype(np.uint8)
    annotation = Annotation(np.array(boxes, np.float32), (LESION,) * len(boxes), size=size)
    return Slice(image, annotation, tuple(diameters), look_alikes)
