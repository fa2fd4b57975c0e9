"""Specification of a set of default boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MapSpec:
    """Default boxes of one feature map.

    Args:
        shapes: ``(width, height)`` of each box of a cell, in fractions of the shorter side of the image.
        size: rows and columns of the map in the network that the set was made for; None: the map of any network.
        step: distance of neighbouring cells in fractions of the image side, where the set fixes one other than
            ``1 / size``; used only on a map of that size.
        centres: boxes are centred on a grid of ``centres × centres`` points in each cell.
    """

    shapes: tuple[tuple[float, float], ...]
    size: int | None = None
    step: float | None = None
    centres: int = 1

    @property
    def per_cell(self) -> int:
        """Number of boxes in each cell of the map."""
        return len(self.shapes) * self.centres**2


@dataclass(frozen=True)
class DefaultBoxSpec:
    """A set of default boxes as plain data.

    Args:
        maps: from fine to coarse.
        strides: of the backbone maps that the first of ``maps`` use; extra layers of the head make the other maps. A
            stride may occur twice: two sets of shapes on one map, such as one with more centres.
        clip: clip ``cx, cy, w, h`` to [0, 1], as pytorch-ssd does.
        unpadded: number of last extra layers whose 3×3 convolution has neither padding nor stride, as in SSD300 on VGG
            from 5×5 on; the other extra layers halve the map, rounding up.

    Example:
        >>> from hccvision.default_boxes.grid import generate
        >>> spec = DefaultBoxSpec((MapSpec(((0.2, 0.2),), size=2), MapSpec(((0.5, 0.5),), size=1)), strides=(16, 32))
        >>> generate(spec).shape
        torch.Size([5, 4])
    """

    maps: tuple[MapSpec, ...]
    strides: tuple[int, ...] = (16, 32)
    clip: bool = False
    unpadded: int = 0

    def halved(self, index: int, size: tuple[int, int]) -> bool:
        """Return whether the extra layer of a map halves the map before it; else it removes two rows and columns.

        Args:
            index: of the map in ``maps``.
            size: ``(height, width)`` of the map before; a map of fewer than three cells can only be halved.

        Returns:
            True if it halves the map.
        """
        return index < len(self.maps) - self.unpadded or min(size) < 3

    def map_sizes(self, finest: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Compute the sizes of all maps from those of the backbone.

        Args:
            finest: ``(height, width)`` of the backbone maps, one for each of ``strides``.

        Returns:
            ``(height, width)`` of each of ``maps``.

        Example:
            >>> spec = DefaultBoxSpec((MapSpec(((0.2, 0.2),)),) * 6, strides=(8, 16), unpadded=2)
            >>> spec.map_sizes([(38, 38), (19, 19)])
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
    """Compute the box shapes of one SSD map: a square, a larger square, and the first one in other aspect ratios.

    Args:
        smallest: side of the first square, in pixels of the reference image.
        largest: the side of the second square is ``sqrt(smallest · largest)``; None for no second square.
        ratios: width : height; each is followed by its inverse.
        reference: side of the reference image in pixels.

    Returns:
        ``(width, height)`` pairs in fractions of the image side.

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
