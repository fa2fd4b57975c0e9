"""SSD's grid of default boxes: made, matched with truths, and used to encode and decode boxes. Pure functions.

Default boxes are ``(A, 4) float32`` as ``cx, cy, w, h`` in shares of the image sides. Their order is fixed: map by map
from fine to coarse, row by row, column by column, the shapes of a cell in the order of its `MapSpec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hccvision.boxes import area, cxcywh_to_xyxy, iou, xyxy_to_cxcywh

VARIANCES = (0.1, 0.2)


@dataclass(frozen=True)
class MapSpec:
    """The default boxes of one feature map.

    Args:
        shapes: ``(width, height)`` of each box of a cell, in shares of the image's shorter side.
        size: rows and columns of the map in the preset's own network.
        step: distance of neighbouring cells in shares of the image side, where the preset fixes one that is not
            ``1 / size``; used only on a map of the preset's own size.
        centres: boxes are centred on a grid of ``centres × centres`` points in each cell.
    """

    shapes: tuple[tuple[float, float], ...]
    size: int
    step: float | None = None
    centres: int = 1

    @property
    def per_cell(self) -> int:
        """How many boxes a cell of this map has."""
        return len(self.shapes) * self.centres**2


@dataclass(frozen=True)
class DefaultBoxSpec:
    """A set of default boxes as data.

    Args:
        maps: from fine to coarse.
        strides: of the backbone's maps that the first of ``maps`` stand on; the others are extra layers of the head.
        clip: cut ``cx, cy, w, h`` off at [0, 1], as pytorch-ssd does.

    Example:
        >>> spec = DefaultBoxSpec((MapSpec(((0.2, 0.2),), size=2), MapSpec(((0.5, 0.5),), size=1)), strides=(16, 32))
        >>> generate(spec).shape
        torch.Size([5, 4])
    """

    maps: tuple[MapSpec, ...]
    strides: tuple[int, ...] = (16, 32)
    clip: bool = False


def ssd_shapes(
    smallest: float, largest: float | None, ratios: Sequence[float], reference: float = 300
) -> tuple[tuple[float, float], ...]:
    """Give the box shapes of one SSD map: a square, a larger square, and the ratios of the first.

    Args:
        smallest: side of the first square, in pixels of the reference image.
        largest: the second square's side is ``sqrt(smallest · largest)``; None for no second square.
        ratios: width : height; each is followed by its inverse.
        reference: side of the reference image in pixels.

    Returns:
        ``(width, height)`` pairs in shares of the image side.

    Example:
        >>> [(round(w, 4), round(h, 4)) for w, h in ssd_shapes(60, 105, (2,))]
        [(0.2, 0.2), (0.2646, 0.2646), (0.2828, 0.1414), (0.1414, 0.2828)]

    Source:
        Liu et al. 2016, SSD, section 2.2, "Choosing scales and aspect ratios for default boxes".
    """
    sides = [smallest] if largest is None else [smallest, math.sqrt(smallest * largest)]
    shapes = [(s, s) for s in sides]
    for ratio in ratios:
        root = math.sqrt(ratio)
        shapes += [(smallest * root, smallest / root), (smallest / root, smallest * root)]
    return tuple((w / reference, h / reference) for w, h in shapes)


def _steps(rows: Sequence[tuple[int, int, float, float, tuple[float, ...]]]) -> tuple[MapSpec, ...]:
    return tuple(MapSpec(ssd_shapes(low, high, ratios), size, step / 300) for size, step, low, high, ratios in rows)


PRESETS: dict[str, DefaultBoxSpec] = {
    # qfgaohao/pytorch-ssd, vision/ssd/config/mobilenetv1_ssd_config.py: the paper's
    "ssd300_mobilenet": DefaultBoxSpec(
        _steps(
            [
                (19, 16, 60, 105, (2, 3)),
                (10, 32, 105, 150, (2, 3)),
                (5, 64, 150, 195, (2, 3)),
                (3, 100, 195, 240, (2, 3)),
                (2, 150, 240, 285, (2, 3)),
                (1, 300, 285, 330, (2, 3)),
            ]
        ),
        clip=True,
    ),
    # chuanqi305/MobileNet-SSD, train.prototxt
    "ssd300_caffe": DefaultBoxSpec(
        (
            MapSpec(ssd_shapes(60, None, (2,)), 19),
            MapSpec(ssd_shapes(105, 150, (2, 3)), 10),
            MapSpec(ssd_shapes(150, 195, (2, 3)), 5),
            MapSpec(ssd_shapes(195, 240, (2, 3)), 3),
            MapSpec(ssd_shapes(240, 285, (2, 3)), 2),
            MapSpec(ssd_shapes(285, 300, (2, 3)), 1),
        )
    ),
    # qfgaohao/pytorch-ssd, vision/ssd/config/vgg_ssd_config.py
    "ssd300_vgg": DefaultBoxSpec(
        _steps(
            [
                (38, 8, 30, 60, (2,)),
                (19, 16, 60, 111, (2, 3)),
                (10, 32, 111, 162, (2, 3)),
                (5, 64, 162, 213, (2, 3)),
                (3, 100, 213, 264, (2,)),
                (1, 300, 264, 315, (2,)),
            ]
        ),
        strides=(8, 16, 32),
        clip=True,
    ),
    # Ours: squares from 4 % of the image side; a box is at least three strides wide, so that neighbours overlap by half
    "lesion": DefaultBoxSpec(
        (
            MapSpec(ssd_shapes(12, 24, ()), 75),
            MapSpec(ssd_shapes(24, 48, (2,)), 38),
            MapSpec(ssd_shapes(48, 96, (2,)), 19),
            MapSpec(ssd_shapes(96, 150, (2, 3)), 10),
            MapSpec(ssd_shapes(150, 195, (2, 3)), 5),
            MapSpec(ssd_shapes(195, 240, (2, 3)), 3),
            MapSpec(ssd_shapes(240, 285, (2, 3)), 2),
            MapSpec(ssd_shapes(285, 330, (2, 3)), 1),
        ),
        strides=(4, 8, 16, 32),
    ),
}


def preset(spec: str | DefaultBoxSpec | Mapping[str, Any]) -> DefaultBoxSpec:
    """Look a set of default boxes up by name; a set given as data is given back.

    Args:
        spec: a name of ``PRESETS``, your own set, or the same as a dictionary, as it stands in a model file.

    Returns:
        The set.

    Raises:
        KeyError: if the name is unknown; the message lists the known ones.

    Example:
        >>> sum(m.per_cell * m.size**2 for m in preset("ssd300_mobilenet").maps)
        3000
    """
    if isinstance(spec, DefaultBoxSpec):
        return spec
    if isinstance(spec, Mapping):
        maps = tuple(MapSpec(**{**m, "shapes": tuple(map(tuple, m["shapes"]))}) for m in spec["maps"])
        return DefaultBoxSpec(maps, tuple(spec["strides"]), spec["clip"])
    if spec not in PRESETS:
        raise KeyError(
            f"unknown set of default boxes {spec!r}; known: {', '.join(PRESETS)}, or a DefaultBoxSpec of your own"
        )
    return PRESETS[spec]


def generate(
    spec: str | DefaultBoxSpec,
    image_size: tuple[int, int] = (300, 300),
    map_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Make the default boxes of a set for one image size.

    A shape that is square in the set stays square in pixels on an image that isn't. On maps of another size than the
    preset's own, cells lie evenly: centres at ``(i + 0.5) / size``.

    Args:
        spec: a name of ``PRESETS``, or your own set.
        image_size: ``(height, width)`` of the model's input in pixels.
        map_sizes: ``(height, width)`` of each feature map; None: the preset's own.

    Returns:
        ``(A, 4) float32`` as ``cx, cy, w, h`` in shares of the image sides, in the preset's fixed order.

    Raises:
        ValueError: if there are not as many map sizes as maps in the set.

    Example:
        >>> generate("ssd300_mobilenet")[0]
        tensor([0.0267, 0.0267, 0.2000, 0.2000])

    Source:
        Liu et al. 2016, SSD, section 2.2.
    """
    spec = preset(spec)
    own = tuple((m.size, m.size) for m in spec.maps)
    sizes = own if map_sizes is None else tuple(map_sizes)
    if len(sizes) != len(own):
        raise ValueError(
            f"this set of default boxes is for {len(own)} feature maps (own sizes {own}), got {len(sizes)}: "
            f"{sizes}; give as many map sizes, or a DefaultBoxSpec with as many maps"
        )
    height, width = image_size
    short = min(image_size)
    parts = []
    for cells, (rows, columns), (own_rows, own_columns) in zip(spec.maps, sizes, own, strict=True):
        step_y, step_x = 1 / rows, 1 / columns
        if cells.step is not None and (rows, columns) == (own_rows, own_columns):
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


