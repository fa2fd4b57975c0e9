"""Judge boxes and images as files state them: what is usable, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hccvision.contracts.samples import Annotation, Problem
from hccvision.images.read import image_size

SNAP = 0.02  # pixels by which a rounded coordinate may pass the edge: COCO's two decimals, YOLO's six


class StatedBox(NamedTuple):
    """A box as an annotation file states it.

    Args:
        label: how messages call the object, such as ``"line 3"``.
        name: its class name.
        corners: ``x1, y1, x2, y2`` in pixels, 0-based, half-open; NaN where the file states no numbers.
        text: the box in the file's words, for messages.
        difficult: whether it is marked as difficult.
        crowd: whether it is a region with a group of objects.
    """

    label: str
    name: str
    corners: Sequence[float]
    text: str
    difficult: bool = False
    crowd: bool = False


def judge_image(path: Path) -> tuple[tuple[int, int] | None, tuple[Problem, ...]]:
    """Read the size of an image, and return the error as a problem if it can't be read.

    Args:
        path: the image file.

    Returns:
        ``(height, width)`` or None, and an ``unreadable_image`` problem or none.
    """
    try:
        return image_size(path), ()
    except (ValueError, OSError) as error:
        message = str(error).removeprefix(f"{path}: ")
        return None, (Problem("unreadable_image", str(path), message, False),)


def judge_boxes(boxes: Iterable[StatedBox], size: tuple[int, int] | None, **fields: Any) -> Annotation:
    """Build an annotation from the boxes of a file; what is wrong with them becomes its problems.

    Problems by kind, none of which makes the sample unusable:

    - ``bad_box``: not four finite numbers; left out.
    - ``degenerate_box``: no width or no height; left out.
    - ``box_outside``: extends beyond the image; kept. A coordinate less than `SNAP` pixels beyond the edge is moved
      onto it without a problem.
    - ``box_off_image``: no part of it is inside the image; left out.

    Args:
        boxes: the boxes that the file states.
        size: ``(height, width)`` of the image; None if unknown.
        **fields: fields of the annotation, among them ``path``, which problems name; ``problems`` are earlier ones to
            keep.

    Returns:
        The annotation.

    Example:
        >>> a = judge_boxes([StatedBox("line 1", "hcc", (5, 5, 5, 9), "5 5 5 9")], (50, 60), path=Path("a.txt"))
        >>> len(a), [p.kind for p in a.problems]
        (0, ['degenerate_box'])
    """
    height, width = size or (np.inf, np.inf)
    edges = np.array([width, height, width, height])
    kept: list[tuple[np.ndarray, str, bool, bool]] = []
    problems: list[Problem] = list(fields.pop("problems", ()))
    for stated in boxes:
        box, problem = _judge(stated, edges, size)
        if problem is not None:
            kind, message = problem
            problems.append(Problem(kind, str(fields["path"]), f"{stated.label} ({stated.name!r}) {message}"))
        if box is not None:
            kept.append((box, stated.name, stated.difficult, stated.crowd))
    corners, names, difficult, crowd = zip(*kept, strict=True) if kept else ((),) * 4
    fields |= {"difficult": difficult, "crowd": crowd, "problems": tuple(problems)}
    return Annotation(np.array(corners, np.float32), names, size=size, **fields)


def format_size(size: tuple[int, int] | None) -> str:
    """Return an image size as text, width first.

    Args:
        size: ``(height, width)``; None if unknown.

    Returns:
        The text.

    Example:
        >>> format_size((300, 484))
        '484×300'
    """
    return "unknown" if size is None else f"{size[1]}×{size[0]}"


def _judge(
    stated: StatedBox, edges: np.ndarray, size: tuple[int, int] | None
) -> tuple[np.ndarray | None, tuple[str, str] | None]:
    """Return the box, None if it can't be used, and kind and message of its problem, None if it has none."""
    box = np.array(stated.corners, np.float64)
    if not (np.abs(box) <= np.finfo(np.float32).max).all():
        return None, ("bad_box", f"needs four finite numbers, got {stated.text}; left out: redraw it")
    box = np.where((box < 0) & (box >= -SNAP), 0, np.where((box > edges) & (box <= edges + SNAP), edges, box))
    box = box.astype(np.float32)
    if (box[2:] <= box[:2]).any():
        message = f"needs a width and a height above 0, got {stated.text}; left out: redraw or delete it"
        return None, ("degenerate_box", message)
    if (box >= 0).all() and (box <= edges).all():
        return box, None
    outside = f"({format_size(size)}) with {stated.text}"
    if (box[2:] <= 0).any() or (box[:2] >= edges[:2]).any():
        return None, ("box_off_image", f"lies outside the image {outside}; left out: redraw it")
    return box, ("box_outside", f"extends beyond the image {outside}; kept, to be clipped to the image: redraw it")
