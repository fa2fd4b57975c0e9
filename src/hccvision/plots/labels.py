"""Labels placed beside their boxes, and text shortened to fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hccvision.contracts.samples import printable
from hccvision.plots.style import DPI, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle
    from matplotlib.text import Text


def place_labels(axes: Axes, labels: Sequence[tuple[Rectangle, str, str]]) -> None:
    """Write labels beside their boxes, inside the panel, overlapping each other and the boxes as little as possible.

    Args:
        axes: panel that holds the boxes.
        labels: box, class name, and the rest of the label, which is never shortened.
    """
    panel = axes.get_window_extent()
    size = 7 if len(labels) <= 6 else 5
    pad = 0.2 * size * DPI / 72  # of the label's frame, in pixels
    boxes = [patch.get_window_extent().extents for patch in axes.patches]
    taken: list[np.ndarray] = []
    for rectangle, name, rest in labels:
        frame = {"boxstyle": "square,pad=0.2", "fc": rectangle.get_edgecolor(), "ec": "none", "alpha": 0.9}
        text = axes.text(0, 0, "", fontsize=size, color="black", ha="left", va="bottom", bbox=frame, clip_on=True)
        as_written([text])
        fit_text(text, name, rest, panel.width - 2 * pad)
        extent = text.get_window_extent()
        w, h = extent.width + 2 * pad, extent.height + 2 * pad
        x1, y1, x2, y2 = rectangle.get_window_extent().extents
        spots = [(x, y) for y in (y2, y1 - h) for x in (x1, x2 - w)]  # above and below
        spots += [(x, y) for x in (x2, x1 - w) for y in (y2 - h, y1)]  # beside
        spots += [(x, y2 - h) for x in (x1, x2 - w)]  # inside
        spots += [(x, y) for y in (y2 + h, y1 - 2 * h) for x in (x1, x2 - w)]  # one line away: less clear
        spots = [(min(max(x, panel.x0), panel.x1 - w), min(max(y, panel.y0), panel.y1 - h)) for x, y in spots]
        areas = np.array([(x, y, x + w, y + h) for x, y in spots])
        cost = 100 * _shared_area(areas, taken) + _shared_area(areas, boxes)
        cost[-4:] += 4 * w * h
        place = areas[int(cost.argmin())]
        taken.append(place)
        x, y = axes.transData.inverted().transform(place[:2] + pad)
        text.set_position((x, y))


def _shared_area(areas: np.ndarray, others: Sequence[Any]) -> np.ndarray:
    """Compute the total area that each of N rectangles, ``(N, 4)`` corners, shares with the others."""
    other = np.reshape(others, (-1, 4))
    sides = np.minimum(areas[:, None, 2:], other[:, 2:]) - np.maximum(areas[:, None, :2], other[:, :2])
    return sides.clip(0).prod(-1).sum(-1)


def fit_text(artist: Text, text: str, rest: str, pixels: float) -> None:
    """Set the text of an artist, shortened in the middle until it is narrow enough.

    Args:
        artist: receives the text.
        text: the part that may be shortened.
        rest: the part that follows and stays whole.
        pixels: largest width.
    """
    text = printable(text)

    def width(kept: int) -> float:
        short = text if kept == len(text) else f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        artist.set_text(short + rest)
        return artist.get_window_extent().width

    if width(len(text)) > pixels:
        width(bisect_left(range(len(text)), True, lo=1, key=lambda kept: width(kept) > pixels) - 1)
