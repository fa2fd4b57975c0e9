"""Judge boxes and images as files state them: what is usable, and what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hccvision.annotations.names import MOST_LETTERS
from hccvision.annotations.problem_kinds import kinds_that_skip
from hccvision.contracts.samples import Annotation, Problem
from hccvision.images.formats.checks import require_plausible_bytes
from hccvision.images.read import frame_count, image_size, verify_image

UNREAD = kinds_that_skip("object")  # labels that can't be read
LEFT_OUT = kinds_that_skip("box")  # boxes that mark no part of the image
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
    """Read the size of an image from its header, and return as a problem what keeps it from being read as one image.

    Args:
        path: the image file.

    Returns:
        ``(height, width)`` or None, and a problem or none: ``unreadable_image`` (also of an empty file),
        ``truncated_image``, or ``several_frames`` of animations, volumes and multi-frame files.
    """
    size = None
    try:
        with path.open("rb") as source:
            require_plausible_bytes(path)
            size = image_size(path, source=source)
            verify_image(path, source=source)
            count = frame_count(path, source=source)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        reason = error if size is not None else _first_reason(path, error)
        message = str(reason).removeprefix(f"{path}: ")
        kind = "unreadable_image"
        if size is not None and "truncated: " in message:
            kind = "truncated_image"
        return size, (Problem(kind, str(path), message, False),)
    if count == 1:
        return size, ()
    message = f"expected one image, got {count} frames or slices: save the annotated one, or each, as a file of its own"
    return size, (Problem("several_frames", str(path), message, False),)


def _first_reason(path: Path, error: Exception) -> Exception:
    """Return why an image without a readable size can't be read: that it is empty or truncated, or else the error."""
    try:
        verify_image(path)
    except (ValueError, OSError, ImportError, MemoryError) as reason:
        return reason
    return error


def judge_boxes(boxes: Iterable[StatedBox], size: tuple[int, int] | None, **fields: Any) -> Annotation:
    """Build an annotation from the boxes of a file; what is wrong with them becomes its problems.

    Problems by kind; see `without_silent_negatives` for those that make the sample unusable:

    - ``missing_name``: without a class name, or with one of more than 1000 characters; left out.
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
            problems.append(Problem(kind, str(fields["path"]), f"{stated.label} ({stated.name!r:.200}) {message}"))
        if box is not None:
            kept.append((box, stated.name, stated.difficult, stated.crowd))
    corners, names, difficult, crowd = zip(*kept, strict=True) if kept else ((),) * 4
    fields |= {"difficult": difficult, "crowd": crowd, "problems": without_silent_negatives(problems, len(kept))}
    return Annotation(np.array(corners, np.float32), names, size=size, **fields)


def without_silent_negatives(problems: Iterable[Problem], kept: int) -> tuple[Problem, ...]:
    """Return the problems of an annotation, unusable where lesions that the file states would count as absent.

    That is so for each label that could not be read (`UNREAD`), and for each box that was left out (`LEFT_OUT`) if no
    other box remains.

    Args:
        problems: of the annotation.
        kept: number of boxes that remain.

    Returns:
        The problems, in order.

    Example:
        >>> [p.usable for p in without_silent_negatives([Problem("degenerate_box", "a.xml", "has no width")], 0)]
        [False]
    """
    unusable = UNREAD if kept else UNREAD | LEFT_OUT
    return tuple(replace(p, usable=False) if p.kind in unusable else p for p in problems)


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
    if not stated.name.strip():
        return None, ("missing_name", "needs a class name; left out: name its class")
    if len(stated.name) > MOST_LETTERS:
        return None, ("missing_name", f"has a class name of more than {MOST_LETTERS} characters; left out: correct it")
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
