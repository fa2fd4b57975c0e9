"""The structure of a picture's file, read without decoding: whether it looks whole, late metadata, scans.

Source: PNG (W3C, 5.3 chunk layout); JPEG (ITU-T T.81, B.1.1.2 markers); GIF89a, 27 trailer; RIFF, as in WebP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image

from hccvision.images.image_file import ImageFile

_PNG, _SOI, _SOS, _EOI = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_JP2, _SOC, _SOD = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x93"
_TURNING = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")  # kind or keyword of metadata with an orientation
_PIECE = 2**20  # bytes
MAX_SCANNED = 2**31  # pixels of all scans of a JPEG: progressive ones have about 10


def looks_whole(file: ImageFile) -> bool:
    """Return whether a PNG, JPEG, JPEG 2000, GIF, WebP or BMP ends as its format says.

    One that doesn't may be whole nevertheless: data may follow the pixels, and only decoding tells.

    Args:
        file: the picture.

    Returns:
        True also for other formats, which are not judged.
    """
    with file.open() as stream:
        start = stream.read(32)
        length = stream.seek(0, 2)
        if start.startswith(_PNG):
            return any(kind == b"IEND" for kind, _ in _chunks(stream, length))
        if start.startswith((_SOI, _JP2, _SOC)):
            stream.seek(max(0, length - 1024))
            end = stream.read()
            # the coded data contain neither marker; a thumbnail lies before them
            return end.rfind(_EOI) > end.rfind(_SOS if start.startswith(_SOI) else _SOD)
        if start.startswith((b"GIF87a", b"GIF89a")):
            stream.seek(max(0, length - 1024))
            return stream.read().rstrip(b"\0").endswith(b";")
        if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            return length >= int.from_bytes(start[4:8], "little") + 8
        if start.startswith(b"BM") and int.from_bytes(start[14:18], "little") >= 40:
            width, height = (abs(int.from_bytes(start[n : n + 4], "little", signed=True)) for n in (18, 22))
            bits, packing = int.from_bytes(start[28:30], "little"), int.from_bytes(start[30:32], "little")
            rows = (width * bits + 31) // 32 * 4 * height
            return packing in (1, 2) or length >= int.from_bytes(start[10:14], "little") + rows
        return True


def require_few_scans(image: Image.Image) -> None:
    """Refuse a JPEG that takes very long to decode: each of its scans goes through all pixels.

    Args:
        image: a JPEG as `PIL.Image.open` returns it, not loaded yet.

    Raises:
        ValueError: if scans times pixels are more than `MAX_SCANNED`.
    """
    stream: Any = getattr(image, "fp", None)
    pixels = image.width * image.height
    stream.seek(0)
    scans = sum(piece.count(_SOS) for piece in iter(lambda: stream.read(_PIECE), b""))
    stream.seek(0)
    if scans * pixels > MAX_SCANNED:
        raise ValueError(f"it has {scans} scans of {pixels} pixels, more than the {MAX_SCANNED} that can be read")


def has_late_metadata(file: ImageFile) -> bool:
    """Return whether a PNG has metadata behind its pixels that may state an orientation.

    Args:
        file: the PNG.

    Returns:
        Whether EXIF or XMP follow; then only decoding tells what they say.
    """
    with file.open() as stream:
        length = stream.seek(0, 2)
        return any(after and head.startswith(_TURNING) for head, after in _chunks(stream, length))


def _chunks(stream: BinaryIO, length: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the kind of each whole chunk of a PNG, of texts their keyword, and whether it follows pixels."""
    at, after = len(_PNG), False
    while at + 12 <= length:
        stream.seek(at)
        head = stream.read(28)
        kind = head[4:8]
        at += int.from_bytes(head[:4], "big") + 12
        if at > length:
            return
        yield head[8:] if kind in (b"tEXt", b"zTXt", b"iTXt") else kind, after
        after = after or kind == b"IDAT"
        if kind == b"IEND":
            return
