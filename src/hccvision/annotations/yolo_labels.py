"""YOLO's label files: lines of a class number and a box, and the file of class names.

A line is ``class x y width height``: the number of a class, from 0, and the centre and size of its box as fractions of
the image's sides. Polygons and oriented boxes, ``class x y x y x y …``, become the boxes that enclose them, and a
confidence after a box is dropped. Keypoints are not read.

Source: https://docs.ultralytics.com/datasets/detect, /segment and /obb
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.paths import read_text
from hccvision.contracts.samples import Problem

_MAX_BYTES = 4 * 2**20  # of a label file
_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$", re.MULTILINE)  # a long polygon may be cut


def has_labels(path: Path) -> bool:
    """Return whether a text file begins with a line of a label file.

    Args:
        path: the file.

    Returns:
        Whether it looks like labels; False for an empty file.
    """
    with path.open("rb") as file:
        return _LINE.match(file.read(200).decode("utf-8", "replace")) is not None


def read_labels(
    path: Path, names: Sequence[str], size: tuple[int, int] | None
) -> tuple[list[StatedBox], list[Problem]]:
    """Read the boxes of a label file.

    Args:
        path: the label file.
        names: class names in the order of their numbers.
        size: ``(height, width)`` of the image; None if it can't be read: then no box is returned.

    Returns:
        The boxes in pixels, and an ``unknown_category`` problem for each line of an unknown class.

    Raises:
        ValueError: if the file is larger than 4 MiB or not UTF-8.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: expected labels of at most {_MAX_BYTES >> 20} MiB, got more: export them again")
    lines = read_text(path).splitlines()
    boxes: list[StatedBox] = []
    problems: list[Problem] = []
    if size is None:
        return boxes, problems
    height, width = size
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, *rest = line.split()
        known = class_number(word)
        if known is None or known >= len(names):
            message = f"line {number} is of the class {word[:20]!r}; left out: it must be from 0 to {len(names) - 1}"
            problems.append(Problem("unknown_category", str(path), message))
            continue
        corners = np.array(_corners(rest)) * (width, height, width, height)
        boxes.append(StatedBox(f"line {number}", names[known], corners.tolist(), repr(line.strip()[:200])))
    return boxes, problems


def class_number(word: str) -> int | None:
    """Return the class number that a line begins with.

    Args:
        word: the first word of the line.

    Returns:
        The number, also of a float without a fraction, as some programs write it; None if it is none.

    Example:
        >>> class_number("2"), class_number("2.0"), class_number("-1"), class_number("hcc")
        (2, 2, None, None)
    """
    return int(float(word)) if re.fullmatch(r"[0-9]{1,9}(\.0*)?", word) else None


def _corners(words: Sequence[str]) -> list[float]:
    """Return corners, as fractions of the sides, of the words after the class; four NaN if they are of no known kind.

    Four numbers are centre and size, and a fifth from 0 to 1 is a confidence. An even number from six is a polygon or
    the corners of an oriented box, which is enclosed. Other counts may be keypoints, or a polygon with a confidence.
    """
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return [np.nan] * 4
    if len(numbers) == 4 or (len(numbers) == 5 and 0 <= numbers[4] <= 1):
        x, y, w, h = numbers[:4]
        return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return [np.nan] * 4
    return [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]


def format_labels(boxes: np.ndarray, numbers: Sequence[int], size: tuple[int, int]) -> str:
    r"""Return the text of a label file.

    Args:
        boxes: ``(N, 4)``, xyxy pixels, inside the image.
        numbers: N class numbers, from 0.
        size: ``(height, width)`` of the image.

    Returns:
        One line per box.

    Example:
        >>> format_labels(np.array([[10, 20, 30, 45]]), [0], (50, 50))
        '0 0.4 0.65 0.4 0.5\n'
    """
    height, width = size
    shares = np.asarray(boxes, np.float64) / [width, height, width, height]
    centred = np.concatenate([(shares[:, :2] + shares[:, 2:]) / 2, shares[:, 2:] - shares[:, :2]], axis=1)
    return "".join(
        " ".join([str(number), *(f"{share:.10g}" for share in row)]) + "\n"
        for number, row in zip(numbers, centred.tolist(), strict=True)
    )


def format_names(names: Sequence[str], place: Path) -> str:
    """Return the text of ``classes.txt``.

    Args:
        names: class names in the order of their numbers.
        place: the file or folder they are for, for the message.

    Returns:
        One line per name.

    Raises:
        ValueError: if a name is not one line of text without outer spaces.
    """
    bad = [name for name in names if not name.strip() or name != name.strip() or len(name.splitlines()) != 1]
    if bad:
        raise ValueError(f"{place}: a class name must be one line of text without outer spaces, got {bad}: rename it")
    return "".join(f"{name}\n" for name in names)
