"""Pixels of more than 8 bits that Pillow would reduce to 8, or scale."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from hccvision.images.formats.checks import import_medical

_BITS = 258  # TIFF tag
_TIFF_CHANNELS = {0: 1, 1: 1, 2: 3, 5: 4}  # by photometric interpretation: white is 0, black is 0, RGB, CMYK
_UNASSOCIATED = 2  # alpha that is not multiplied into the colours already
_MAX_PNG = 2**20  # bytes of a PNG besides its pixels
_SIZE_MARKER, _DEPTH = b"\xff\x4f\xff\x51", 42  # of a JPEG 2000 codestream, and where its depth follows
_HIGH_DEPTH, _TWELVE_BITS = 0x40, 0x20  # flags in AVIF's configuration


def deep_pixels(image: Image.Image) -> np.ndarray | None:
    """Return the pixels of an opened file of more than 8 bits per channel as they are stored, in full depth.

    PNG, JPEG 2000 and AVIF files are decoded by imagecodecs, TIFF files by tifffile. Alpha is composited over black,
    and CMYK converted to RGB as Pillow does it.

    Args:
        image: as `PIL.Image.open` returns it, not loaded yet; of several pages the current one.

    Returns:
        ``(H, W)`` or ``(H, W, 3)``, not turned; None for other images, which Pillow reads in full.

    Raises:
        ValueError: for a file that can't be decoded.
        ImportError: if the extra ``medical`` is not installed.

    Example:
        >>> deep_pixels(Image.new("RGB", (4, 2))) is None
        True
    """
    stream, tile = getattr(image, "fp", None), getattr(image, "tile", None)
    if stream is None or not tile:
        return None
    position = stream.tell()
    try:
        return _deep_pixels(image, stream, str(tile[0]))
    finally:
        stream.seek(position)  # Pillow may still load the image


def stored_netpbm(image: Image.Image) -> np.ndarray | None:
    """Return the pixels of an opened PGM or PPM file, which Pillow scales to 8 or 16 bits.

    Args:
        image: as `PIL.Image.open` returns it, not loaded yet.

    Returns:
        ``(H, W)`` or ``(H, W, 3)``, uint8 or uint16; None for other images, and where Pillow does not scale.
    """
    stream: Any = getattr(image, "fp", None)
    tile: Any = getattr(image, "tile", None)
    if stream is None or not tile or tile[0][0] not in ("ppm", "ppm_plain") or image.mode == "1":
        return None
    codec, _, offset, (bands, most) = tile[0]
    stream.seek(offset)
    is_deep, shape = most > 255, (image.height, image.width, len(bands))
    count = math.prod(shape)
    if codec == "ppm":
        pixels = np.frombuffer(stream.read(count * (1 + is_deep)), ">u2" if is_deep else np.uint8)
    else:
        text = re.sub(rb"#[^\r\n]*", b"", stream.read(12 * count + 2**20))
        pixels = np.array(text.split(maxsplit=count)[:count], np.uint16)
    pixels = pixels.astype(np.uint16 if is_deep else np.uint8).reshape(shape)
    return pixels[..., 0] if shape[2] == 1 else pixels


def _deep_pixels(image: Image.Image, stream: IO[bytes], tile: str) -> np.ndarray | None:
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(_BITS, ())
        if len(bits) < 2 or max(bits) <= 8:
            return None
        stream.seek(0)
        with import_medical("tifffile", _path(image)).TiffFile(stream) as file:
            return tiff_pixels(file.pages[image.tell()])
    if image.format == "PPM":
        pixels = stored_netpbm(image)
        return None if pixels is None or pixels.dtype == np.uint8 else pixels
    is_reduced = (";16" in tile or "SGI16" in tile) and not image.mode.startswith("I")
    if image.format == "PNG" and is_reduced:
        if stream.seek(0, 2) > _MAX_PNG + 10 * image.width * image.height:  # libpng would unpack all of it
            raise ValueError("its file is larger than its pixels")
        return _flat(_codecs(image).png_decode(_content(stream)))
    if image.format == "JPEG2000" and (content := _content(stream, 2**20)).find(_SIZE_MARKER) >= 0:
        depth = content[content.find(_SIZE_MARKER) + _DEPTH]  # the upper bit: signed
        bits = depth % 128 + 1
        return _flat(_codecs(image).jpeg2k_decode(_content(stream)), image.mode, bits) if depth > 7 else None
    if image.format == "AVIF" and (at := (content := _content(stream, 2**20)).find(b"av1C")) >= 0:
        if not (flags := content[at + 6]) & _HIGH_DEPTH:
            return None
        return _flat(_codecs(image).avif_decode(_content(stream)), bits=12 if flags & _TWELVE_BITS else 10)
    if is_reduced:
        raise ValueError(f"{image.format} of 16 bits per channel can't be read in full depth: save it as PNG or TIFF")
    return None


def tiff_pixels(page: Any) -> np.ndarray:
    """Return the pixels of a page of a TIFF as they are stored, in full depth.

    Args:
        page: of tifffile.

    Returns:
        ``(H, W)`` grey or ``(H, W, 3)`` RGB, not turned, and not inverted where 0 is white; alpha is composited over
        black unless the file says that it is already.

    Raises:
        ValueError: for colours other than grey, RGB and CMYK.
    """
    own, alpha = tiff_channels(page)  # tifffile itself would fill what is missing with zeros
    pixels = page.asarray()
    if page.samplesperpixel == 1:
        return pixels
    pixels = np.moveaxis(pixels, page.axes.index("S"), -1)
    return _flat(pixels[..., : own + alpha], "CMYK" if own == 4 else "", page.bitspersample)


def tiff_channels(page: Any) -> tuple[int, bool]:
    """Return the channels of a page of a TIFF, and make sure that its pixels are in the file.

    Args:
        page: of tifffile.

    Returns:
        Their number without alpha, 1, 3 or 4; and whether there is alpha that is not multiplied into them already.

    Raises:
        ValueError: for colours other than grey, RGB and CMYK, and if the file ends before the last pixel.
    """
    ends = [sum(place) for place in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if max(ends, default=0) > (length := page.parent.filehandle.size):
        raise ValueError(f"truncated: its pixels end at byte {max(ends)}, the file at {length}")
    own = _TIFF_CHANNELS.get(int(page.photometric), 0)
    alpha = [int(kind) for kind in page.extrasamples]
    is_ratio = own == 4 or alpha == [_UNASSOCIATED]  # needs to know what is white
    kind = "" if page.dtype is None else page.dtype.kind
    if not own or len(alpha) > 1 or page.imagedepth != 1 or kind not in "uif" or (is_ratio and kind != "u"):
        raise ValueError(
            f"TIFF with {page.samplesperpixel} channels of {page.bitspersample} bits ({page.dtype}, photometric "
            f"interpretation {int(page.photometric)}) can't be read: save it as grey or RGB"
        )
    return own, alpha == [_UNASSOCIATED]


def _flat(pixels: np.ndarray, mode: str = "", bits: int = 16) -> np.ndarray:
    """Return ``(H, W)`` or ``(H, W, 3)`` of grey or colours with or without alpha, or of CMYK."""
    if pixels.ndim == 2:
        return pixels
    white = 2.0**bits - 1
    if mode == "CMYK":
        ink = pixels[..., :4].astype(np.float64) / white
        return ((1 - ink[..., 3:]) * (1 - ink[..., :3]) * white).round().astype(pixels.dtype)
    if pixels.shape[2] % 2 == 0:
        pixels = (pixels[..., :-1] * (pixels[..., -1:] / white)).round().astype(pixels.dtype)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _codecs(image: Image.Image) -> Any:
    return import_medical("imagecodecs", _path(image))


def _path(image: Image.Image) -> Path:
    return Path(getattr(image, "filename", "") or f"a {image.format} image")


def _content(stream: IO[bytes], most: int = -1) -> bytes:
    stream.seek(0)
    return stream.read(most)
