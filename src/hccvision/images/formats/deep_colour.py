"""Colours of 16 bits in PNG and TIFF files, of which Pillow keeps only the upper 8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from hccvision.images.formats.checks import import_medical

_BITS = 258  # TIFF tag: bits per sample


def deep_colour(image: Image.Image) -> np.ndarray | None:
    """Return the colours of an opened file of 16 bits per channel in full depth.

    PNG files are decoded by imagecodecs, TIFF files by tifffile.

    Args:
        image: as `PIL.Image.open` returns it, not loaded yet; of several pages the current one.

    Returns:
        ``(H, W, 2 to 4) uint16`` as stored, not turned, with alpha; None for other images, which Pillow reads in full.

    Raises:
        ValueError: for a file that can't be decoded.
        ImportError: if the extra ``medical`` is not installed.

    Example:
        >>> deep_colour(Image.new("RGB", (4, 2))) is None
        True
    """
    tile, stream = getattr(image, "tile", None), getattr(image, "fp", None)
    if not tile or stream is None:
        return None
    if image.format == "PNG" and not image.mode.startswith("I") and ";16" in str(tile[0][3]):
        imagecodecs = import_medical("imagecodecs", Path(getattr(image, "filename", "") or "a PNG image"))
        stream.seek(0)
        return imagecodecs.png_decode(stream.read())
    if isinstance(image, TiffImageFile) and len(bits := image.tag_v2.get(_BITS, ())) > 1 and max(bits) > 8:
        tifffile = import_medical("tifffile", Path(getattr(image, "filename", "") or "a TIFF image"))
        stream.seek(0)
        with tifffile.TiffFile(stream) as file:
            page = file.pages[image.tell()]
            return np.moveaxis(page.asarray(), page.axes.index("S"), -1)
    return None
