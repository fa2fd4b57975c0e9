"""Generation of the default boxes of a set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hccvision.default_boxes.presets import preset
from hccvision.default_boxes.spec import DefaultBoxSpec


def generate(
    spec: str | DefaultBoxSpec,
    image_size: tuple[int, int] = (300, 300),
    map_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Generate the default boxes of a set for one image size.

    A shape that is square in the set is square in pixels, also on an image that is not square. On maps of another size
    than the set states, cells are spaced evenly: centres at ``(i + 0.5) / size``.

    Args:
        spec: a name in ``PRESETS``, or a set.
        image_size: ``(height, width)`` of the model's input in pixels.
        map_sizes: ``(height, width)`` of each feature map; None: the sizes that the set states or, where it states
            none, one cell per stride, each extra map half as large.

    Returns:
        ``(A, 4) float32`` as ``cx, cy, w, h`` in fractions of the image sides, in the fixed order of the set.

    Raises:
        ValueError: if the number of map sizes differs from the number of maps in the set.

    Example:
        >>> generate("ssd300_mobilenet")[0]
        tensor([0.0267, 0.0267, 0.2000, 0.2000])

    Source:
        Liu et al. 2016, SSD, section 2.2.
    """
    spec = preset(spec)
    height, width = image_size
    if map_sizes is not None:
        sizes = tuple(map_sizes)
    elif all(m.size is not None for m in spec.maps):
        sizes = tuple((m.size, m.size) for m in spec.maps if m.size is not None)
    else:
        sizes = tuple(spec.map_sizes([(-(-height // s), -(-width // s)) for s in spec.strides]))
    if len(sizes) != len(spec.maps):
        raise ValueError(
            f"this set of default boxes is for {len(spec.maps)} feature maps (sizes "
            f"{[m.size for m in spec.maps]}), got {len(sizes)}: {sizes}; pass {len(spec.maps)} map sizes, or a "
            f"DefaultBoxSpec with {len(sizes)} maps"
        )
    short = min(image_size)
    parts = []
    for cells, (rows, columns) in zip(spec.maps, sizes, strict=True):
        step_y, step_x = 1 / rows, 1 / columns
        if cells.step is not None and rows == columns == cells.size:
            step_y = step_x = cells.step
        inner = (torch.arange(cells.centres, dtype=torch.float64) + 0.5) / cells.centres
        shapes = torch.tensor(cells.shapes, dtype=torch.float64) * torch.tensor([short / width, short / height])
        y, x, v, u = torch.meshgrid(
            torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), inner, inner,
            indexing="ij",
        )  # fmt: skip
        centres = torch.stack(((x + u) * step_x, (y + v) * step_y), -1).reshape(-1, 1, 2)
        n = len(cells.shapes)
        parts.append(torch.cat((centres.expand(-1, n, 2), shapes.expand(len(centres), n, 2)), -1).reshape(-1, 4))
    boxes = torch.cat(parts).float()
    return boxes.clamp(0, 1) if spec.clip else boxes
