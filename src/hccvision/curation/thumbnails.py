"""Small grey thumbnails of images, and perceptual hashes computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from hccvision.images.formats.picture_ends import require_few_scans
from hccvision.images.image_file import ImageFile
from hccvision.images.read import read_image

THUMBNAIL = 80  # pixels a side: enough for the grain of a slice, few enough to survive a copy at half the size
BITS = 512  # of the hash


def thumbnail(path: str | Path, *, source: BinaryIO | None = None) -> np.ndarray:
    """Read an image as a small grey square, whatever its shape.

    Args:
        path: the image file, of one frame.
        source: the file, already opened in binary mode; it is read from its start and stays open. None opens the path.

    Returns:
        ``(80, 80) uint8``.

    Raises:
        FileNotFoundError: as `grey_picture`.
        ImportError: as `grey_picture`.
        ValueError: as `grey_picture`.
    """
    return shrink(grey_picture(path, source=source))


def grey_picture(path: str | Path, *, source: BinaryIO | None = None) -> Image.Image:
    """Read an image in grey. JPEG files are decoded at reduced size.

    Args:
        path: the image file, of one frame.
        source: the file, already opened in binary mode; it is read from its start and stays open. None opens the path.

    Returns:
        An image of the mode ``"L"``.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded to its end, has no pixels, or holds several frames.
    """
    try:
        with Image.open(ImageFile(Path(path), source).content) as file:
            if file.format == "JPEG":
                require_few_scans(file)
                file.draft("L", (4 * THUMBNAIL, 4 * THUMBNAIL))
                return ImageOps.exif_transpose(file).convert("L")
    except Exception:  # whatever the decoder raises, the reader's message is better
        pass
    return _grey(read_image(path, channels=1, source=source))


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Compute a hash of how an image looks: copies differ in few bits, other pictures in a third or more.

    Each bit states whether a point of a 17 × 17 grid is brighter than its left, or its upper, neighbour.

    Args:
        image: ``(H, W, C) uint8``, 1 or 3 channels.

    Returns:
        ``(64,) uint8``: 512 bits, packed.

    Raises:
        ValueError: if the image is not ``(H, W, 1)`` or ``(H, W, 3)`` uint8.

    Example:
        >>> image = np.arange(6400, dtype=np.uint16).reshape(80, 80, 1).astype(np.uint8)
        >>> hamming(perceptual_hash(image), perceptual_hash(image // 2 + 20)) < 40
        True
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"expected an image (H, W, 1 or 3) uint8, got {image.shape} {image.dtype}: use read_image")
    grey = image[..., 0] if image.shape[2] == 1 else np.asarray(Image.fromarray(image).convert("L"))
    return np.packbits(gradient_bits(shrink(_grey(grey))))


def hamming(one: np.ndarray, other: np.ndarray) -> int:
    """Count the bits in which two hashes differ.

    Args:
        one: a hash from `perceptual_hash`.
        other: another.

    Returns:
        From 0 to 512.

    Example:
        >>> hamming(np.array([0b1100], np.uint8), np.array([0b1001], np.uint8))
        2
    """
    return int(np.unpackbits(one ^ other).sum())


def gradient_bits(picture: np.ndarray) -> np.ndarray:
    """Compute the bits of `perceptual_hash` from a thumbnail.

    Args:
        picture: ``(80, 80) uint8``.

    Returns:
        ``(512,) bool``.
    """
    grid = np.asarray(Image.fromarray(picture.astype(np.float32)).resize((17, 17), Image.Resampling.BOX))
    right, down = grid[:16, 1:] > grid[:16, :-1], grid[1:, :16] > grid[:-1, :16]
    return np.concatenate([right.ravel(), down.ravel()])


def _grey(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.reshape(pixels.shape[:2]))


def shrink(picture: Image.Image) -> np.ndarray:
    """Return the thumbnail of a picture.

    Args:
        picture: of the mode ``"L"``.

    Returns:
        ``(80, 80) uint8``.
    """
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))
