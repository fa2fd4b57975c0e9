"""Patients drawn from a seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hccvision.phantom.lesions import add_lesion
from hccvision.phantom.patients import LESION, Patient
from hccvision.phantom.scanners import SCANNERS
from hccvision.phantom.tissues import PHASES, TISSUE_IDS, TISSUES
from hccvision.phantom.vessels import draw_balls
from hccvision.phantom.waves import draw_waves

LEVELS = {  # contrast of HCC against the liver, relative to medium; median diameter of HCC in mm
    "mild": (1.4, 36.0),
    "medium": (1.0, 20.0),
    "hard": (0.6, 16.0),
}


def draw_patient(
    seed: int | Sequence[int], *, cancer: bool, scanner: str = "A", level: str = "medium", slices: int = 6
) -> Patient:
    """Draw a patient; without ``cancer`` it is the same patient, with the same benign lesions, but without HCC.

    Args:
        seed: one number or several, each at least 0.
        cancer: whether to add HCC: one to five lesions of 5 to 60 mm, at least one of which a slice crosses.
        scanner: a name in `SCANNERS`.
        level: difficulty, a name in `LEVELS`.
        slices: number of slices, 7 mm apart (closer where they would exceed 56 mm), around a random height.

    Returns:
        The patient, ready for `render`.

    Raises:
        ValueError: if a name is unknown or ``slices`` is less than 1.

    Example:
        >>> patient = draw_patient(7, cancer=True)
        >>> sum(lesion.kind == "hcc" for lesion in patient.lesions) >= 1, len(patient.heights)
        (True, 6)
    """
    check_name("scanner", scanner, SCANNERS)
    check_name("level", level, LEVELS)
    if slices < 1:
        raise ValueError(f"expected at least 1 slice, got {slices}")
    anatomy, benign, malignant = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    u = anatomy.uniform
    half_axes = (u(130, 148), u(90, 108))
    lengths = np.append(np.geomspace(50, 280, 9), 1e4)  # the longest wave shifts the whole body
    waves = draw_waves(anatomy, lengths, np.minimum(0.011 * lengths, 5))
    ripples = draw_waves(anatomy, np.geomspace(14, 45, 10), np.full(10, 0.45))
    phase = int(anatomy.integers(len(PHASES)))
    grey = np.array([row[phase] for row in TISSUES.values()]) * np.exp(anatomy.normal(0, 0.07, len(TISSUES)))
    grey[[TISSUE_IDS["fat"], TISSUE_IDS["belly fat"]]] *= u(0.75, 1.25)
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
        balls=draw_balls(anatomy, half_axes, waves),
        cirrhosis=max(0.0, u(-0.8, 1.0)),
        gas=u(),
        lesions=(),
        seed=int(anatomy.integers(2**31)),
    )
    for _ in range(benign.poisson(1.6)):
        kind = ("cyst", "haemangioma")[benign.integers(2)]
        diameter = float(np.clip(benign.lognormal(np.log(13), 0.5), 4.5, 45))
        patient = add_lesion(benign, patient, kind, benign.uniform(low - 8, high + 8), diameter)
    for _ in range(benign.poisson(6 * patient.cirrhosis)):
        patient = add_lesion(benign, patient, "nodule", benign.uniform(low - 8, high + 8), benign.uniform(5, 14))
    contrast, median_mm = LEVELS[level]
    for number in range(cancer * (1 + min(int(malignant.poisson(0.8)), 4))):
        diameter = float(np.clip(malignant.lognormal(np.log(median_mm), 0.5), 5, 60))
        z = malignant.uniform(low, high)
        if number == 0:  # placed so that a slice crosses it
            z = patient.heights[malignant.integers(slices)] + malignant.uniform(-0.15, 0.15) * diameter
        patient = add_lesion(malignant, patient, LESION, z, diameter, contrast)
    return patient


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise unless a name is known.

    Args:
        kind: of the thing named, for the message.
        name: to check.
        known: valid names.

    Raises:
        ValueError: if it is not.
    """
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: expected one of {', '.join(known)}")
