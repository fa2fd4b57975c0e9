"""File names of images: their stems, and the marks of augmented copies."""

from __future__ import annotations

import re
from pathlib import PurePath

from hccvision.images.read import suffixes

MOST_LETTERS = 1000  # of a class name
MARK = "__aug"  # between a source's name and its copy's number, as in P007_03__aug002.png

_COPY = re.compile(rf"(.+?)(?:{MARK}\d+)+")


def stem(path: PurePath, known: tuple[str, ...] | None = None) -> str:
    """Return a file name without its suffix if that is an image suffix; ``slice.001`` has none.

    Args:
        path: the image file.
        known: the image suffixes, for callers with many files; None: `suffixes`.

    Returns:
        The stem.

    Example:
        >>> stem(PurePath("liver/a.nii.gz")), stem(PurePath("liver/1.2.840.7"))
        ('a', '1.2.840.7')
    """
    known = suffixes() if known is None else known
    name = path.name.lower()
    if not name.endswith(known):
        return path.name
    length = max(len(suffix) for suffix in known if name.endswith(suffix)) if name.count(".") > 1 else len(path.suffix)
    return path.name[: len(path.name) - length] or path.name


def annotation_stem(path: PurePath) -> str:
    """Return the stem of an image's annotation file, cut at the last dot as LabelImg does.

    A registered image suffix of several dots, such as ``.nii.gz``, is one suffix.

    Args:
        path: the image file.

    Returns:
        The stem.

    Example:
        >>> annotation_stem(PurePath("liver/a.nii.gz")), annotation_stem(PurePath("liver/a.b.png"))
        ('a', 'a.b')
    """
    name = path.name.lower()
    has_several_dots = name.count(".") > 1 and name.endswith(tuple(s for s in suffixes() if s.count(".") > 1))
    return stem(path) if has_several_dots else path.stem


def stems(path: PurePath, known: tuple[str, ...] | None = None) -> set[str]:
    """Return the stems that an image's annotation may have: cut at the last dot, or the whole name ``1.2.840.7``.

    Args:
        path: the image file.
        known: the image suffixes, as in `stem`.

    Returns:
        One stem, or two for a name with dots and without an image suffix.

    Example:
        >>> sorted(stems(PurePath("a.png"))), sorted(stems(PurePath("liver/1.2.840.7")))
        (['a'], ['1.2.840', '1.2.840.7'])
    """
    whole = stem(path, known)
    return {whole, path.stem} if whole == path.name else {whole}


def copied_from(path: PurePath) -> str | None:
    """Return the name of the image that an augmented copy was made from, as `expand_dataset` names copies.

    Args:
        path: the image file.

    Returns:
        The stem of the original, also for a copy of a copy; None for any other file.

    Example:
        >>> copied_from(PurePath("yes/P007_03__aug002.png")), copied_from(PurePath("yes/P007_03.png"))
        ('P007_03', None)
    """
    hit = _COPY.fullmatch(stem(path)) if MARK in path.name else None
    return None if hit is None else hit[1]
