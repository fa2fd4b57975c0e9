"""YOLO's label files: lines of a class number and a box, and the file of class names.

A line is ``class x y width height``: the number of a class, from 0, and the centre and size of its box as fractions of
the image's sides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hccvision.annotations.judging import StatedBox
from hccvision.annotations.paths import read_text
from hccvision.contracts.samples import Problem

NAMES_FILE = "classes.txt"

_MAX_BYTES = 4 * 2**20  # of a label file
_LINE = re.compile(r"\s*\d+(\s+\S+){4}\s*$", re.MULTILINE)


def has_labels(path: Path) -> bool:
    """Return whether a text file begins with a line of a label file.

    Args:
        path: the file.

    Returns:
        Whether it looks like labels; False for an empty file.
    """
    with path.open("rb") as file:
        return _LINE.match(file.read(200).decode("utf-8", "replace")) is not None


def read_names(files: Sequence[Path], classes: Sequence[str] | None, root: Path) -> list[str]:
    """Return the class names of a data set in the order of their numbers.

    Args:
        files: where ``classes.txt`` may be, used if ``classes`` is None.
        classes: the names; None: the lines of the first of the files that exists.
        root: the data set's folder, for messages.

    Returns:
        The names.

    Raises:
        ValueError: if none of the files exists, or names are empty or not unique.
    """
    if classes is None:
        found = [p for p in files if p.is_file()]
        if not found:
            raise ValueError(f"{root}: there is no {NAMES_FILE}: pass classes= the names, as data.yaml lists them")
        classes = [line.strip() for line in read_text(found[0]).rstrip().splitlines()]
    names = list(classes)
    if not names or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"{root}: expected class names that are unique and not empty, got {names}: correct them")
    return names


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
        if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) >= len(names):
            message = f"line {number} is of the class {word[:20]!r}; left out: it must be from 0 to {len(names) - 1}"
            problems.append(Problem("unknown_category", str(path), message))
            continue
        try:
            x, y, w, h = (float(text) for text in rest)
        except ValueError:
            x = y = w = h = np.nan
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        boxes.append(StatedBox(f"line {number}", names[int(word)], corners, repr(line.strip()[:200])))
    return boxes, problems


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
