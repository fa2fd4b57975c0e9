"""Tissues: grey levels by contrast phase, and texture."""

from __future__ import annotations

PHASES = ("arterial", "portal", "delayed")

TISSUES = {  # grey level in each of PHASES, 1 = brightest; relative standard deviation of the fine structure
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
TISSUE_IDS = {tissue: number for number, tissue in enumerate(TISSUES)}
LIVER_IDS = tuple(TISSUE_IDS[tissue] for tissue in ("liver", "portal vein", "hepatic vein"))
