"""Checks of the boxes of an image: tiny, outside the image, drawn twice; and whether two annotations agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from hccvision import boxes as box_functions
from hccvision.contracts.samples import Sample
from hccvision.curation.report import Finding

TINY = 2  # pixels: a box no wider or no higher is hardly intended
SAME_BOX = 0.9  # IoU above which two boxes of an image are one drawn twice


def check_boxes(sample: Sample, size: tuple[int, int] | None) -> Iterator[Finding]:
    """Find boxes that can be read but are odd.

    Args:
        sample: a sample, with or without an annotation.
        size: ``(height, width)`` of its image in pixels; None where it can't be read.

    Yields:
        Findings of the kinds ``tiny_box``, ``box_outside``, ``duplicate_box`` and ``contradicting_box``.
    """
    annotation = sample.annotation
    if annotation is None:
        return
    files = (str(annotation.path or sample.path),)
    reported = any(p.kind in ("box_outside", "size_mismatch") for p in sample.problems)
    for number, (x1, y1, x2, y2) in enumerate(annotation.boxes.tolist(), start=1):
        what = f"box {number} ({annotation.names[number - 1]!r})"
        if min(x2 - x1, y2 - y1) <= TINY:
            message = f"{what} is {x2 - x1:g}×{y2 - y1:g} pixels, perhaps an accidental click: delete or redraw it"
            yield Finding("tiny_box", "warning", files, message)
        if size is not None and not reported and (x1 < 0 or y1 < 0 or x2 > size[1] or y2 > size[0]):
            message = f"{what} reaches outside the image of {size[1]}×{size[0]} pixels: redraw it"
            yield Finding("box_outside", "error", files, message)
    for i, j in _overlapping(sample):
        one, other = annotation.names[i], annotation.names[j]
        if one == other:
            message = f"boxes {i + 1} and {j + 1} are both {one!r} in the same place: delete one"
            yield Finding("duplicate_box", "warning", files, message)
        else:
            message = f"boxes {i + 1} and {j + 1} in the same place are {one!r} and {other!r}: delete the wrong one"
            yield Finding("contradicting_box", "warning", files, message)


def duplicate_boxes(sample: Sample) -> list[tuple[int, int]]:
    """Find the boxes of a sample that are drawn twice: the same class, and an IoU above 0.9.

    Args:
        sample: a sample, with or without an annotation.

    Returns:
        Pairs of indices ``(first, duplicate)`` into its boxes.
    """
    return [(i, j) for i, j in _overlapping(sample) if sample.names[i] == sample.names[j]]


def agree(one: Sample, other: Sample) -> bool:
    """Return whether two annotations of one picture agree: each box has one of its class with an IoU of at least 0.5.

    Args:
        one: a sample.
        other: another, whose image may have another size.

    Returns:
        True also if one of them has no annotation.
    """
    a, b = one.annotation, other.annotation
    if a is None or b is None:
        return True
    if Counter(a.names) != Counter(b.names):
        return False
    if len(a) == 0:
        return True
    mine, theirs = (torch.from_numpy(relative(x.boxes, x.size or (1, 1))) for x in (a, b))
    same = torch.tensor([[n == m for m in b.names] for n in a.names])
    overlap = box_functions.iou(mine, theirs) * same
    return bool((overlap.amax(1) >= 0.5).all() and (overlap.amax(0) >= 0.5).all())


def relative(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale boxes from pixels to the image's width and height.

    Args:
        boxes: ``(N, 4) float32``, xyxy pixels.
        size: ``(height, width)`` in pixels.

    Returns:
        ``(N, 4) float32``, xyxy in [0, 1] for boxes inside the image.
    """
    height, width = size
    return boxes / np.array([width, height, width, height], np.float32)


def _overlapping(sample: Sample) -> list[tuple[int, int]]:
    if sample.annotation is None or len(sample.annotation) < 2:
        return []
    boxes = torch.from_numpy(sample.annotation.boxes)
    pairs = torch.nonzero(box_functions.iou(boxes, boxes).triu(1) > SAME_BOX)
    return [(i, j) for i, j in pairs.tolist()]
