"""Colours of 16 bits in PNG and TIFF files, of which Pillow keeps only the upper 8.

Pillow decodes 16-bit grey in full. So the channels are decoded as grey images: those of a PNG file one by one, since
its filters work on each byte of a pixel alone, and those of a TIFF file side by side, as one image of n times the
width.

Source: PNG (Third Edition), W3C, sections 8 and 9; TIFF 6.0, Adobe, sections 2 and 14.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_PNG = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SINGLE = {258: 16, 262: 1, 277: 1, 339: 1}  # bits, black is zero, samples per pixel, unsigned: of a TIFF file
_WIDTHS, _PREDICTOR, _PLANES, _TILE_WIDTH = (256, 322), 317, 284, 322
_LEFT_OUT = (_PREDICTOR, 274, 338)  # applied here, as is the orientation; extra samples


def deep_colour(image: Image.Image) -> np.ndarray | None:
    """Return the colours of an opened file of 16 bits per channel in full depth.

    Args:
        image: as `PIL.Image.open` returns it, not loaded yet; of several pages the current one.

    Returns:
        ``(H, W, 2 to 4) uint16`` as stored, with alpha; None for other images, which Pillow reads in full.

    Raises:
        ValueError: for a TIFF file whose layout is not supported.
    """
    tile, stream = getattr(image, "tile", None), getattr(image, "fp", None)
    if not tile or stream is None:
        return None
    if image.format == "PNG" and not image.mode.startswith("I") and ";16" in str(tile[0][3]):
        stream.seek(0)
        return _png(stream.read())
    if isinstance(image, TiffImageFile) and len(bits := image.tag_v2.get(258, ())) > 1 and max(bits) > 8:
        stream.seek(0)
        return _tiff(stream.read(), image.tell())
    return None


def _png(content: bytes) -> np.ndarray:
    width, height, _, colour, *_, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    channels = {2: 3, 4: 2, 6: 4}[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-((y - height) // dy), -((x - width) // dx)) for x, y, dx, dy in passes]
    sizes = [(rows, columns) for rows, columns in sizes if rows > 0 and columns > 0]
    expected = sum(rows * (1 + columns * channels * 2) for rows, columns in sizes)
    packed = b"".join(data for kind, data in _chunks(content) if kind == b"IDAT")
    filtered = np.frombuffer(zlib.decompressobj().decompress(packed, expected), np.uint8)
    if len(filtered) < expected:
        raise OSError(f"the pixels break off after {len(filtered)} of {expected} bytes")
    planes: list[list[bytes]] = [[] for _ in range(channels)]
    start = 0
    for rows, columns in sizes:
        part = filtered[start : start + rows * (1 + columns * channels * 2)].reshape(rows, -1)
        start += part.size
        pixels = part[:, 1:].reshape(rows, columns, channels, 2)
        for channel, plane in enumerate(planes):  # each row begins with the number of its filter
            plane.append(np.concatenate([part[:, :1], pixels[:, :, channel].reshape(rows, -1)], 1).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, interlaced)
    return np.stack([_grey_png(header, b"".join(plane)) for plane in planes], axis=-1)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        at += length + 12


def _grey_png(header: bytes, filtered: bytes) -> np.ndarray:
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered, 1)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    with Image.open(io.BytesIO(_PNG + b"".join(parts))) as image:
        return np.array(image).astype(np.uint16)


def _tiff(content: bytes, page: int) -> np.ndarray:
    order = "<" if content[:2] == b"II" else ">"

    def number(form: str, at: int) -> Any:
        return struct.unpack_from(order + form, content, at)[0]

    if number("H", 2) != 42:
        raise ValueError("16-bit colour in a BigTIFF file: save it as PNG")
    at = number("I", 4)
    for _ in range(page):
        at = number("I", at + 2 + 12 * number("H", at))
    entries = {}
    for place in range(at + 2, at + 2 + 12 * number("H", at), 12):
        entries[number("H", place)] = content[place : place + 12]

    def value(tag: int, default: int) -> int:
        if tag not in entries:
            return default
        kind = struct.unpack_from(order + "H", entries[tag], 2)[0]
        return struct.unpack_from(order + ("H" if kind == 3 else "I"), entries[tag], 8)[0]

    channels, predictor = value(277, 1), value(_PREDICTOR, 1)
    if value(_PLANES, 1) != 1 or predictor not in (1, 2) or value(262, 2) != 2:
        raise ValueError("16-bit colour in a TIFF file with separate planes, a predictor or not RGB: save it as PNG")
    width, tile_width = value(256, 0), value(_TILE_WIDTH, 0)
    changes = {**_SINGLE, **{tag: channels * value(tag, 0) for tag in _WIDTHS if tag in entries}}
    for tag, changed in changes.items():
        entries[tag] = struct.pack(order + "HHII", tag, 4, 1, changed)
    for tag in _LEFT_OUT:
        entries.pop(tag, None)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + b"\0" * 4
    content += b"\0" * (len(content) % 2)
    patched = content[:4] + struct.pack(order + "I", len(content)) + content[8:] + directory
    with Image.open(io.BytesIO(patched)) as image:
        values = np.array(image).astype(np.uint16)
    values = values.reshape(values.shape[0], width, channels)
    if predictor == 2:  # each value is the difference to its left neighbour, from the edge of the tile on
        for x in range(0, width, tile_width or width):
            part = values[:, x : x + (tile_width or width)]
            part[:] = np.cumsum(part, axis=1, dtype=np.uint16)
    return values
