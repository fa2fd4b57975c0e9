"""Stored DICOM values to the 8 bits a viewer displays.

Source: DICOM PS3.3, C.11.1 (modality transformation) and C.11.2 (VOI transformation).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hccvision.images.window import finite_values, to_uint8, unit_to_uint8


def rescale(stored: np.ndarray, item: Any) -> np.ndarray:
    """Apply the modality transformation: lookup table, or slope and intercept.

    Args:
        stored: ``(H, W)`` stored values.
        item: pydicom dataset or functional group with the transformation.

    Returns:
        ``(H, W)`` values in the file's unit; the array itself where nothing changes.
    """
    from pydicom.pixels import apply_rescale

    if item.get("ModalityLUTSequence") or (item.get("RescaleSlope"), item.get("RescaleIntercept")) != (1, 0):
        return apply_rescale(stored, item)
    return stored


def padding_of(stored: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Return where a slice is padded, by its PixelPaddingValue and PixelPaddingRangeLimit.

    Args:
        stored: ``(H, W)`` stored values.
        dataset: pydicom dataset.

    Returns:
        ``(H, W) bool``; None where nothing is padded, or everything.

    Source: DICOM PS3.3, C.7.5.1.1.2.
    """
    kind = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    names = f"{kind}PixelPaddingValue", f"{kind}PixelPaddingRangeLimit"
    first, last = (_first_number(dataset.get(name)) for name in names)
    if not np.isfinite(first):
        return None
    ends = np.array([first, last if np.isfinite(last) else first])
    if stored.dtype.kind in "iu":  # stated with other bits than are stored, or as unsigned, it means the same bits
        bits = int(dataset.get("BitsStored") or 8 * stored.dtype.itemsize)
        ends = ends.astype(np.int64) % 2**bits
        ends -= (ends >= 2 ** (bits - 1)) * 2**bits if stored.dtype.kind == "i" else 0
    ends = ends.astype(stored.dtype)
    padded = (stored >= ends.min()) & (stored <= ends.max())
    return padded if padded.any() and not padded.all() else None


def warn_if_blank(path: Path, shown: np.ndarray, values: np.ndarray, padding: np.ndarray | None, what: str) -> None:
    """Warn if a conversion has made a constant image of values that differ.

    Args:
        path: the file, for the message.
        shown: ``(H, W)`` result.
        values: ``(H, W)`` values before.
        padding: ``(H, W) bool``, or None.
        what: the conversion, for the message.
    """
    shown, values = (array if padding is None else array[~padding] for array in (shown, values))
    if shown.min() == shown.max() and values.min() < values.max():
        warnings.warn(
            f"{path}: {what} makes one grey of all its values, {values.min():g} to {values.max():g}: export it "
            "again, or pass a window",
            stacklevel=2,
        )


def through_voi(values: np.ndarray, item: Any, padding: np.ndarray | None = None) -> np.ndarray:
    """Apply the VOI transformation: lookup table, or the first window; percentiles where there is neither.

    Args:
        values: ``(H, W)`` rescaled values.
        item: pydicom dataset or functional group with the transformation.
        padding: ``(H, W) bool``, left out of the percentiles, or None.

    Returns:
        ``(H, W) uint8``.

    Raises:
        ValueError: if the values hold NaN or infinity.
    """
    from pydicom.pixels import apply_voi

    if item.get("VOILUTSequence"):
        entries, first, bits = item.VOILUTSequence[0].LUTDescriptor
        # beyond the table, its end entries count; pydicom would wrap around
        numbers = np.clip(np.rint(finite_values(values)), first, first + (entries or 2**16) - 1).astype(np.int64)
        return full_range_to_uint8(apply_voi(numbers, item), bits)
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    centre, width = _first_number(item.get("WindowCenter")), _first_number(item.get("WindowWidth"))
    if not np.isfinite([centre, width]).all() or width < (1 if function == "LINEAR" else 1e-6):
        return to_uint8(values, padding=padding)
    return unit_to_uint8(_windowed(finite_values(values), centre, width, function))


def full_range_to_uint8(values: np.ndarray, bits: int) -> np.ndarray:
    """Scale unsigned integers from their full range to 0-255.

    Args:
        values: array of any shape.
        bits: number of bits of the values, 1 to 64.

    Returns:
        uint8 array of the same shape; 8-bit values unchanged.

    Raises:
        ValueError: if the number of bits is out of range.

    Example:
        >>> full_range_to_uint8(np.array([0, 2048, 4095], np.uint16), 12)
        array([  0, 128, 255], dtype=uint8)
    """
    if not 1 <= bits <= 64:
        raise ValueError(f"expected pixels of 1 to 64 bits, got {bits}")
    if values.dtype == np.uint8 and bits == 8:
        return values
    return unit_to_uint8(np.clip(values / (2.0**bits - 1), 0, 1))


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Return fractions of the output range in [0, 1] (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - centre) / width)) / 2
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first_number(value: Any) -> float:
    """Return the first number of a DICOM element, NaN where it is absent or empty."""
    return float(np.ravel(np.nan if value is None or value == "" else value)[0])
