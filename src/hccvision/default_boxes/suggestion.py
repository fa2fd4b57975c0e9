"""Default boxes fitted to the lesions of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hccvision.boxes.overlap import area
from hccvision.default_boxes.grid import generate
from hccvision.default_boxes.reach import Coverage, coverage
from hccvision.default_boxes.spec import DefaultBoxSpec, MapSpec, ssd_shapes


class Suggestion(NamedTuple):
    """A set of default boxes fitted to a data set.

    Args:
        spec: the set; use it as ``head_options={"default_boxes": suggestion.spec}``.
        before: coverage of the set that it is compared with.
        after: coverage of ``spec``.
    """

    spec: DefaultBoxSpec
    before: Coverage
    after: Coverage


def suggest(
    boxes: Tensor,
    *,
    shapes: int = 9,
    image_size: tuple[int, int] = (300, 300),
    strides: Sequence[int] = (4, 8, 16, 32),
    max_boxes: int = 20_000,
    against: str | DefaultBoxSpec = "ssd300_mobilenet",
) -> Suggestion:
    """Fit scales and aspect ratios of default boxes to a data set: k-means of the ground-truth shapes by IoU.

    Each shape is placed on the coarsest map whose cells are at most a third of its shorter side, so that a lesion
    between two cells still overlaps by half. If that takes more than ``max_boxes``, the larger shapes of the finest map
    move to the next one. Maps without a fitted shape get plain squares, for lesions unlike those of the data set.

    Args:
        boxes: ``(N, 4)`` ground truth of the training set, xyxy in fractions of the image sides.
        shapes: highest number of fitted shapes; of all numbers up to it, the one with the best coverage is used.
        image_size: ``(height, width)`` of the model's input in pixels.
        strides: of the backbone maps that may be used, from fine to coarse, each twice the one before.
        max_boxes: highest number of default boxes in the set.
        against: the set to compare with.

    Returns:
        The set, and the coverage before and after.

    Raises:
        ValueError: without ground truth, for boxes without area, or if ``max_boxes`` is too low for one shape per cell.

    Example:
        >>> lesions = torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.3, 0.3, 0.6, 0.6], [0.1, 0.1, 0.18, 0.2]])
        >>> found = suggest(lesions, shapes=3)
        >>> found.before.reached, found.after.reached
        (1, 3)

    Source:
        Redmon and Farhadi 2017, YOLO9000, arXiv:1612.08242, section 2, "Dimension Clusters".
    """
    if len(boxes) == 0 or bool((area(boxes) <= 0).any()):
        raise ValueError(f"default boxes are fitted to one truth or more, all with an area, got {len(boxes)} truths")
    truths = boxes.cpu()
    sides = (truths[:, 2:] - truths[:, :2]) * torch.tensor(image_size[::-1])
    sample = truths[:: max(1, len(truths) // 500)]  # enough to tell which number of shapes covers most

    def quality(spec: DefaultBoxSpec) -> tuple[int, int]:
        found = generate(spec, image_size)
        return coverage(found, sample).reached, -len(found)

    candidates = [_placed(_cluster(sides, count), image_size, strides, max_boxes) for count in range(1, shapes + 1)]
    spec = max(candidates, key=quality)
    return Suggestion(
        spec, coverage(generate(against, image_size), truths), coverage(generate(spec, image_size), truths)
    )


def _placed(shapes: Tensor, image_size: tuple[int, int], strides: Sequence[int], max_boxes: int) -> DefaultBoxSpec:
    """Place ``(k, 2)`` shapes in pixels on the coarsest maps whose cells are fine enough for them."""
    height, width = image_size
    short = min(image_size)
    ladder = list(strides)  # of all maps, down to a single cell
    while ladder[-1] < max(image_size):
        ladder.append(ladder[-1] * 2)
    cells = [math.ceil(height / s) * math.ceil(width / s) for s in ladder]
    plain = [ssd_shapes(side, min(1.0, side * 1.5), (2,), 1) for side in (c**-0.25 for c in cells)]
    on_map: list[list[list[float]]] = [[] for _ in ladder]
    for shape in sorted(shapes.tolist(), key=min):
        on_map[max((i for i, s in enumerate(ladder) if s <= min(shape) / 3), default=0)].append(shape)
    while True:
        finest = next(i for i, found in enumerate(on_map) if found)
        start = min(finest, len(strides) - 1)
        if sum(c * (len(on_map[i]) or len(plain[i])) for i, c in enumerate(cells) if i >= start) <= max_boxes:
            break
        if finest == len(ladder) - 1:
            raise ValueError(f"{max_boxes} default boxes are too few for images of {height}×{width} pixels")
        on_map[finest + 1].insert(0, on_map[finest].pop())
    maps = [MapSpec(tuple((w / short, h / short) for w, h in found) or plain[i]) for i, found in enumerate(on_map)]
    return DefaultBoxSpec(tuple(maps[start:]), tuple(strides[start:]))


def _cluster(sides: Tensor, count: int) -> Tensor:
    """Compute ``(k, 2)`` shapes, ``k <= count``, of highest IoU with ``(N, 2)`` sides in pixels, all centred alike."""
    sides = (sides * 100).round() / 100  # so that equal lesions in different places are equal

    def overlaps(centres: Tensor) -> Tensor:
        shared = torch.minimum(sides[:, None], centres[None]).prod(-1)
        return shared / (sides.prod(-1)[:, None] + centres.prod(-1)[None] - shared)

    by_area = sides[sides.prod(-1).argsort(stable=True)]
    centres = by_area[torch.linspace(0, len(sides) - 1, min(count, len(sides))).round().long()].unique(dim=0)
    member = torch.full((len(sides),), -1)
    for _ in range(100):
        updated = overlaps(centres).argmax(1)
        if torch.equal(updated, member):
            break
        member = updated
        used = member.unique()
        centres = torch.stack([sides[member == k].median(0).values for k in used])
        member = torch.searchsorted(used, member)
    return centres
