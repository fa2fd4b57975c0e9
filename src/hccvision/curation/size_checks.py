"""Statements on the sizes of images and boxes, and on the default boxes that can reach them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hccvision.contracts.samples import Sample
from hccvision.curation.box_checks import relative
from hccvision.curation.report import Finding
from hccvision.default_boxes.grid import generate
from hccvision.default_boxes.reach import coverage

PRESETS = ("ssd300_mobilenet", "lesion")  # sets of default boxes whose coverage is computed
MOST_BOXES = 1000  # boxes used for it


def check_sizes(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> Iterator[Finding]:
    """State the sizes of images and boxes.

    Args:
        data: samples.
        sizes: ``(height, width)`` of each image in pixels; None where it can't be read.

    Yields:
        Findings of the kinds ``image_sizes`` and ``box_sizes``.
    """
    known = Counter(size for size in sizes if size is not None)
    if known:
        (height, width), count = known.most_common(1)[0]
        sides = [side for size in known for side in size]
        message = (
            f"{len(known)} image sizes, most often {width}×{height} ({count}×), sides from {min(sides)} to {max(sides)}"
        )
        yield Finding("image_sizes", "info", (), message)
    boxes = _relative_boxes(data, sizes)
    if len(boxes):
        quantiles = np.quantile(np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)), [0, 0.25, 0.5, 0.75, 1]) * 100
        message = (
            "√area of the boxes in % of the image side: least {:.1f}, quartiles {:.1f}, {:.1f}, {:.1f}, most {:.1f}"
        )
        yield Finding("box_sizes", "info", (), message.format(*quantiles))


def check_coverage(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> Iterator[Finding]:
    """State how many boxes each preset of default boxes can reach.

    Args:
        data: samples.
        sizes: ``(height, width)`` of each image in pixels; None where it can't be read.

    Yields:
        Findings of the kind ``default_boxes``, a warning below 90 %.
    """
    boxes = _relative_boxes(data, sizes)
    if not len(boxes):
        return
    some = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), MOST_BOXES)).astype(int)]
    for name in PRESETS:
        result = coverage(generate(name), torch.from_numpy(some))
        low = result.reached < 0.9 * len(some)
        message = f"default boxes {name!r}: {result}" + (
            f", a sample of {len(boxes)}" if len(some) < len(boxes) else ""
        )
        remedy = '; use the set "lesion", or fit one with hv.default_boxes.suggest' if low else ""
        yield Finding("default_boxes", "warning" if low else "info", (), message + remedy)


def _relative_boxes(data: Sequence[Sample], sizes: Sequence[tuple[int, int] | None]) -> np.ndarray:
    """Return ``(N, 4)`` boxes relative to the sides of their images, without crowds."""
    parts = [np.zeros((0, 4), np.float32)]
    for sample, size in zip(data, sizes, strict=True):
        if sample.annotation is not None and size is not None and len(sample.annotation):
            counted = ~np.array(sample.annotation.crowd, bool)
            parts.append(np.clip(relative(sample.annotation.boxes[counted], size), 0, 1))
    boxes = np.concatenate(parts)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]
