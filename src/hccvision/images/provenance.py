"""Acquisition details of an image, without the patient's identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """Acquisition details stated in an image file; None for those it does not state.

    Args:
        series: DICOM: 12 hexadecimal digits, equal for all slices of one series. They are a hash of the series UID:
            someone who has the UID can recognise them, but they can't be turned back into it.
        spacing: distance of pixels ``(between rows, between columns)`` in mm.
        thickness: slice thickness in mm.
        position: slice position in mm along its normal, increasing towards the patient's left, back or head, whichever
            is nearest.
        scanner: manufacturer and model.
        modality: DICOM abbreviation, such as ``"MR"``.

    Example:
        >>> Provenance(spacing=(0.72, 0.72)).scanner is None
        True
    """

    series: str | None = None
    spacing: tuple[float, float] | None = None
    thickness: float | None = None
    position: float | None = None
    scanner: str | None = None
    modality: str | None = None
