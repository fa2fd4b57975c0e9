"""Pictures that Pillow reads: PNG, JPEG, TIFF, BMP, GIF, WebP and whatever no other format claims."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from hccvision.images.formats.checks import choose_frame, require_plausible_size
from hccvision.images.formats.deep_pixels import deep_pixels, stored_netpbm
from hccvision.images.formats.image_format import ImageFormat
from hccvision.images.formats.picture_ends import has_late_metadata, looks_whole, require_few_scans
from hccvision.images.image_file import ImageFile
from hccvision.images.slices import Slice
from hccvision.registry import IMAGE_FORMATS

_ORIENTATION, _PHOTOMETRIC, _WIDTH, _HEIGHT = 0x0112, 0x0106, 256, 257  # EXIF and TIFF tags
_BITS, _SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 258, 339, 1, 2
_STRIPS = (273, 279, 324, 325)  # TIFF tags: offsets and byte counts of strips, and of tiles
_TAG_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}  # of a value, by its type; 1 of the others
_RAW_BITS = {"1": 1, "1;I": 1, "L": 8, "LA": 16, "RGB": 24, "BGR": 24, "BGRA": 32, "I;16B": 16}
_METADATA = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # of a PNG, that may state an orientation
MAX_PAGES = 20_000  # of a TIFF, each of which is looked for where the one before says
# Formats of pixels alone: the others of Pillow run programs, need files beside, or are no pictures.
_DECODED = "AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP".split()  # noqa: SIM905


def _suffixes() -> tuple[str, ...]:
    """Return the suffixes that Pillow knows for the formats it decodes, those of most pictures first."""
    Image.init()
    usual = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
    known = (suffix for suffix, name in sorted(Image.registered_extensions().items()) if name in _DECODED)
    return tuple(dict.fromkeys((*usual, *known)))


@IMAGE_FORMATS.register("picture", fallback=True)
class PictureFormat(ImageFormat):
    """Pictures decoded by Pillow. EXIF orientation is applied."""

    suffixes = _suffixes()
    is_plain = True

    def read(self, file: ImageFile, frame: int | None, axis: str | None) -> Slice:
        """Read one picture or page; see `ImageFormat.read`."""
        with _opened(file) as image:
            if image.format in ("JPEG", "MPO"):
                require_few_scans(image)
            image.seek(choose_frame(file.path, frame, _pages(image, file.path)))
            return slice_of(image)

    def labels(self, file: ImageFile, frame: int | None, axis: str | None) -> np.ndarray:
        """Return the stored values, of a palette its indices; see `ImageFormat.labels`."""
        with _opened(file) as image:
            if image.format in ("JPEG", "MPO"):
                raise ValueError(f"{file.path}: JPEG blurs label values: save the mask as PNG")
            image.seek(choose_frame(file.path, frame, _pages(image, file.path)))
            stored = stored_netpbm(image) if image.format == "PPM" else deep_pixels(image)
            return _pixels(image) if stored is None else upright(stored, image.getexif().get(_ORIENTATION))

    def size(self, file: ImageFile, axis: str | None) -> tuple[int, int]:
        """Return ``(height, width)`` from the header; see `ImageFormat.size`."""
        with _opened(file) as image:
            # a PNG without metadata before its pixels would be decoded in search of some after them
            asks = image.format != "PNG" or any(key in image.info for key in _METADATA) or has_late_metadata(file)
            turned = asks and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            if isinstance(image, TiffImageFile):  # of which some versions of Pillow state the turned size
                width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
            else:
                width, height = image.size
            return (width, height) if turned else (height, width)

    def frames(self, file: ImageFile, axis: str | None) -> int:
        """Return the number of pages; see `ImageFormat.frames`."""
        with _opened(file) as image:
            return _pages(image, file.path)

    def verify(self, file: ImageFile) -> None:
        """Raise if the file ends before its last pixel; see `ImageFormat.verify`. Only one that may is decoded."""
        with file.open() as stream:
            length = stream.seek(0, 2)
        if looks_whole(file):
            with _opened(file) as image:
                if _raw_end(image) <= length:
                    return
        try:
            self.read(file, 0, None)
        except (ImportError, MemoryError):  # says nothing about the file
            return
        except Exception as error:
            raise ValueError(f"truncated: the file ends after {length} bytes, before its last pixel") from error


def _raw_end(image: Image.Image) -> int:
    """Return where the stored pixels end, 0 if the format does not state it."""
    if isinstance(image, TiffImageFile):
        places = [image.tag_v2.get(tag) or () for tag in _STRIPS if image.tag_v2.get(tag)]
        stored = [
            at + size
            for starts, sizes in zip(places[::2], places[1::2], strict=False)
            for at, size in zip(starts, sizes, strict=False)
        ]
        return max(*stored, _directory_end(image), 0)
    ends = [
        offset + -(-image.width * _RAW_BITS[mode] // 8) * image.height
        for codec, _, offset, options in getattr(image, "tile", ())
        if codec == "raw" and (mode := options if isinstance(options, str) else options[0]) in _RAW_BITS
    ]
    return max(ends, default=0)


def _directory_end(image: TiffImageFile) -> int:
    """Return where the tags of a page and their values end."""
    start, order = image.tag_v2.offset or 0, "<" if image.tag_v2.prefix == b"II" else ">"
    stream: Any = image.fp
    stream.seek(start)
    count = int.from_bytes(stream.read(2), "little" if order == "<" else "big")
    tags = stream.read(12 * count)
    entries = struct.iter_unpack(f"{order}HHII", tags[: len(tags) // 12 * 12])
    ends = [at + size for _, kind, n, at in entries if (size := n * _TAG_BYTES.get(kind, 1)) > 4]
    return max(start + 2 + 12 * count + 4, *ends, 0)


def _opened(file: ImageFile) -> Image.Image:
    """Open a picture of a plausible size; nothing is decoded yet."""
    image = Image.open(file.content, "r", [name for name in _DECODED if name in Image.OPEN])
    try:
        require_plausible_size(file.path, image.height, image.width)
    except ValueError:
        image.close()
        raise
    return image


def slice_of(image: Image.Image) -> Slice:
    """Return the pixels of a Pillow image, upright.

    Args:
        image: image of any mode; of several pages the current one.

    Returns:
        ``(H, W)`` values for grey of any depth, otherwise ``(H, W, 2)`` grey with alpha, ``(H, W, 3)`` RGB or
        ``(H, W, 4)`` RGBA, uint8. Modes I, I;16 and F are raw values; they are inverted where a TIFF file says so.
        Colours of more than 8 bits per channel, of a file that is not loaded yet, are ``(H, W, 3)`` raw values,
        composited over black.

    Example:
        >>> slice_of(Image.new("CMYK", (4, 2))).values.shape
        (2, 4, 3)
    """
    deep = deep_pixels(image)
    if deep is not None:
        return Slice(upright(deep, image.getexif().get(_ORIENTATION)))
    if image.mode.startswith(("I", "F")) or _is_signed(image):
        white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == 0
        return Slice(_pixels(image), inverted=white_is_zero)  # Pillow itself inverts only up to 8 bits
    image = _upright(image)
    if image.has_transparency_data:
        mode = "LA" if image.mode in ("LA", "La") else "RGBA"
    else:
        mode = "L" if image.mode == "L" else "RGB"
    return Slice(np.array(image.convert(mode)))


def _upright(image: Image.Image) -> Image.Image:
    """Return the image turned as its EXIF orientation says."""
    if isinstance(image, TiffImageFile):
        image.filename = ""  # Pillow maps an uncompressed turned TIFF into memory with width and height swapped
    return ImageOps.exif_transpose(image)


def _pixels(image: Image.Image) -> np.ndarray:
    """Return the stored values, upright; of a TIFF in its own type, where Pillow has another of the same bits."""
    signed, unsigned = _is_signed(image), image.mode == "I" and _sample_format(image) == (_UNSIGNED, 32)
    pixels = np.array(_upright(image))
    return pixels.view(np.int8) if signed else pixels.view(np.uint32) if unsigned else pixels


def _is_signed(image: Image.Image) -> bool:
    """Return whether grey values of 8 bits are signed, which Pillow does not know of."""
    return image.mode == "L" and _sample_format(image) == (_SIGNED, 8)


def _sample_format(image: Image.Image) -> tuple[int, int] | None:
    """Return how a TIFF of one channel stores numbers, and their bits."""
    if not isinstance(image, TiffImageFile):
        return None
    formats, bits = image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,)), image.tag_v2.get(_BITS, (1,))
    return formats[0], bits[0]


def upright(pixels: np.ndarray, orientation: int | None) -> np.ndarray:
    """Turn pixels as `ImageOps.exif_transpose` turns an image.

    Args:
        pixels: ``(H, W)`` or ``(H, W, n)`` as they are stored.
        orientation: of EXIF, 1 to 8; None: upright already.

    Returns:
        The pixels, turned.

    Example:
        >>> upright(np.array([[1, 2, 3]]), 6).tolist()
        [[1], [2], [3]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _pages(image: Image.Image, path: Path) -> int:
    if image.format == "MPO":
        return 1  # the second picture of a camera is a preview
    if not isinstance(image, TiffImageFile):
        return getattr(image, "n_frames", 1)
    for number in range(1, MAX_PAGES + 1):
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return number
    raise ValueError(f"{path}: has more than the {MAX_PAGES} pages that can be read: split it")
