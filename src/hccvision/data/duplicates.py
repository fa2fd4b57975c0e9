"""Which samples show the same picture: byte for byte, or changed as copies are (re-encoded, resized, brightened).

Neighbouring slices of a patient look alike, and no coarse hash tells them from copies. So the hash only picks pairs to
look at, and the fine detail decides, which copies share and slices don't.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hccvision import images
from hccvision.contracts import Sample

THUMBNAIL = 80  # pixels a side: enough for the grain of a slice, few enough to survive a copy at half the size
BITS = 512  # of the hash

_ORIENTATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda a: a,
    lambda a: a[:, ::-1],
    lambda a: a[::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a.T,
    lambda a: a.T[:, ::-1],
    lambda a: a.T[::-1],
    lambda a: a.T[::-1, ::-1],
)


def same_content(data: Sequence[Sample]) -> list[list[Sample]]:
    """Group samples whose image files are the same byte for byte.

    Args:
        data: samples; one whose file can't be read is a group of its own.

    Returns:
        The groups, in the order of their first samples.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for key, sample in zip(_contents(data), data, strict=True):
        groups[key].append(sample)
    return list(groups.values())


def thumbnail(path: str | Path) -> np.ndarray:
    """Read an image small and grey, whatever its own shape; fast for JPEG, which is decoded small.

    Args:
        path: the image file, of one frame.

    Returns:
        ``(80, 80) uint8``.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if the file is DICOM or NIfTI and the extra ``medical`` is not installed.
        ValueError: if it can't be decoded to its end, has no pixels, or holds several frames.
    """
    try:
        with Image.open(path) as file:
            if file.format == "JPEG":
                file.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))
                return _small(ImageOps.exif_transpose(file).convert("L"), THUMBNAIL)
    except Exception:  # whatever a decoder raises, the reader says it better
        pass
    return _small(_grey(images.read_image(path, channels=1)), THUMBNAIL)


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Sum up how an image looks: copies differ in few bits, other pictures in a third or more.

    Each bit says whether a point of a 17 × 17 grid is brighter than its left, or its upper, neighbour.

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
    return np.packbits(_bits(_small(_grey(grey), THUMBNAIL)))


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


def near_duplicates(
    data: Sequence[Sample],
    *,
    distance: int = 100,
    similarity: float = 0.955,
    mirrored: bool = False,
    thumbnails: Sequence[np.ndarray | None] | None = None,
) -> list[list[Sample]]:
    """Group samples that show the same picture, also re-encoded, resized, or of other brightness.

    Two are copies if their hashes differ in few bits and their fine detail correlates; copies of copies are in one
    group. Files that are the same byte for byte always are.

    Args:
        data: samples; one whose image can't be read is only with its identical files.
        distance: most differing bits of the 512 of `perceptual_hash`.
        similarity: least correlation of the detail, in [-1, 1]. At 0.955, copies at half the size are found and slices
            of a patient 3 mm apart are not.
        mirrored: also find copies that are flipped or turned by 90, 180 or 270 degrees.
        thumbnails: of the samples, where `thumbnail` has already read them; None for one that can't be read.

    Returns:
        The groups, in the order of their first samples; all samples are in one, most of them alone.

    Raises:
        ValueError: if there are not as many thumbnails as samples.
    """
    if thumbnails is not None and len(thumbnails) != len(data):
        raise ValueError(f"expected a thumbnail, or None, for each of {len(data)} samples, got {len(thumbnails)}")
    root = list(range(len(data)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    def join(i: int, j: int) -> None:
        a, b = sorted((find(i), find(j)))
        root[b] = a

    first: dict[str, int] = {}
    for i, key in enumerate(_contents(data)):
        join(first.setdefault(key, i), i)
    members, pictures = [], []
    for i in first.values():
        picture = thumbnails[i] if thumbnails is not None else _read(data[i].path)
        if picture is not None:
            members.append(i)
            pictures.append(picture)
    for i, j in _copies(pictures, distance, similarity, _ORIENTATIONS if mirrored else _ORIENTATIONS[:1]):
        join(members[i], members[j])
    groups: dict[int, list[Sample]] = {}
    for i, sample in enumerate(data):
        groups.setdefault(find(i), []).append(sample)
    return list(groups.values())


def _contents(data: Sequence[Sample]) -> list[str]:
    """A word for the content of each sample's file, its own for one that can't be read."""
    keys = []
    for number, sample in enumerate(data):
        try:
            keys.append(hashlib.sha256(sample.path.read_bytes()).hexdigest())
        except (OSError, ValueError):
            keys.append(f"unreadable {number}")
    return keys


def _read(path: Path) -> np.ndarray | None:
    try:
        return thumbnail(path)
    except (OSError, ValueError, ImportError):
        return None


def _copies(
    pictures: Sequence[np.ndarray],
    distance: int,
    similarity: float,
    orientations: Sequence[Callable[[np.ndarray], np.ndarray]],
    block: int = 512,
) -> Iterator[tuple[int, int]]:
    """Pairs of indices of thumbnails that are copies, in blocks so that memory stays small."""
    signs = [np.stack([_bits(p) for p in pictures[a : a + block]]) for a in range(0, len(pictures), block)]
    signs = [s.astype(np.float32) * 2 - 1 for s in signs]
    details = [_detail(np.stack(pictures[a : a + block])) for a in range(0, len(pictures), block)]
    for second, start in enumerate(range(0, len(pictures), block)):
        for turn in orientations:
            turned = [np.ascontiguousarray(turn(p)) for p in pictures[start : start + block]]
            plain = turn is orientations[0]
            others = signs[second] if plain else np.stack([_bits(p) for p in turned]).astype(np.float32) * 2 - 1
            fine = details[second] if plain else _detail(np.stack(turned))
            for one in range(second + 1):
                differing = (BITS - signs[one] @ others.T) / 2
                rows, columns = np.nonzero(differing <= distance)
                ordered = one * block + rows < start + columns
                rows, columns = rows[ordered], columns[ordered]
                for k in range(0, len(rows), block):
                    i, j = rows[k : k + block], columns[k : k + block]
                    alike = np.einsum("nd,nd->n", details[one][i], fine[j]) >= similarity
                    yield from zip((one * block + i[alike]).tolist(), (start + j[alike]).tolist(), strict=True)


def _grey(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.reshape(pixels.shape[:2]))


def _small(picture: Image.Image, side: int) -> np.ndarray:
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


def _bits(picture: np.ndarray) -> np.ndarray:
    grid = np.asarray(Image.fromarray(picture.astype(np.float32)).resize((17, 17), Image.Resampling.BOX))
    right, down = grid[:16, 1:] > grid[:16, :-1], grid[1:, :16] > grid[:-1, :16]
    return np.concatenate([right.ravel(), down.ravel()])


def _detail(pictures: np.ndarray) -> np.ndarray:
    """What differs from the mean of each 3 × 3 points, ``(N, 80·80) float32`` of length 1, or 0 where all is flat."""
    padded = np.pad(pictures.astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    fine = padded[:, 1:-1, 1:-1] - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9
    fine = (fine - fine.mean((1, 2), keepdims=True)).reshape(len(pictures), -1)
    length = np.linalg.norm(fine, axis=1, keepdims=True)
    return np.divide(fine, length, out=np.zeros_like(fine), where=length > 1e-3)
