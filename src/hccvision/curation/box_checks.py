"""Checks of the boxes of an image: tiny, outside the image, drawn twice; and whether two annotations agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from hccvision.boxes.overlap import iou
from hccvision.contracts.samples import Annotation, Sample
from hccvision.curation.report import Finding

TINY = 2  # pixels: a box no wider or no higher is hardly intended
SAME_BOX = 0.9  # IoU above which two boxes of an image are one drawn twice
MOST = 20  # findings of a kind that are spelt out for one image
MOST_COMPARED = 5000  # distinct boxes of an image that are compared with one another
_BLOCK = 256  # boxes compared with all others at a time


def check_boxes(sample: Sample, size: tuple[int, int] | None) -> Iterator[Finding]:
    """Find boxes that can be read but are odd; at most `MOST` of a kind are spelt out, the rest are counted.

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
    found: Counter[tuple[str, str]] = Counter()
    for finding in _odd_boxes(sample, annotation, size, files):
        found[finding.kind, finding.level] += 1
        if found[finding.kind, finding.level] <= MOST:
            yield finding
    for (kind, level), count in found.items():
        if count > MOST:
            yield Finding(
                kind, level, files, f"and {count - MOST} more of this kind in the image: look at all its boxes"
            )


def _odd_boxes(
    sample: Sample, annotation: Annotation, size: tuple[int, int] | None, files: tuple[str, ...]
) -> Iterator[Finding]:
    reported = any(p.kind in ("box_outside", "size_mismatch") for p in sample.problems)
    for number, (x1, y1, x2, y2) in enumerate(annotation.boxes.tolist(), start=1):
        what = f"box {number} ({annotation.names[number - 1]!r:.80})"
        if min(x2 - x1, y2 - y1) <= TINY:
            message = f"{what} is {x2 - x1:g}×{y2 - y1:g} pixels, perhaps an accidental click: delete or redraw it"
            yield Finding("tiny_box", "warning", files, message)
        if size is not None and not reported and (x1 < 0 or y1 < 0 or x2 > size[1] or y2 > size[0]):
            message = f"{what} reaches outside the image of {size[1]}×{size[0]} pixels: redraw it"
            yield Finding("box_outside", "error", files, message)
    distinct = len(set(zip(map(tuple, annotation.boxes.tolist()), annotation.names, strict=True)))
    if distinct > MOST_COMPARED:
        message = f"only {MOST_COMPARED} of {distinct} boxes are compared with one another: look at the others"
        yield Finding("duplicate_box", "info", files, message)
    for i, j in sorted(_earlier(sample, MOST_COMPARED)):
        one, other = annotation.names[i], annotation.names[j]
        if one == other:
            message = f"boxes {i + 1} and {j + 1} are both {one!r:.80} in the same place: delete one"
            yield Finding("duplicate_box", "warning", files, message)
        else:
            message = (
                f"boxes {i + 1} and {j + 1} in the same place are {one!r:.80} and {other!r:.80}: delete the wrong one"
            )
            yield Finding("contradicting_box", "warning", files, message)


def duplicate_boxes(sample: Sample) -> list[tuple[int, int]]:
    """Find the boxes of a sample that are drawn twice: the same class, and an IoU above 0.9.

    Args:
        sample: a sample, with or without an annotation.

    Returns:
        Pairs of indices ``(first, duplicate)`` into its boxes, one for each duplicate.
    """
    return sorted((i, j) for i, j in _earlier(sample) if sample.names[i] == sample.names[j])


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
    ids, other_ids = _ids(a.names, b.names)
    found = torch.zeros(len(b), dtype=torch.bool)
    for at in range(0, len(a), _BLOCK):
        rows = slice(at, at + _BLOCK)
        near = (iou(mine[rows], theirs) >= 0.5) & (ids[rows, None] == other_ids)
        if not near.any(1).all():
            return False
        found |= near.any(0)
    return bool(found.all())


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


def _earlier(sample: Sample, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield pairs of each box and the first earlier one of its class that it lies on, and of another class.

    With ``most``, only so many of the distinct boxes are compared.
    """
    if sample.annotation is None or len(sample.annotation) < 2:
        return
    (ids,) = _ids(sample.annotation.names)
    keys = np.column_stack([sample.annotation.boxes.astype(np.float64), ids.numpy()])
    _, firsts, places = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    first_of = firsts[places.reshape(-1)]
    again = np.flatnonzero(first_of < np.arange(len(keys)))
    yield from zip(first_of[again].tolist(), again.tolist(), strict=True)
    order = torch.from_numpy(np.sort(firsts)[:most])
    boxes, ids = torch.from_numpy(sample.annotation.boxes)[order], ids[order]
    by_left = boxes[:, 0].argsort(stable=True)  # boxes of such an overlap have their left edges close together
    boxes, ids, order = boxes[by_left], ids[by_left], order[by_left]
    left = boxes[:, 0].contiguous()
    reach = (boxes[:, 2] - left).clamp(min=0) * (1 / SAME_BOX - 1) * 1.01
    beyond = len(sample.annotation)
    for at in range(0, len(boxes), _BLOCK):
        rows = slice(at, at + _BLOCK)
        ends = torch.stack([(left[rows] - reach[rows]).min(), (left[rows] + reach[rows]).max()])
        columns = slice(int(torch.searchsorted(left, ends[0])), int(torch.searchsorted(left, ends[1], right=True)))
        near = (iou(boxes[rows], boxes[columns]) > SAME_BOX) & (order[columns] < order[rows, None])
        same = ids[rows, None] == ids[columns]
        for pairs in (near & same, near & ~same):
            first = torch.where(pairs, order[columns], beyond).amin(1)
            found = first < beyond
            yield from zip(first[found].tolist(), order[rows][found].tolist(), strict=True)


def _ids(*names: Iterable[str]) -> list[torch.Tensor]:
    """Return a number for each name, the same for equal ones."""
    known: dict[str, int] = {}
    return [torch.tensor([known.setdefault(name, len(known)) for name in some]) for some in names]