def encode(boxes: Tensor, default_boxes: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Write boxes as offsets against default boxes: what the network learns to give.

    Args:
        boxes: ``(..., A, 4)`` as ``cx, cy, w, h``, in the unit of the default boxes, of positive size.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        variances: the units of the centre and of the size offsets.

    Returns:
        ``(..., A, 4)`` offsets.

    Example:
        >>> encode(torch.tensor([0.52, 0.48, 0.3, 0.1]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
        tensor([ 1.0000, -1.0000,  2.0273, -3.4657])

    Source:
        Liu et al. 2016, SSD, equation 2; the variances are those of its Caffe code.
    """
    centre = (boxes[..., :2] - default_boxes[..., :2]) / default_boxes[..., 2:] / variances[0]
    size = (boxes[..., 2:] / default_boxes[..., 2:]).log() / variances[1]
    return torch.cat((centre, size), -1)


def decode(offsets: Tensor, default_boxes: Tensor, variances: tuple[float, float] = VARIANCES) -> Tensor:
    """Read offsets as boxes: the inverse of `encode`.

    Args:
        offsets: ``(..., A, 4)``.
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        variances: as they were encoded with.

    Returns:
        ``(..., A, 4)`` as ``cx, cy, w, h``, in the unit of the default boxes.

    Example:
        >>> decode(torch.tensor([1.0, -1.0, 2.0273, -3.4657]), torch.tensor([0.5, 0.5, 0.2, 0.2]))
        tensor([0.5200, 0.4800, 0.3000, 0.1000])
    """
    centre = default_boxes[..., :2] + offsets[..., :2] * variances[0] * default_boxes[..., 2:]
    size = default_boxes[..., 2:] * (offsets[..., 2:] * variances[1]).exp()
    return torch.cat((centre, size), -1)


class Match(NamedTuple):
    """Which truth each default box stands for.

    Args:
        truth: ``(B, A) int64``, the index of the truth in its row of the targets, −1 for background.
        iou: ``(B, A)`` with that truth, or with the best one for background; 0 where the image has no truth.
    """

    truth: Tensor
    iou: Tensor


def match(default_boxes: Tensor, boxes: Tensor, valid: Tensor, *, iou_threshold: float = 0.5) -> Match:
    """Give every truth a default box of its own, then every default box that overlaps a truth enough to that truth.

    The first step is greedy by overlap over all pairs, so that no truth is lost when two share their best default
    box. An image without truths is all background.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(B, N, 4)`` truths, xyxy in the unit of the default boxes, padded.
        valid: ``(B, N) bool``, False for padding.
        iou_threshold: in [0, 1]; a default box that overlaps its best truth so much is positive.

    Returns:
        The match.

    Raises:
        ValueError: if an image has more truths than there are default boxes.

    Example:
        >>> grid = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> both = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.1, 0.0, 0.5, 1.0]]])   # both fit the left box best
        >>> match(grid, both, torch.ones(1, 2, dtype=torch.bool)).truth
        tensor([[0, 1]])

    Source:
        Liu et al. 2016, SSD, section 2.2, "Matching strategy"; the greedy pairs are those of its Caffe code.
    """
    batch, n, a = *boxes.shape[:2], len(default_boxes)
    if n == 0:
        return Match(torch.full((batch, a), -1, device=boxes.device), boxes.new_zeros(batch, a))
    if n > a and int(valid.sum(1).max()) > a:
        raise ValueError(f"an image has {int(valid.sum(1).max())} truths, but there are only {a} default boxes")
    overlaps = _overlaps(boxes, default_boxes)  # (B, N, A)
    image, number = valid.nonzero(as_tuple=True)  # (W,), the truths that wait for a box
    if len(image) < batch * n:
        overlaps[~valid] = -1.0
    best = overlaps.amax(1)  # (B, A)
    truth = torch.full(best.shape, -1, device=best.device)
    positive = (best >= iou_threshold).nonzero(as_tuple=True)  # few: the truth itself is looked for here only
    truth[positive] = overlaps[positive[0], :, positive[1]].argmax(1)
    best.clamp_(min=0)

    # Pairs are found in rounds: all that are the best left both for their truth and for their default box. None of
    # them could be broken up by a better pair, so this ends in the greedy pairs, mostly in a round or two.
    box = overlaps.argmax(2)[image, number]  # (W,), the one each wants: the first of equals
    while len(image):
        won = overlaps[image, :, box].argmax(1) == number  # none overlaps it better: the first of equals, likewise
        pair = won.nonzero().squeeze(1)
        i, k, b = image[pair], number[pair], box[pair]
        truth[i, b] = k
        best[i, b] = overlaps[i, k, b]
        if len(pair) == len(image):
            break
        overlaps[i, k] = overlaps[i, :, b] = -1.0
        rest = (~won).nonzero().squeeze(1)
        image, number = image[rest], number[rest]
        box = overlaps[image, number].argmax(1)
    return Match(truth, best)


def _overlaps(boxes: Tensor, default_boxes: Tensor, piece: int = 2**18) -> Tensor:
    """Give what `boxes.iou` gives for truths ``(B, N, 4)`` and default boxes: ``(B, N, A)``.

    Done in place on whole coordinates, some images at a time, so that on a CPU it all stays in a core's cache.
    """
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    cx, cy, w, h = default_boxes.to(boxes.dtype).unbind(-1)
    w, h = w * 0.5, h * 0.5
    u1, v1, u2, v2 = cx - w, cy - h, cx + w, cy + h  # each (A,)
    areas = ((u2 - u1) * (v2 - v1)).clamp_(min=torch.finfo(boxes.dtype).tiny)  # no union is 0
    result = boxes.new_empty(*boxes.shape[:2], len(areas))
    images = max(1, piece // result[0].numel()) if boxes.is_cpu else len(boxes)
    for shared, some in zip(result.split(images), boxes.split(images), strict=True):
        x1, y1, x2, y2 = some.unsqueeze(-1).unbind(-2)  # each (b, N, 1)
        other = torch.maximum(x1, u1)
        torch.minimum(x2, u2, out=shared).sub_(other).clamp_(min=0)  # the width
        torch.maximum(y1, v1, out=other)
        shared.mul_(torch.minimum(y2, v2).sub_(other).clamp_(min=0))
        union = torch.add(area(some).unsqueeze(-1), areas, out=other).sub_(shared)
        shared.div_(union)
    return result


def reachable(default_boxes: Tensor, boxes: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Say which truths reach the overlap with any default box: the others are learnt from their one forced box only.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(N, 4)`` truths, xyxy in the unit of the default boxes.
        iou_threshold: in [0, 1].

    Returns:
        ``(N,) bool``.

    Example:
        >>> reachable(generate("ssd300_mobilenet"), torch.tensor([[0.4, 0.4, 0.5, 0.5], [0.3, 0.3, 0.6, 0.6]]))
        tensor([False,  True])
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.bool, device=boxes.device)
    corners = cxcywh_to_xyxy(default_boxes)
    return torch.cat([iou(chunk, corners).max(1).values >= iou_threshold for chunk in boxes.split(256)])


def matched_targets(default_boxes: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Turn a match into what the multibox loss compares with.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``.
        boxes: ``(B, N, 4)`` truths, xyxy in the unit of the default boxes.
        labels: ``(B, N) int64``, class ids ``0 ... K-1``.
        truth: ``(B, A) int64`` from `match`.

    Returns:
        ``(B, A) int64`` classes with background 0 and class ``k`` at ``k + 1``, and ``(B, A, 4)`` encoded offsets,
        0 for background.

    Raises:
        ValueError: if a matched truth has no area.

    Example:
        >>> d = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
        >>> matched_targets(d, cxcywh_to_xyxy(d)[None], torch.tensor([[2]]), torch.tensor([[0]]))
        (tensor([[3]]), tensor([[[0., 0., 0., 0.]]]))
    """
    positive = truth >= 0
    classes = torch.zeros_like(truth)
    offsets = boxes.new_zeros(*truth.shape, 4)
    image, box = positive.nonzero(as_tuple=True)
    index = truth[image, box]
    classes[image, box] = labels[image, index] + 1
    truths = boxes[image, index]
    if not bool((area(truths) > 0).all()):
        raise ValueError("a truth without area can't be encoded: remove degenerate boxes before training")
    offsets[image, box] = encode(xyxy_to_cxcywh(truths), default_boxes[box])
    return classes, offsets
