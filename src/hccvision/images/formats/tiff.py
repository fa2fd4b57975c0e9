"""TIFF files, also those that Pillow does not read: of 16-bit or 64-bit floats, deep grey with alpha, and more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hccvision.images.formats.checks import choose_frame, import_medical, require_plausible_size
from hccvision.images.formats.deep_pixels import tiff_channels, tiff_pixels
from hccvision.images.formats.picture import PictureFormat, upright
from hccvision.images.image_file import ImageFile
from hccvision.images.slices import Slice
from hccvision.registry import IMAGE_FORMATS

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO = 0  # photometric interpretation


@IMAGE_FORMATS.register("tiff")
class TIFFFormat(PictureFormat):
    """TIFF, decoded by Pillow, or by tifffile where Pillow can't."""

    suffixes = ()  # the pictures' own

    def matches(self, path: Path, first_bytes: bytes) -> bool:
        """Return whether a file begins as TIFF or BigTIFF."""
        return first_bytes.startswith(_STARTS)

    def read(self, file: ImageFile, frame: int | None, axis: str | None) -> Slice:
        """Read one page; see `ImageFormat.read`."""
        with _beyond_pillow(file) as pages:
            if pages is None:
                return super().read(file, frame, axis)
            page = pages[choose_frame(file.path, frame, len(pages))]
            _size(file, page)
            return Slice(
                upright(tiff_pixels(page), _orientation(page)), inverted=int(page.photometric) == _WHITE_IS_ZERO
            )

    def labels(self, file: ImageFile, frame: int | None, axis: str | None) -> np.ndarray:
        """Return the stored values; see `ImageFormat.labels`."""
        with _beyond_pillow(file) as pages:
            return super().labels(file, frame, axis) if pages is None else self.read(file, frame, axis).values

    def size(self, file: ImageFile, axis: str | None) -> tuple[int, int]:
        """Return ``(height, width)`` from the header; see `ImageFormat.size`."""
        with _beyond_pillow(file) as pages:
            return super().size(file, axis) if pages is None else _size(file, pages[0])

    def frames(self, file: ImageFile, axis: str | None) -> int:
        """Return the number of pages; see `ImageFormat.frames`."""
        with _beyond_pillow(file) as pages:
            return super().frames(file, axis) if pages is None else len(pages)

    def verify(self, file: ImageFile) -> None:
        """Raise if the file ends before its last pixel, or has unusual colours; see `ImageFormat.verify`."""
        with _beyond_pillow(file) as pages:
            if pages is None:
                super().verify(file)
                return
            for page in pages:
                tiff_channels(page)


@contextmanager
def _beyond_pillow(file: ImageFile) -> Iterator[Any]:
    """Yield tifffile's pages of a file that Pillow does not read; None for the others."""
    try:
        with Image.open(file.content, "r", ["TIFF"]):
            known = True
    except UnidentifiedImageError:
        known = False
    if known:
        yield None
        return
    tifffile = import_medical("tifffile", file.path)
    with file.open() as stream:  # a source stays open
        pages = tifffile.TiffFile(stream).pages
        if not len(pages):
            raise ValueError("it holds no picture")
        yield pages


def _size(file: ImageFile, page: Any) -> tuple[int, int]:
    require_plausible_size(file.path, page.imagelength, page.imagewidth)
    turned = _orientation(page) in (5, 6, 7, 8)
    return (page.imagewidth, page.imagelength) if turned else (page.imagelength, page.imagewidth)


def _orientation(page: Any) -> int:
    return int(page.tags.valueof("Orientation", default=1))
