"""Whether a picture's file is whole, judged by its structure: chunks, markers and stated lengths, without decoding.

Source: PNG (W3C, 5.3 chunk layout); JPEG (ITU-T T.81, B.1.1.2 markers); GIF89a, 27 trailer; RIFF, as in WebP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from hccvision.images.image_file import ImageFile

_PNG, _SOI, _SOS, _EOI = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_JP2, _SOC, _SOD = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x93"
_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_MAX_SEARCHED = 2**28  # bytes of a JPEG


def require_whole(file: ImageFile) -> None:
    """Raise if a PNG, JPEG, JPEG 2000, GIF, WebP or BMP ends before its last pixel.

    Args:
        file: the picture; other formats are not judged.

    Raises:
        ValueError: if the file is truncated.
    """
    with file.open() as stream:
        start = stream.read(32)
        length = stream.seek(0, 2)
        if start.startswith(_PNG):
            whole = any(kind == b"IEND" for kind, _ in _chunks(stream, length))
        elif start.startswith((_SOI, _JP2, _SOC)):
            stream.seek(0)
            content = stream.read(_MAX_SEARCHED)
            # the coded data contain neither marker; a thumbnail lies before them
            begin = content.rfind(_SOS if start.startswith(_SOI) else _SOD)
            whole = content.rfind(_EOI) > begin or len(content) == _MAX_SEARCHED
        elif start.startswith((b"GIF87a", b"GIF89a")):
            stream.seek(max(0, length - 1024))
            whole = stream.read().rstrip(b"\0").endswith(b";")
        elif start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            whole = length >= int.from_bytes(start[4:8], "little") + 8
        elif start.startswith(b"BM") and int.from_bytes(start[14:18], "little") >= 40:
            width, height = (abs(int.from_bytes(start[n : n + 4], "little", signed=True)) for n in (18, 22))
            bits, packing = int.from_bytes(start[28:30], "little"), int.from_bytes(start[30:32], "little")
            rows = (width * bits + 31) // 32 * 4 * height
            whole = packing in (1, 2) or length >= int.from_bytes(start[10:14], "little") + rows
        else:
            whole = True
    if not whole:
        raise ValueError(f"truncated: the file ends after {length} bytes, before its last pixel")


def has_late_metadata(file: ImageFile) -> bool:
    """Return whether a PNG has metadata behind its pixels.

    Args:
        file: the PNG.

    Returns:
        Whether texts or EXIF follow; then only decoding tells what they say.
    """
    with file.open() as stream:
        length = stream.seek(0, 2)
        return any(kind in _TEXTS and after for kind, after in _chunks(stream, length))


def _chunks(stream: BinaryIO, length: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the kind of each whole chunk of a PNG, and whether it follows pixels."""
    at, after = len(_PNG), False
    while at + 12 <= length:
        stream.seek(at)
        head = stream.read(8)
        at += int.from_bytes(head[:4], "big") + 12
        if at > length:
            return
        yield head[4:], after
        after = after or head[4:] == b"IDAT"
        if head[4:] == b"IEND":
            return
