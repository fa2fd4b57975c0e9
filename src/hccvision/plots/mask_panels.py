"""Predicted and true label maps as contours over the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hccvision.plots.labels import fit_text
from hccvision.plots.panels import check_images, grid_of_panels
from hccvision.plots.style import HIT, INK, TRUTH, as_written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def masks(
    images: Sequence[np.ndarray],
    predicted: Sequence[Any],
    truths: Sequence[Any | None],
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Plot the outlines of predicted and true label maps over the images.

    Args:
        images: N of ``(H, W, C) uint8``, of any sizes; 3 channels are RGB, else the first channel is shown.
        predicted: N label maps ``(H, W)`` of integers, arrays or CPU tensors; −1 is ignored.
        truths: N label maps, or None where the truth is unknown.
        titles: N texts, such as file names, shortened in the middle where they are too long; None: no titles.

    Returns:
        The figure, one panel per image, at most four side by side.

    Raises:
        ValueError: if the sequences are empty or differ in length, an image is not ``(H, W, C) uint8``, or a label map
            does not have the size of its image.
        ImportError: if matplotlib is missing.

    Example:
        >>> label_map = np.zeros((48, 64), np.int64)
        >>> label_map[10:30, 20:40] = 1
        >>> figure = masks([np.zeros((48, 64, 1), np.uint8)], [label_map], [None], titles=["a.png"])
        >>> figure.axes[0].get_title(loc="left")
        'a.png'
    """
    check_images(images, predicted=predicted, truths=truths, titles=titles)
    for i, image in enumerate(images):
        for label_map in (predicted[i], truths[i]):
            if label_map is not None and tuple(np.shape(label_map)) != image.shape[:2]:
                raise ValueError(f"image {i}: expected a label map {image.shape[:2]}, got {tuple(np.shape(label_map))}")
    figure, panels = grid_of_panels(images, "Masks", columns=4, head=0.15 if titles is None else 0.3, foot=0.4)

    from matplotlib.lines import Line2D

    for i, axes in enumerate(panels):
        if truths[i] is not None:
            _outline_regions(axes, np.asarray(truths[i]), TRUTH, 2.0, "solid")
        _outline_regions(axes, np.asarray(predicted[i]), HIT, 1.0, "dashed")
        if titles is not None:
            title = axes.set_title("", loc="left", fontsize=8, color=INK, pad=4)
            as_written([title])
            fit_text(title, titles[i], "", axes.get_window_extent().width)
    lines = [Line2D([], [], color=TRUTH, label="truth"), Line2D([], [], color=HIT, ls="--", label="predicted")]
    figure.legend(handles=lines, loc="lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _outline_regions(axes: Axes, label_map: np.ndarray, colour: str, width: float, dashes: str) -> None:
    """Draw the border of each region of one class id."""
    rows, columns = (np.arange(side) + 0.5 for side in label_map.shape)
    for label in np.unique(label_map[label_map >= 0]):
        region = label_map == label
        if not region.all() and min(region.shape) > 1:  # matplotlib needs at least 2 × 2 pixels
            axes.contour(columns, rows, region, levels=[0.5], colors=colour, linewidths=width, linestyles=dashes)
