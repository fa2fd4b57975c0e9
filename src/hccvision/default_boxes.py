"""SSD's grid of default boxes: made, matched with truths, and used to encode and decode boxes. Pure functions.

Default boxes are ``(A, 4) float32`` as ``cx, cy, w, h`` in shares of the image sides. Their order is fixed: map by map
from fine to coarse, row by row, column by column, the shapes of a cell in the order of its `MapSpec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
        size: rows and columns of the map in the preset's own network; None: whatever the network gives.
        step: distance of neighbouring cells in shares of the image side, where the preset fixes one that is not
            ``1 / size``; used only on a map of the preset's own size.
        centres: boxes are centred on a grid of ``centres × centres`` points in each cell.
    """

    shapes: tuple[tuple[float, float], ...]
    size: int | None = None
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
        strides: of the backbone's maps that the first of ``maps`` stand on; the others are extra layers of the head. A
            stride may come twice: two sets of shapes on one map, such as one with more centres.
        clip: cut ``cx, cy, w, h`` off at [0, 1], as pytorch-ssd does.
        unpadded: so many of the last extra layers take their 3×3 convolution without padding and stride, as SSD300 on
            VGG does from 5×5 on; the others halve the map, rounding up.

    Example:
        >>> spec = DefaultBoxSpec((MapSpec(((0.2, 0.2),), size=2), MapSpec(((0.5, 0.5),), size=1)), strides=(16, 32))
        >>> generate(spec).shape
        torch.Size([5, 4])
    """

    maps: tuple[MapSpec, ...]
    strides: tuple[int, ...] = (16, 32)
    clip: bool = False
    unpadded: int = 0

    def halved(self, index: int, size: tuple[int, int]) -> bool:
        """Say whether the extra layer that gives a map halves the one before; else it takes two cells off.

        Args:
            index: of the map in ``maps``.
            size: ``(height, width)`` of the map before; one of fewer than three cells can only be halved.

        Returns:
            Whether it does.
        """
        return index < len(self.maps) - self.unpadded or min(size) < 3

    def map_sizes(self, finest: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Give the sizes of all maps, once those of the backbone are known.

        Args:
            finest: ``(height, width)`` of the backbone's maps, one for each of ``strides``.

        Returns:
            ``(height, width)`` of each of ``maps``.

        Example:
            >>> PRESETS["ssd300_vgg"].map_sizes([(38, 38), (19, 19)])
            [(38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1)]
        """
        sizes = list(finest)
        while len(sizes) < len(self.maps):
            height, width = sizes[-1]
            halved = self.halved(len(sizes), sizes[-1])
            sizes.append(((height + 1) // 2, (width + 1) // 2) if halved else (height - 2, width - 2))
        return sizes


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
    # qfgaohao/pytorch-ssd, vision/ssd/config/vgg_ssd_config.py; on vgg16_ssd
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
        strides=(8, 16),
        clip=True,
        unpadded=2,
    ),
    # torchvision, models/detection/ssd.py: scales are shares of the image, shapes (not centres) are cut off at 1
    "ssd300_torchvision": DefaultBoxSpec(
        tuple(
            MapSpec(tuple((min(w, 1.0), min(h, 1.0)) for w, h in ssd_shapes(low, high, ratios, 1)), size, step / 300)
            for size, step, low, high, ratios in (
                (38, 8, 0.07, 0.15, (2,)),
                (19, 16, 0.15, 0.33, (2, 3)),
                (10, 32, 0.33, 0.51, (2, 3)),
                (5, 64, 0.51, 0.69, (2, 3)),
                (3, 100, 0.69, 0.87, (2,)),
                (1, 300, 0.87, 1.05, (2,)),
            )
        ),
        strides=(8, 16),
        unpadded=2,
    ),
    # Liu et al. 2016: its Caffe code, examples/ssd/ssd_pascal_512.py; for images of 512 pixels
    "ssd512": DefaultBoxSpec(
        tuple(
            MapSpec(ssd_shapes(low, high, ratios, 512), size)
            for size, low, high, ratios in (
                (64, 35.84, 76.8, (2,)),
                (32, 76.8, 153.6, (2, 3)),
                (16, 153.6, 230.4, (2, 3)),
                (8, 230.4, 307.2, (2, 3)),
                (4, 307.2, 384.0, (2, 3)),
                (2, 384.0, 460.8, (2,)),
                (1, 460.8, 537.6, (2,)),
            )
        ),
        strides=(8, 16),
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
        return DefaultBoxSpec(maps, tuple(spec["strides"]), spec["clip"], spec.get("unpadded", 0))
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
        map_sizes: ``(height, width)`` of each feature map; None: the preset's own, or where it has none, one cell per
            stride and each extra map half as large.

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
    height, width = image_size
    if map_sizes is not None:
        sizes = tuple(map_sizes)
    elif all(m.size is not None for m in spec.maps):
        sizes = tuple((m.size, m.size) for m in spec.maps if m.size is not None)
    else:
        sizes = tuple(spec.map_sizes([(-(-height // s), -(-width // s)) for s in spec.strides]))
    if len(sizes) != len(spec.maps):
        raise ValueError(
            f"this set of default boxes is for {len(spec.maps)} feature maps (own sizes "
            f"{[m.size for m in spec.maps]}), got {len(sizes)}: {sizes}; give as many map sizes, or a DefaultBoxSpec "
            "with as many maps"
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


@dataclass(frozen=True)
class Coverage:
    """Which share of the truths reaches the overlap with any default box, in all and by size.

    Args:
        reached: truths that do.
        count: all truths.
        bins: ``(from, to, reached, count)`` for each range of sizes; the size of a truth is the square root of its
            share of the image's area.

    Example:
        >>> print(Coverage(3, 4, ((0.0, 0.1, 0, 1), (0.1, 1.0, 3, 3))))
        75.0 % of 4 truths can reach the overlap (size 0-10 %: 0 of 1; 10-100 %: 3 of 3)
    """

    reached: int
    count: int
    bins: tuple[tuple[float, float, int, int], ...] = ()

    @property
    def share(self) -> float:
        """In [0, 1]; NaN without truths."""
        return self.reached / self.count if self.count else math.nan

    def __str__(self) -> str:
        bins = "; ".join(f"{100 * a:g}-{100 * b:g} %: {reached} of {count}" for a, b, reached, count in self.bins)
        share = f"{100 * self.share:.1f} %" if self.count else "none"
        return f"{share} of {self.count} truths can reach the overlap" + (f" (size {bins})" if bins else "")


def coverage(
    default_boxes: Tensor,
    boxes: Tensor,
    *,
    iou_threshold: float = 0.5,
    edges: Sequence[float] = (0.05, 0.1, 0.15, 0.25, 0.5),
) -> Coverage:
    """Count how many truths can reach the overlap with any default box, by size; the others are hardly learnt.

    Args:
        default_boxes: ``(A, 4)`` as ``cx, cy, w, h``, in shares of the image sides.
        boxes: ``(N, 4)`` truths, xyxy in shares of the image sides.
        iou_threshold: in [0, 1].
        edges: between the ranges of sizes, ascending, in (0, 1).

    Returns:
        The counts; ranges without truths are left out.

    Raises:
        ValueError: for edges out of order or range.

    Example:
        >>> lesions = torch.tensor([[0.4, 0.4, 0.52, 0.52], [0.3, 0.3, 0.6, 0.6]])
        >>> print(coverage(generate("ssd300_mobilenet"), lesions))
        50.0 % of 2 truths can reach the overlap (size 10-15 %: 0 of 1; 25-50 %: 1 of 1)
    """
    limits = [0.0, *edges, 1.0]
    if any(not a < b for a, b in pairwise(limits)):
        raise ValueError(f"edges ascend within (0, 1), got {tuple(edges)}")
    reached = reachable(default_boxes, boxes, iou_threshold=iou_threshold)
    place = torch.bucketize(area(boxes).sqrt(), torch.tensor(edges, device=boxes.device), right=True)
    bins = []
    for number, (low, high) in enumerate(pairwise(limits)):
        members = place == number
        if bool(members.any()):
            bins.append((low, high, int(reached[members].sum()), int(members.sum())))
    return Coverage(int(reached.sum()), len(boxes), tuple(bins))


class Suggestion(NamedTuple):
    """A set of default boxes fitted to a data set.

    Args:
        spec: the set; give it as ``head_options={"default_boxes": suggestion.spec}``.
        before: coverage of the set it was held against.
        after: its own.
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
    """Fit the scales and ratios of default boxes to a data set: k-means of the truths' shapes, by overlap.

    Each shape stands on the coarsest map whose cells are a third of its shorter side or less, so that a lesion between
    two cells still overlaps by half; where that would take too many boxes, the larger shapes of the finest map move up.
    Maps without a shape of the data's get plain squares, for lesions unlike those seen.

    Args:
        boxes: ``(N, 4)`` truths of the training set, xyxy in shares of the image sides.
        shapes: so many at most are fitted; of all numbers up to it the one that covers most is taken.
        image_size: ``(height, width)`` of the model's input in pixels.
        strides: of the backbone's maps that may be used, from fine to coarse, each twice the one before.
        max_boxes: in the whole set.
        against: the set to compare with.

    Returns:
        The set, and the coverage before and after.

    Raises:
        ValueError: without truths, for truths without area, or if ``max_boxes`` are too few for one shape in a cell.

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
    sample = truths[:: max(1, len(truths) // 500)]  # enough to tell which number of shapes does best

    def worth(spec: DefaultBoxSpec) -> tuple[int, int]:
        found = generate(spec, image_size)
        return coverage(found, sample).reached, -len(found)

    candidates = [_fitted(_cluster(sides, count), image_size, strides, max_boxes) for count in range(1, shapes + 1)]
    spec = max(candidates, key=worth)
    return Suggestion(
        spec, coverage(generate(against, image_size), truths), coverage(generate(spec, image_size), truths)
    )


def _fitted(shapes: Tensor, image_size: tuple[int, int], strides: Sequence[int], max_boxes: int) -> DefaultBoxSpec:
    """Put ``(k, 2)`` shapes in pixels on the maps whose cells are fine enough for them."""
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
    """Find ``(k, 2)`` shapes, k at most ``count``, that overlap ``(N, 2)`` sides in pixels best when centred."""
    sides = (sides * 100).round() / 100  # so that equal lesions in different places are equal

    def overlaps(centres: Tensor) -> Tensor:
        shared = torch.minimum(sides[:, None], centres[None]).prod(-1)
        return shared / (sides.prod(-1)[:, None] + centres.prod(-1)[None] - shared)

    by_area = sides[sides.prod(-1).argsort(stable=True)]
    centres = by_area[torch.linspace(0, len(sides) - 1, min(count, len(sides))).round().long()].unique(dim=0)
    member = torch.full((len(sides),), -1)
    for _ in range(100):
        again = overlaps(centres).argmax(1)
        if torch.equal(again, member):
            break
        member = again
        used = member.unique()
        centres = torch.stack([sides[member == k].median(0).values for k in used])
        member = torch.searchsorted(used, member)
    return centres


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
