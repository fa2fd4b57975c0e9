"""Images in panels, and boxes over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hccvision.plots.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle


def check_image(image: np.ndarray, name: str = "image") -> None:
    """Raise unless an array is an image that can be shown.

    Args:
        image: expected to be ``(H, W, C) uint8`` with at least one pixel.
        name: of the image in the message.

    Raises:
        ValueError: if it is not.
    """
    if image.ndim != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(
            f"{name}: expected (H, W, C) uint8, got {image.shape} {image.dtype}: use images.from_array first"
        )


def check_images(images: Sequence[np.ndarray], **others: Sequence[object] | None) -> None:
    """Raise unless there is at least one image, each can be shown, and every other sequence has as many entries.

    Args:
        images: N arrays, expected to be ``(H, W, C) uint8``.
        others: sequences by name, expected to be of length N; None is skipped.

    Raises:
        ValueError: if they are not.
    """
    counts = {name: len(values) for name, values in others.items() if values is not None}
    if len(images) == 0 or any(count != len(images) for count in counts.values()):
        raise ValueError(f"expected one of each for at least one image, got {len(images)} images and {counts}")
    for i, image in enumerate(images):
        check_image(image, f"image {i}")


def grid_of_panels(
    images: Sequence[np.ndarray], label: str, *, columns: int, head: float, foot: float
) -> tuple[Figure, list[Axes]]:
    """Create a figure with one panel per image, all panels of the same size.

    The layout is fixed in inches, so that labels can be placed by the pixels that they cover.

    Args:
        images: N of ``(H, W, C) uint8``, at least one, of any sizes.
        label: title that `save` writes to the file.
        columns: largest number of panels side by side.
        head: space above each panel, in inches.
        foot: space below the grid, in inches.

    Returns:
        The figure and its N panels, each of which shows its image.
    """
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width, gap = 3.0 if columns > 1 else 4.5, 0.15
    aspect = float(np.clip(np.median([image.shape[0] / image.shape[1] for image in images]), 0.6, 1.4))
    height = width * aspect
    total_width, total_height = gap + columns * (width + gap), rows * (head + height) + foot
    figure = new_figure(total_width, total_height, label, constrained=False)
    panels = []
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        left, bottom = gap + column * (width + gap), total_height - (row + 1) * (head + height)
        axes = figure.add_axes(
            (left / total_width, bottom / total_height, width / total_width, height / total_height),
            facecolor="black",
            xticks=[],
            yticks=[],
        )
        axes.spines[:].set_visible(False)
        show_image(axes, image, aspect)
        panels.append(axes)
    return figure, panels


def show_image(axes: Axes, image: np.ndarray, aspect: float) -> None:
    """Show an image in the centre of a panel; pixel 0 extends from 0 to 1.

    Args:
        axes: the panel.
        image: ``(H, W, C) uint8``; 3 channels are RGB, else the first channel is shown.
        aspect: height of the panel divided by its width.
    """
    height, width, channels = image.shape
    pixels = image if channels == 3 else image[..., 0]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="auto")
    spare_x, spare_y = max(0, height / aspect - width) / 2, max(0, width * aspect - height) / 2
    axes.set_xlim(-spare_x, width + spare_x)
    axes.set_ylim(height + spare_y, -spare_y)


def outline_box(
    axes: Axes, box: Sequence[float], colour: str, width: float, dashes: str = "-", *, label: str | None = None
) -> Rectangle:
    """Draw the outline of a box.

    Args:
        axes: the panel.
        box: ``x1, y1, x2, y2`` in pixels of the image.
        colour: of the line.
        width: of the line, in points.
        dashes: line style of matplotlib.
        label: name in the legend.

    Returns:
        The rectangle drawn.
    """
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box
    rectangle = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=width, ls=dashes, label=label)
    axes.add_patch(rectangle)
    return rectangle
